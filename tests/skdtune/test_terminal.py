"""What a long program prints on when its reader has gone."""

import errno
import io
import os
import subprocess
import sys

import pytest

from skdtune import search
from skdtune.session import Ending
from skdtune.terminal import Terminal
from tests.skdtune.builders import mixed_study

_ENDS = """
import sys
from skdtune.errors import run
from skdtune.terminal import Terminal
def main(arguments):
    say = Terminal().print if arguments else print
    say("one")
    if sys.stdout:
        sys.stdin.read()
    say("two")
    return 3
run(main)
"""
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


def test_a_search_that_no_resume_mends_names_none(tmp_path, capsys):
    for for_good in (False, True):
        ending = Ending(
            study=mixed_study(tmp_path),
            stopped="no teacher",
            signal=None,
            mirrored=True,
            seconds=1.0,
            for_good=for_good,
        )
        assert search._conclude(ending, None, Terminal()) == 1
        said = capsys.readouterr().out
        assert "stopped: no teacher" in said
        assert ("--resume" in said) != for_good


def ended(*arguments: str, stdout=subprocess.PIPE) -> tuple[int, str]:
    """Exit code and errors of a program whose reader goes after its first line."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-c", _ENDS, *arguments],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=buffered,
    )
    if process.stdout:
        if arguments:
            process.stdout.readline()
        process.stdout.close()
    process.stdin.close()
    said = process.stderr.read()
    return process.wait(30), said


@pytest.mark.parametrize("arguments", [["long"], []])
def test_a_program_whose_reader_has_gone_ends_as_it_would_have(arguments):
    assert ended(*arguments) == (3, "")


def test_what_cannot_be_printed_is_told():
    with open("/dev/full", "w") as full:
        code, said = ended(stdout=full)
    assert code == 3
    assert said.startswith("what it printed is lost: [Errno 28]")


def test_a_program_may_have_no_output_at_all():
    done = subprocess.run(
        ["bash", "-c", 'exec "$0" -c "$1" >&-', sys.executable, _ENDS],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (3, "")
