"""Where a program that runs for hours prints: it goes on when nobody reads any more."""

from typing import Any

from rich.console import Console

from skdtune.errors import silence


class Terminal(Console):
    """Plain lines, as they are. Once they find no taker (a pipe whose reader has ended, a log on a
    full disk) they are kept back, since a search or a training is worth more than they are."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, soft_wrap=True, markup=False, **options)

    def print(self, *words: Any, **options: Any) -> None:
        try:
            super().print(*words, **options)
        except OSError:
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """In rich's own class it ends the program."""
        self.quiet = True
        silence(self.file)
