"""What README shows is true: its method trains, its space loads, its commands have these flags."""

import re
from pathlib import Path

import pytest
import torch

from skdtune import export, leaderboard, search, space, sync, train
from skdtune.strict_yaml import parse
from trainables import methods, models

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return found


def test_the_method_it_adds_is_found_and_trains(tmp_path, monkeypatch):
    (tmp_path / "confidence_penalty.py").write_text(block("python"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    backbone = models.build("small_cnn", classes=3, image_shape=(1, 8, 8))
    method = methods.build("confidence_penalty", backbone, weight=0.5)
    labels = torch.tensor([0, 1, 2, 0])
    logits, terms = method.losses(torch.rand(4, 1, 8, 8), labels)
    log_p = logits.log_softmax(dim=1)
    entropy = -(log_p.exp() * log_p).sum(dim=1).mean()
    torch.testing.assert_close(terms["penalty"], -0.5 * entropy)
    sum(terms.values()).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, terms = method.losses(torch.rand(4, 1, 8, 8), labels)
    assert {term.dtype for term in terms.values()} == {torch.float32}


def test_its_space_loads():
    found = space.build(parse(block("yaml"), "README.md"), "readme", "README.md")
    assert set(found.parameters) == {"method/variant", "method/alpha", "method/dsr_temperature"}
    assert found.search.trials == 64


@pytest.mark.parametrize("program", [search, leaderboard, export, sync, train])
def test_its_commands_have_exactly_these_flags(program, capsys):
    name = program.__name__
    # the command's line and the indented ones that continue it
    (usage,) = re.findall(rf"    python -m {name} ((?:\[|CONFIG).*(?:\n {{20,}}.*)*)", README)
    with pytest.raises(SystemExit) as stopped:
        program.main(["--help"])
    assert stopped.value.code == 0
    shown = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert set(re.findall(r"--[a-z-]+", usage)) == shown
