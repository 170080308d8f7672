"""What a search looks at before it starts: facts of the images, and a word on what may be meant
otherwise."""

import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from skdtune import dry_run, preflight
from skdtune.errors import ConfigError
from skdtune.request import Request
from skdtune.warm_start import EarlierBest
from tests.skdtune.builders import CROSS_ENTROPY, NOWHERE, build_space
from tests.trainables.layouts import cub200, cut
from tests.trainables.workers import workers_of
from trainables import data, decoding, methods, sections
from trainables.checkpoint import Checkpoints
from trainables.folders import BrokenFile
from trainables.storage import Folder
from trainables.training import Training

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
    wanted = Request(
        space,
        "tiny",
        Folder(tmp_path / "study"),
        None,
        EarlierBest(),
        {"concurrency": None, "tracking_uri": NOWHERE},
    )
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
    facts = preflight.data_facts(space, Folder(tmp_path / "study"), NOWHERE)
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


@pytest.mark.parametrize(
    ("method", "batch_size", "is_said"),
    [
        ("drg_dsr", 32, True),
        ("drg_dsr", 16, False),
        ("drg_dsr, carry_across_epochs: true", 32, False),
        ("dlb", 32, True),
        ("cross_entropy", 32, False),
    ],
)
def test_a_term_that_waits_for_a_second_batch_in_vain_is_told(method, batch_size, is_said):
    text = CROSS_ENTROPY.replace("batch_size: 32", f"batch_size: {batch_size}")
    text = text.replace("images: 64", "images: 48").replace("cross_entropy}", f"{method}}}")
    facts = preflight.data_facts(build_space(text), Folder("nowhere"), NOWHERE)
    assert facts["train"] < 48
    said = preflight.batch_note(facts["batch_size"], facts["train"], facts["late_terms"])
    term = {"drg_dsr": "loss/dsr", "dlb": "loss/dlb"}.get(method)
    assert (
        f"no epoch has a second batch, with which alone {term} would come in" in said
    ) == is_said


def test_a_disk_without_room_for_checkpoints_is_told(tmp_path, monkeypatch):
    """Two of each trial that runs and one that is being written; of each that has finished one."""
    space = build_space(CROSS_ENTROPY.replace("width: 2", "width: 16"))
    folder = Folder(tmp_path / "new" / "study")
    size = preflight.data_facts(space, folder, NOWHERE)["checkpoint_bytes"]
    saved = Checkpoints(Folder(tmp_path / "saved"), "t")
    next(Training(**space.first_config(), device=torch.device("cpu")).epochs(saved))
    (file,) = (tmp_path / "saved").rglob("state.pt")
    assert 0.9 < size / file.stat().st_size <= 1, "names and the like come on top"

    def told(free: int) -> str:
        there = SimpleNamespace(free=free)
        monkeypatch.setattr(preflight.shutil, "disk_usage", lambda place: there)
        return preflight.room(folder, size, concurrent=4, trials=8)

    assert told(20 * size) == ""
    assert told(20 * size - 1).startswith("if all 8 trials run to the end, ")
    with pytest.raises(ConfigError, match="the checkpoints of 4 trials at once take"):
        told(12 * size - 1)
    assert preflight.room(Folder("s3://bucket/x?region=r"), size, 4, 8) == ""


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is no folder that can be written"):
        preflight.writable(Folder(tmp_path / "file" / "study"))
    preflight.writable(Folder(tmp_path / "new" / "study"))
    assert not (tmp_path / "new").exists()


REHEARSED = """
from trainables.losses import cross_entropy
from trainables.methods import Method

class Mine(Method):
    def __init__(self, model, *, weight: {kind} = 1.0):
        super().__init__(model)

    def losses(self, images, labels):
        logits = self(images)
        {body}
"""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return {}['x']", "mine on small_cnn fails: KeyError: 'x' (trainables/methods/"),
        ("return logits", "fails: TypeError: losses must return the logits and a dictionary"),
        ("raise NotImplementedError", "mine on small_cnn cannot take images of 3x8x8: NotImpl"),
        ("return logits, {'a': cross_entropy(logits, labels).detach()}", "does not require grad"),
        ("return logits, {'a(b)': logits.sum()}", "TypeError: 'a(b)' cannot be the name of a term"),
    ],
)
def test_a_method_that_fails_is_told_before_anything_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, said: str
) -> None:
    text = REHEARSED.replace("{kind}", "float").replace("{body}", body)
    (tmp_path / "trainables" / "methods").mkdir(parents=True)
    (tmp_path / "trainables" / "methods" / "mine.py").write_text(text)
    monkeypatch.setattr(
        methods, "__path__", [*methods.__path__, str(tmp_path / "trainables" / "methods")]
    )
    config = {
        "data": {"name": "synthetic", "images": 32, "batch_size": 8, "image_size": 8},
        "model": {"name": "small_cnn", "width": 2},
        "method": {"name": "mine"},
        "epochs": 1,
    }
    try:
        with pytest.raises(ConfigError) as refused:
            preflight._rehearse(config, preflight.load_data(config))
    finally:
        del sys.modules["trainables.methods.mine"]
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("def __init__(self, model, *, weight: 'Foo' = 1.0):", "name 'Foo' is not defined"),
        ("def __init__(self, model, weight=1.0):", "must be keyword-only"),
        ("def __init__(self, model, **more):", "must be keyword-only"),
    ],
)
def test_a_signature_that_is_no_schema_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    text = REHEARSED.replace("def __init__(self, model, *, weight: {kind} = 1.0):", line)
    (tmp_path / "mine.py").write_text(text.replace("{body}", "return logits, {}"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    try:
        with pytest.raises(BrokenFile, match=re.escape(said)):
            sections.parameters("method", "mine")
    finally:
        del sys.modules["trainables.methods.mine"]
