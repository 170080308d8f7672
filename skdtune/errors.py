"""The one error a user's file or flags may cause: every problem at once."""

import atexit
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NoReturn, TextIO

from skdtune import environment, signals
from trainables.folders import BrokenFile

USAGE = 2  # exit code of a mistake in a file or a flag
NOT_DONE = 1  # no trial finished, or it stopped by itself and says why


_WHEN = "(raised as a result of"  # SQLAlchemy says it before what happened


class ConfigError(Exception):
    """What is wrong with a file or with the command line. problems: one line each, place first."""

    def __init__(self, source: str, problems: Sequence[str]):
        super().__init__(source, problems)
        self.source = source
        self.problems = list(problems)

    def __str__(self) -> str:
        count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "1 problem"
        return "\n".join(
            [f"{self.source}: {count}", *(f"  {problem}" for problem in self.problems)]
        )


class NotStarted(Exception):
    """What keeps a program from beginning and is no mistake of its user's; said in one line."""


class Refusals:
    """Collects what is wrong, so that all of it is told at once."""

    def __init__(self):
        self._errors: list[ConfigError] = []

    def add(self, source: str, problems: Sequence[str]) -> None:
        if problems:
            self._errors.append(ConfigError(source, problems))

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the ConfigError that the block raises."""
        try:
            yield
        except ConfigError as error:
            self._errors.append(error)

    def tell(self) -> None:
        """Errors: ConfigError when there is something; with several sources each problem has its
        own."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            lines = [f"{e.source}: {line}" for e in self._errors for line in e.problems]
            raise ConfigError("skdtune", lines)


def first_line(error: BaseException) -> str:
    """Of its text; its kind when it has none."""
    lines = str(error).strip().splitlines()
    lines = [line for line in lines if not line.startswith(_WHEN)] or lines
    return lines[0][:2000] if lines else type(error).__name__


def last_line(error: BaseException) -> str:
    """The same where a traceback stands before it, as in what another process raised."""
    lines = str(error).strip().splitlines()
    return lines[-1][:2000] if lines else type(error).__name__


def without_numbers(text: str) -> str:
    """By which errors of one kind are alike: each has its own process, bytes, epoch."""
    return re.sub(r"[0-9][0-9.]*", "#", text)


def begin() -> None:
    """What a program does first, before its other imports."""
    environment.prepare()
    signals.listen(signals.leave)
    # the last of all: behind it Python forgets its handlers, and a signal would end what is done as
    # if it were not
    atexit.register(signals.listen, signal.SIG_IGN)


def run(main: Callable[[list[str]], int]) -> NoReturn:
    """Runs a program's `main(arguments)` and exits with its code; a ConfigError is printed, code 2,
    and a NotStarted, code 1."""
    signals.listen(signals.stop)
    try:
        code = main(sys.argv[1:])
    except ConfigError as error:
        print(error, file=sys.stderr)
        code = USAGE
    except BrokenFile as error:
        print(ConfigError(error.source, [error.problem]), file=sys.stderr)
        code = USAGE
    except NotStarted as error:
        print(error, file=sys.stderr)
        code = NOT_DONE
    except KeyboardInterrupt as error:
        print("stopped", file=sys.stderr)
        os._exit(signals.exit_code(error))  # Python's own end would wait for a Ray that is starting
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        code = 0
    try:
        if sys.stdout is not None:  # closed before we began
            sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
    except OSError as error:
        silence(sys.stdout)
        print(f"what it printed is lost: {error}", file=sys.stderr)
        code = code or NOT_DONE
    signals.listen(signals.leave)
    sys.exit(code)


def silence(output: TextIO) -> None:
    """Lets go of what could not be printed, which Python would try again, and fail, at the end."""
    with suppress(OSError, ValueError):  # it is no file of the system's
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)
