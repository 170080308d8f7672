"""The benchmarks that need no GPU, one after the other, into one page.

    python -m benchmarks [--only step around ...] [--output benchmarks/RESULTS.md]

Each is a command of its own, with a docstring that says how it measures; the page holds their
tables as they print them, the misses first. About 20 minutes on two cores with nothing beside it;
`make bench` runs it.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.pages import written

PARTS = {
    "step": ["--minutes", "3"],
    "around": ["--rounds", "3"],
    "start": ["--rounds", "4"],
    "searching": [
        *("--seeds", "10", "--only"),
        *("tpe, startup 10; asha as shipped (9, 3)", "tpe, startup 10; none"),
        *("tpe, startup 6; median (9)", "random; asha as shipped (9, 3)"),
    ],
    "memory": ["--rounds", "2", "--images", "20000"],
    "sharing": [
        *("--models", "resnet20", "--together", "1", "2"),
        *("--seconds", "5", "--rounds", "2"),
    ],
    "fused": ["--rounds", "2", "--together", "2", "4"],
}
_LIMIT_S = 900


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args(arguments)
    began = time.monotonic()
    pages = {name: _run(name) for name in options.only}
    minutes = (time.monotonic() - began) / 60
    options.output.write_text(_joined(pages, minutes))
    print(f"{options.output}: {minutes:.1f} minutes")
    return any(page is None for page in pages.values())


def _run(name: str) -> str | None:
    """What the benchmark writes; None when it fails, after it has said why."""
    print(" ".join([name, *PARTS[name]]), file=sys.stderr, flush=True)
    try:
        return written(name, PARTS[name], _LIMIT_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def _joined(pages: dict[str, str | None], minutes: float) -> str:
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {time.strftime('%Y-%m-%d')} in {minutes:.0f} minutes: "
        "machine, versions and commands stand above each table. What was tried against the misses, "
        "and the profiles: docs/decisions.md. Longer runs of the same commands: docs/step.md, "
        "docs/searching.md, docs/methods.md.",
        "",
        "Missed here:",
        "",
    ]
    missed = [
        f"- {name}: {_row(line)}"
        for name, page in pages.items()
        for line in (page or "| the whole benchmark | missed: it failed |\n").splitlines()
        if line.startswith("|") and "missed" in line
    ]
    lines += missed or ["- nothing"]
    for page in pages.values():
        if page is not None:
            lines += ["", re.sub(r"^#", "##", page.strip(), flags=re.MULTILINE)]
    return "\n".join(lines) + "\n"


def _row(line: str) -> str:
    return "; ".join(cell.strip() for cell in line.strip("| \n").split("|") if cell.strip())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
