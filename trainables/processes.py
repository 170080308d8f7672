"""Worker processes that import what they need and not all of the program that starts them."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def nameless_program() -> Iterator[None]:
    """While workers are started. multiprocessing would run the file of the program that this is,
    ours or Ray's, in each worker once more, with all that it imports."""
    program = vars(sys.modules["__main__"])
    kept = {name: program[name] for name in ("__spec__", "__file__") if name in program}
    program.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        program.update(kept)
