"""How much a test does: what every change can afford, or all that is promised (`make faults`)."""

import os


def size(usual: int, promised: int) -> int:
    return promised if os.environ.get("SKDTUNE_FULL_SIZE") == "1" else usual
