"""The best trials again with other seeds: when they run, what they change, what a resume adds."""

import json

import pytest
from ray.tune.search import Searcher

from skdtune import export, final, formats, pages, records
from skdtune.errors import ConfigError
from skdtune.leaderboard import rank
from skdtune.plan import Plan
from skdtune.records import Record, Study
from skdtune.sampler import OptunaSampler
from skdtune.scheduler import build as build_scheduler
from skdtune.space import SearchSpace
from skdtune.tracked import read_study
from skdtune.tracking import Mirror
from tests.skdtune.builders import (
    CROSS_ENTROPY,
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
    study.space = longer.document
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
    scored(study, t0006=[0.90, 0.70, 0.71], t0005=[0.88, 0.86, 0.87], t0004=0.875)
    scored(study, t0001=[0.82, 0.80, 0.81], t0000=[0.5, 0.5, 0.5])
    board = rank(study)
    assert [row.key for row in board.rows][:4] == ["0005", "0001", "0006", "0004"]
    winner = board.winner
    assert (winner.key, winner.score, winner.seeds) == ("0005", 0.88, 3)
    assert winner.mean == pytest.approx(0.87)
    assert winner.gain == pytest.approx(0.87 - 0.81), "between means"
    assert len(board.rows) == 7, "a repeat is no row of its own"
    assert board.rows[3].mean is None
    assert board.rows[3].gain == pytest.approx(0.875 - 0.82), "one seed against the same one"


def test_what_must_be_beaten_may_win(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.7, 0.7], t0005=[0.8, 0.7, 0.7], t0000=[0.79, 0.8, 0.81])
    assert rank(study).winner.key == "0000"


def lose(study: Study, key: str, status: str) -> None:
    """The last repeat of a trial came to nothing."""
    last = [record for record in study.records.values() if record.repeats == key][-1]
    end(last, status, last.epochs[:1])


@pytest.mark.parametrize("trials", [1, 2])
def test_a_finalist_that_diverged_with_another_seed_gives_its_place_to_the_next(tmp_path, trials):
    study, wanted = searched(tmp_path, trials)
    scored(study, t0006=[0.9, 0.9, 0.9], t0000=[0.1, 0.1, 0.1], t0001=[0.1, 0.1, 0.1])
    lose(study, "0006", records.DIVERGED)
    assert rank(study).winner.key == "0005", "nor does it win before the next one was trained"
    assert not Plan(study, wanted).is_done
    play = player(study, wanted)
    play.run()
    assert play.sampler.suggest("one more") == Searcher.FINISHED
    assert set(repeats_of(study)) == {"0006", "0005", "0001", "0000"} | (
        {"0004"} if trials == 2 else set()
    )
    board = rank(study)
    assert board.winner.key in ("0005", "0004")
    told = "diverged with another seed, so without a mean: trial 0006"
    assert formats.summary(board)[-1] == told
    assert next(row for row in board.rows if row.key == "0006").mean is None


def test_a_repeat_that_failed_keeps_the_ranking_by_scores_and_is_told(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.1, 0.1], t0005=[0.8, 0.8, 0.8])
    assert rank(study).winner.key == "0005"
    lose(study, "0006", records.FAILED)
    board = rank(study)
    assert board.winner.key == "0006"
    assert {row.mean for row in board.rows} == {None}
    assert formats.summary(board)[-1] == (
        "finalists: 7 of 8 repeats have finished; of trial 0006 some failed; until all have, "
        "trials rank by their own seed (--resume trains the rest)"
    )


def test_a_baseline_that_diverged_with_another_seed_leaves_no_gain_of_means(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.8, 0.8])
    lose(study, "0001", records.DIVERGED)
    board = rank(study)
    assert board.winner.mean == pytest.approx(0.8333, abs=1e-3)
    assert board.winner.gain is None
    line = next(line for line in formats.summary(board) if line.startswith("baseline"))
    assert "(winner" not in line


