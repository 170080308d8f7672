"""Which processes make batches, and whether they are gone."""

import contextlib
import time
from pathlib import Path


def workers_of(process: int) -> set[int]:
    """The processes that make batches for it: named by torch, with it as their parent's parent."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            name, _, rest = (entry / "stat").read_text().rpartition(")")
            state, parent = rest.split()[:2]
            grandparent = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1]
            if "pt_data_worker" in name and state != "Z" and int(grandparent) == process:
                found.add(int(entry.name))
    return found


def gone(pids: set[int], within_s: float = 20) -> bool:
    deadline = time.monotonic() + within_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)
