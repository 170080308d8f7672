"""What a search looks at before it starts: facts of the images, and a word on what may be meant
otherwise."""

import io
import os

import pytest
from rich.console import Console

from skdtune import dry_run, preflight
from skdtune.errors import ConfigError
from skdtune.request import Request
from tests.skdtune.builders import build_space
from tests.trainables.layouts import cub200, cut
from tests.trainables.workers import workers_of
from trainables import data, decoding
from trainables.storage import Folder

SPACE = """
trial:
  data: {{name: cub200, root: {root}, image_size: 72, batch_size: {batch_size}, workers: 2}}
  model: {{name: small_cnn, width: 4}}
  method: {{name: cross_entropy}}
  optim: {{lr: {{type: float, low: 0.01, high: 0.1}}}}
  epochs: 2
search: {{metric: val/accuracy, trials: 2, first_trials: [{{optim/lr: 0.05}}]}}
resources: {{cpu: 1}}
"""


@pytest.fixture(autouse=True)
def _alone():
    data.forget()
    yield
    data.forget()


def checked(tmp_path, batch_size: int) -> str:
    """What `--check` prints."""
    space = build_space(SPACE.format(root=tmp_path, batch_size=batch_size))
    wanted = Request(space, "tiny", Folder(tmp_path / "study"), None, {"concurrency": None})
    out = io.StringIO()
    dry_run.show(wanted, "local", Console(file=out, width=200))
    return out.getvalue()


def test_facts_of_large_images_need_no_worker_and_few_images(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SAMPLED", 2)
    read, inner = [], decoding.reduced
    monkeypatch.setattr(
        decoding, "reduced", lambda path, side: (read.append(path), inner(path, side))[1]
    )
    space = build_space(SPACE.format(root=cub200(tmp_path), batch_size=4))
    facts = preflight.data_facts(space, Folder(tmp_path / "study"))
    assert (facts["train"], facts["validation"], facts["classes"]) == (9, 3, 3)
    assert facts["image"] == [3, 72, 72]
    assert len(read) == 2
    assert workers_of(os.getpid()) == set()


def test_a_cut_off_image_is_found_before_anything_starts(tmp_path):
    root = cub200(tmp_path)
    cut(next(root.rglob("Bird_0009.png")))
    with pytest.raises(ConfigError, match=r"1 of 12 images cannot be read: .*Bird_0009\.png"):
        checked(tmp_path, 4)


@pytest.mark.parametrize(("batch_size", "is_said"), [(9, False), (10, True)])
def test_a_batch_of_more_than_all_images_is_said_once(tmp_path, batch_size, is_said):
    text = checked(cub200(tmp_path), batch_size)
    line = f"data.batch_size: {batch_size} asked; an epoch is one batch of all 9 images"
    assert text.count(line) == is_said
