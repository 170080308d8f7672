"""Cross entropy equals the numbers and torch's own."""

import pytest
import torch

from tests.trainables.methods.vectors import DTYPES, IMAGES, LABELS, Z, assert_close, tensor
from tests.trainables.tiny import VECTORS, fixed_classifier
from trainables import methods


@pytest.mark.parametrize(("dtype", "error"), DTYPES)
def test_cross_entropy_equals_the_vectors(dtype, error):
    method = methods.build("cross_entropy", fixed_classifier(tensor(Z, dtype)))
    logits, terms = method.losses(IMAGES, LABELS)
    assert torch.equal(logits, tensor(Z, dtype))
    assert list(terms) == ["ce"]
    assert_close(terms["ce"], VECTORS["ce_main"], error)