def test_disk_and_memory_agree_in_the_midst_of_the_repeats(tmp_path):
    """A repeat is on disk from when it starts."""
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.1, 0.1], t0005=[0.8, 0.8, 0.8])
    waiting = [record for record in study.records.values() if record.repeats][-3:]
    for record in waiting:
        record.status, record.epochs = records.PENDING, []
    in_memory = rank(study).winner.key
    for record in waiting:
        del study.records[record.key]
    assert rank(study).winner.key == in_memory == "0006"


def test_without_finalists_any_more_scores_decide_again(tmp_path):
    study, _ = searched(tmp_path)
    scored(study, t0006=[0.9, 0.1, 0.1], t0005=[0.8, 0.8, 0.8])
    study.space = build_space(trials=6).document
    board = rank(study)
    assert board.winner.key == "0006"
    assert len(board.rows) == 7


def test_a_setting_that_was_tried_twice_is_one_finalist(tmp_path):
    wanted = space_with()
    study = new_study(tmp_path, wanted)
    play = player(study, wanted)
    play.run(7)
    for number, record in enumerate(study.records.values()):
        finished(record, 0.5 + number / 100)
    twice = study.records["0005"]
    twice.params, twice.config = study.records["0006"].params, study.records["0006"].config
    play.run()
    assert set(repeats_of(study)) == {"0006", "0004", "0001", "0000"}


def test_of_a_space_of_the_baselines_method_the_first_trial_is_the_baseline(tmp_path):
    wanted = build_space(CROSS_ENTROPY, trials=4, finalists={"trials": 1, "seeds": 1})
    study = new_study(tmp_path, wanted)
    play = player(study, wanted)
    play.run()
    assert play.sampler.suggest("one more") == Searcher.FINISHED
    assert len(study.records) == 4 + len(repeats_of(study))
    assert "0000" in repeats_of(study)
    assert rank(study).winner.mean is not None


def test_what_is_to_come_counts_as_work(tmp_path):
    wanted = space_with()
    study = new_study(tmp_path, wanted)
    assert Plan(study, wanted).repeats_to_come == (2 + 2) * 2
    play = player(study, wanted)
    play.run(8)
    assert play.plan.repeats_to_come == 0
    assert play.plan.total == 7 + len([r for r in study.records.values() if r.repeats])


def test_a_final_training_of_seeds_that_have_chosen_since_is_refused(tmp_path):
    study, _ = searched(tmp_path)
    document = export.document(study)
    before = {**document, "provenance": {**document["provenance"], "search_seeds": 1}}
    training = Study("final", "training", before, "tiny", folder=Folder(tmp_path))
    final.add_seeds(training, document["trial"], 2, {})
    final.refuse_seeds_of_search(training, before)
    with pytest.raises(ConfigError, match=r"seed 1, 2, on which .* give another --output"):
        final.refuse_seeds_of_search(training, document)


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
    assert formats.summary(board)[0] == (
        "winner:           trial 0005  val/accuracy 0.8700 (the mean of 3 seeds, 0.8800 in the "
        "search)"
    )
    told = json.loads(formats.as_json(board))["trials"]
    assert [(t["mean"], t["seeds"]) for t in told[:1]] == [(pytest.approx(0.87), 3)]
    single = [t for t in told if t["trial"] in ("0002", "0003", "0004")]
    assert [(t["mean"], t["seeds"]) for t in single] == [(None, 1)] * 3
    assert "mean,seeds" in formats.as_csv(board).splitlines()[0]
    assert "0.8700 (3)" in pages.description(study, "1", "run", {})


def test_a_study_without_finalists_reads_as_before(tmp_path):
    wanted = build_space(trials=6)
    study = new_study(tmp_path, wanted)
    player(study, wanted).run()
    board = rank(study)
    assert "mean (seeds)" not in formats.columns(board)
    assert "mean" not in json.loads(formats.as_json(board))["trials"][0]


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
