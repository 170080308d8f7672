"""The names of metrics."""

import pytest

from trainables import metrics


def test_names():
    assert metrics.score_names("val") == ("val/accuracy", "val/loss", "val/top5", "val/ece")
    assert metrics.loss_name("drg") == "loss/drg"
    for term in ("kl(a)", "acc@1", "a/b", "", "total", 1):
        with pytest.raises(TypeError, match="cannot be the name of a term"):
            metrics.loss_name(term)
