"""The files of a study that a server keeps beside its runs: leaderboard, best.yaml, the winner's
checkpoint."""

from pathlib import Path

from skdtune import export, formats, leaderboard
from skdtune.errors import ConfigError
from skdtune.records import MODELS, Study

RESULT = "result.json"  # of a final training


def study_files(study: Study, target: Path) -> None:
    """Writes them below `target`: what there is of them now."""
    if study.kind == "training":
        for name in (MODELS, RESULT):
            if study.folder.exists(name):
                study.folder.copy_to(name, target / name)
        return
    board = leaderboard.rank(study)
    (target / "leaderboard.json").write_text(formats.as_json(board), encoding="utf-8")
    (target / "leaderboard.csv").write_text(formats.as_csv(board) + "\n", encoding="utf-8")
    try:
        (target / "best.yaml").write_text(export.text(study), encoding="utf-8")
    except ConfigError:
        return  # no trial has come to its full budget
    newest = board.winner.record.checkpoint
    if newest and study.folder.exists(newest):
        study.folder.copy_to(newest, target / "checkpoint")
