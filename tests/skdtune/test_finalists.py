"""The best trials again with other seeds: when they run, what they change, what a resume adds."""

import json

import pytest
from ray.tune.search import Searcher

from skdtune import export, final, leaderboard, pages, records
from skdtune.leaderboard import rank
from skdtune.plan import Plan
from skdtune.records import Record, Study
from skdtune.sampler import OptunaSampler
from skdtune.scheduler import build as build_scheduler
from skdtune.space import SearchSpace
from skdtune.tracked import read_study
from skdtune.tracking import Mirror
from tests.skdtune.builders import (
    EPOCHS,
    Player,
    assert_mirrored,
    build_space,
    end,
    new_study,
    report,
    save,
)
from trainables.storage import Folder

METRIC = "val/accuracy"


def space_with(trials: int = 2, seeds: int = 2, **search: object) -> SearchSpace:
    return build_space(trials=6, finalists={"trials": trials, "seeds": seeds}, **search)


def player(study: Study, wanted: SearchSpace, outcome=lambda record: (records.FINISHED, EPOCHS)):
    plan = Plan(study, wanted)
    return Player(plan, OptunaSampler(wanted, plan), outcome)


def repeats_of(study: Study) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for record in study.records.values():
        if record.repeats:
            found.setdefault(record.repeats, []).append(record.seed)
    return found


def scored(study: Study, **scores: float | list[float]) -> None:
    """Gives the trials these last accuracies: `t0002=0.9`, or of each of its seeds."""
    for name, given in scores.items():
        key, values = name.removeprefix("t"), given if isinstance(given, list) else [given]
        found = [r for r in study.records.values() if key in (r.key, r.repeats)]
        for record, value in zip(found, values, strict=True):
            record.epochs[-1] |= {METRIC: value}


def finished(record: Record, score: float) -> None:
    end(record, records.FINISHED, [report(epoch, score) for epoch in range(1, EPOCHS + 1)])


def searched(folder, trials: int = 2, seeds: int = 2) -> tuple[Study, SearchSpace]:
    """A study whose six trials and baseline have ended and whose finalists were called."""
    wanted = space_with(trials, seeds)
    study = new_study(folder, wanted)
    play = player(study, wanted)
    play.run(7)
    for number, record in enumerate(study.records.values()):
        finished(record, 0.5 + number / 100)
    play.run()
    return study, wanted


def test_the_best_the_baseline_and_the_first_trial_run_again_behind_the_last_trial(tmp_path):
    study, wanted = searched(tmp_path)
    assert list(study.records) == [f"{number:04d}" for number in range(7 + 4 * 2)]
    assert repeats_of(study) == {key: [1, 2] for key in ("0006", "0005", "0001", "0000")}
    for record in list(study.records.values())[7:]:
        first = study.records[record.repeats]
        assert record.role == records.REPEAT
        assert record.is_beside
        assert record.params == first.params
        assert record.config == first.config | {"seed": record.seed}
    assert Plan(study, wanted).is_done


def test_nothing_is_called_while_a_trial_still_runs(tmp_path):
    wanted = space_with()
    study = new_study(tmp_path, wanted)
    play = player(study, wanted)
    play.run(6)
    trial_id, last = play.start()
    assert play.sampler.suggest("too early") is None
    assert not play.plan.is_done
    assert not repeats_of(study)
    play.finish(trial_id, last, records.FINISHED, EPOCHS)
    assert isinstance(play.sampler.suggest("now"), dict)
    assert len(repeats_of(study)) >= 2


def test_repeats_are_no_points_of_the_space(tmp_path):
    study, wanted = searched(tmp_path)
    again = OptunaSampler(wanted, Plan(study, wanted))
    assert len(again.study.trials) == 6
    assert again.suggest("one more") == Searcher.FINISHED
    asha = build_space(trials=6, scheduler={"name": "asha", "grace_period": 1})
    bracket = build_scheduler(asha, study.records.values())._brackets[0]
    assert all(len(rung[1]) == 6 for rung in bracket._rungs)


def test_a_stopped_or_failed_trial_is_no_finalist(tmp_path):
    wanted = space_with(trials=5)
    study = new_study(tmp_path, wanted)
    endings = {"0002": records.STOPPED, "0003": records.DIVERGED, "0004": records.FAILED}
    play = player(study, wanted, lambda r: (endings.get(r.key, records.FINISHED), EPOCHS - 1))
    play.run()
    assert set(repeats_of(study)) == {"0000", "0001", "0005", "0006"}


def test_a_search_in_which_nothing_finished_has_none_and_ends(tmp_path):
    wanted = space_with()
    study = new_study(tmp_path, wanted)
    play = player(study, wanted, lambda record: (records.FAILED, 0))
    play.run()
    assert len(study.records) == 7
    assert play.plan.is_done


def test_a_resume_runs_the_repeats_that_are_missing(tmp_path):
    study, wanted = searched(tmp_path)
    lost = list(study.records)[-3:]
    for key in lost:
        del study.records[key]
    assert not Plan(study, wanted).is_done
    player(study, wanted).run()
    assert repeats_of(study) == {key: [1, 2] for key in ("0006", "0005", "0001", "0000")}


