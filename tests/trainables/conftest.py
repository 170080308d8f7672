"""What every test of the training shares: the CPU, one thread, no data left from another test."""

import pytest
import torch

from trainables import data


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # equal to the bit: CPU only
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data._build.cache_clear()
    yield
    data._build.cache_clear()
