"""What a long program prints on when its reader has gone."""

import errno
import io
import subprocess
import sys

from skdtune import search
from skdtune.session import Ending
from skdtune.terminal import Terminal
from tests.skdtune.builders import mixed_study

_PROGRAM = """
import sys
from skdtune.terminal import Terminal
terminal = Terminal()
terminal.print("one")
sys.stdin.read()
for _ in range(3):
    terminal.print("two")
print("it goes on", file=sys.stderr)
"""


def test_a_program_goes_on_when_its_reader_has_gone():
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "one\n"
    process.stdout.close()
    process.stdin.close()
    assert "it goes on" in process.stderr.read()
    process.wait(30)


class Full(io.StringIO):
    """A log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_costs_the_lines_alone():
    terminal = Terminal(file=Full())
    terminal.print("lost")
    assert terminal.quiet
    terminal.print("kept back")


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_search_whose_reader_has_gone_still_ends_well(tmp_path, monkeypatch):
    ending = Ending(mixed_study(tmp_path), stopped="", signal=None, mirrored=True, seconds=1.0)
    monkeypatch.setattr(sys, "stdout", Closed())
    assert search._conclude(ending, None, Terminal()) == 0