def test_a_longer_search_calls_its_new_best_and_keeps_what_was_trained(tmp_path):
    study, _ = searched(tmp_path)
    longer = build_space(trials=7, finalists={"trials": 2, "seeds": 2})
    before = set(study.records)
    play = player(study, longer)
    (trial_id, record) = play.start()
    finished(record, 0.99)
    play.sampler.on_trial_complete(trial_id, dict(record.last) | {"outcome": records.FINISHED})
    play.run()
    assert set(study.records) - before == {record.key, "0016", "0017"}
    assert repeats_of(study)[record.key] == [1, 2]


def test_the_best_mean_wins_and_not_the_best_score(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.90, 0.70, 0.71], t0005=[0.88, 0.86, 0.87], t0004=0.89)
    scored(study, t0001=[0.82, 0.80, 0.81], t0000=[0.5, 0.5, 0.5])
    board = rank(study)
    assert [row.key for row in board.rows][:4] == ["0005", "0001", "0006", "0004"]
    winner = board.winner
    assert (winner.key, winner.score, winner.seeds) == ("0005", 0.88, 3)
    assert winner.mean == pytest.approx(0.87)
    assert winner.gain == pytest.approx(0.87 - 0.81), "between means"
    assert len(board.rows) == 7, "a repeat is no row of its own"
    assert board.rows[3].mean is None
    assert board.rows[3].gain == pytest.approx(0.89 - 0.82), "one seed against the same one"


def test_what_must_be_beaten_may_win(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.7, 0.7], t0005=[0.8, 0.7, 0.7], t0000=[0.79, 0.8, 0.81])
    assert rank(study).winner.key == "0000"


def test_a_finalist_that_diverged_with_another_seed_falls_behind(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.9, 0.9], t0005=[0.8, 0.8, 0.8])
    last = [r for r in study.records.values() if r.repeats == "0006"][-1]
    end(last, records.DIVERGED, last.epochs[:1])
    board = rank(study)
    assert board.winner.key == "0005"
    assert next(row for row in board.rows if row.key == "0006").mean is None


def test_lower_is_better_of_a_loss(tmp_path):
    study, _ = searched(tmp_path)
    study.space["search"]["metric"] = "val/loss"
    for record in study.records.values():
        value = 0.3 if (record.repeats or record.key) == "0005" else 0.4
        record.epochs[-1]["val/loss"] = value
    study.records["0006"].epochs[-1]["val/loss"] = 0.2  # its luck
    board = rank(study)
    assert board.winner.key == "0005"
    assert board.winner.gain == pytest.approx(0.1)


def test_a_person_and_a_program_are_told(tmp_path, capsys):
    study, _ = searched(tmp_path)
    scored(study, t0005=[0.88, 0.86, 0.87], t0006=[0.9, 0.7, 0.7])
    board = rank(study)
    assert leaderboard.summary(board)[0] == (
        "winner:           trial 0005  val/accuracy 0.8700 (the mean of 3 seeds, 0.8800 in the "
        "search)"
    )
    told = json.loads(leaderboard.as_json(board))["trials"]
    assert [(t["mean"], t["seeds"]) for t in told[:1]] == [(pytest.approx(0.87), 3)]
    assert told[-1]["mean"] is None or told[-1]["seeds"] == 3
    assert "mean,seeds" in leaderboard.as_csv(board).splitlines()[0]
    assert "0.8700 (3)" in pages.description(study, "1", "run", {})


def test_a_study_without_finalists_reads_as_before(tmp_path):
    wanted = build_space(trials=6)
    study = new_study(tmp_path, wanted)
    player(study, wanted).run()
    board = rank(study)
    assert "mean (seeds)" not in leaderboard.columns(board)
    assert "mean" not in json.loads(leaderboard.as_json(board))["trials"][0]


def test_the_final_training_begins_behind_the_seeds_that_chose(tmp_path):
    study, _ = searched(tmp_path)
    document = export.document(study)
    assert document["provenance"]["search_seeds"] == 3
    assert document["provenance"]["search_score"]["seeds"] == 3
    training = Study("final", "training", document, "tiny")
    chosen = final.add_seeds(training, document["trial"], 2, {})
    assert [record.seed for record in chosen] == [3, 4]


def test_mlflow_has_the_repeats_and_gives_the_same_ranking(tmp_path):
    study, _ = searched(tmp_path / "study")
    scored(study, t0005=[0.88, 0.86, 0.87], t0006=[0.9, 0.7, 0.7])
    save(study)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Mirror(study, uri).push(live=False)
    assert_mirrored(uri, study)
    there = read_study(study.name, uri)
    assert repeats_of(there) == repeats_of(study)
    assert [row.key for row in rank(there).rows] == [row.key for row in rank(study).rows]
    assert rank(there).winner.mean == pytest.approx(rank(study).winner.mean)


def test_a_record_on_disk_says_what_it_repeats(tmp_path):
    study, _ = searched(tmp_path)
    save(study)
    there = records.load(Folder(tmp_path))
    assert repeats_of(there) == repeats_of(study)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"trials": 0}, "trials"),
        ({"seeds": 1.5}, "seeds"),
        ({"trails": 3}, "did you mean trials"),
        ([], "must be a section"),
    ],
)
def test_a_wrong_setting_is_told(value, problem):
    with pytest.raises(Exception, match=problem):
        build_space(finalists=value)
