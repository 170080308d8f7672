"""What a person sees while a search runs."""

import io

import pytest
from rich.console import Console

from skdtune import progress, records
from skdtune.plan import Plan
from skdtune.progress import Progress
from tests.skdtune.builders import (
    build_space,
    curve,
    end,
    mixed_study,
    new_study,
    report,
)


def plain() -> Console:
    return Console(file=io.StringIO(), width=300)


def text(console: Console) -> str:
    return console.file.getvalue()


def shown(study, **search) -> Progress:
    return Progress(Plan(study, build_space(**search)), plain())


def test_a_trial_that_starts_and_one_that_ends_have_a_line_each(tmp_path):
    study = new_study(tmp_path)
    found = shown(study)
    default, baseline = study.records.values()
    default.status = records.RUNNING
    found.changed(default)
    assert text(found.console) == (
        "trial 0000 starts (authors' default: method/variant drg_dsr, "
        "method/drg_temperature 4, method/alpha 0.2, method/beta 1)\n"
    )
    default.add(report(1, 0.5))
    found.changed(default)
    end(default, records.FINISHED, [report(1, 0.5), report(4, 0.75)])
    found.ended(default)
    end(baseline, records.FAILED, [], "ValueError: [red] no [/red]")
    found.ended(baseline)
    lines = text(found.console).splitlines()[1:]
    assert lines[0].startswith("trial 0000 finished epoch 4/4  val/accuracy 0.7500  (authors'")
    assert lines[1] == (
        "trial 0001 failed   epoch 0/4  no result  (baseline): ValueError: [red] no [/red]"
    )


def test_a_value_with_brackets_is_shown_as_it_is(tmp_path):
    study = new_study(tmp_path)
    record = study.records["0000"]
    record.status, record.params = records.RUNNING, {"method/variant": "[/bold] [drg]"}
    found = shown(study)
    found.changed(record)
    assert "method/variant [/bold] [drg]" in text(found.console)


def test_plain_lines_come_now_and_then_and_count_what_there_is(tmp_path, monkeypatch):
    study = mixed_study(tmp_path, unfinished=True)
    study.records["0006"].status = records.RUNNING
    found = shown(study)
    found.refresh()
    assert text(found.console) == "", "not before its time"
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.0)
    found.next_refresh = 0.0
    found.refresh()
    line = text(found.console).strip()
    assert line.startswith("6 of 8 trials ended; 1 running; 1 stopped; 1 diverged; 1 failed; best ")
    best = max(
        study.records[key].last["val/accuracy"] for key in ("0000", "0002")
    )  # at the full budget, the baseline aside
    gain = best - study.records["0001"].last["val/accuracy"]
    assert f"best val/accuracy {best:.4f} (trial " in line
    assert f"{gain:+.4f} against the baseline)" in line
    assert line.endswith("time left unknown")


def test_a_search_without_a_node_says_so_now_and_then(tmp_path, monkeypatch):
    """The last one is gone, as a spot machine may be; trials wait for another."""
    study, clock = new_study(tmp_path), [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    found = shown(study)
    for minute in range(30):
        running = minute < 10
        study.records["0000"].status = records.RUNNING if running else records.INTERRUPTED
        clock[0] += 60.0
        found.refresh()
    told = [line for line in text(found.console).splitlines() if line.startswith("no trial")]
    assert [line.split(":")[0] for line in told] == [
        f"no trial has run for {minutes} minutes" for minutes in (5, 10, 15, 20)
    ]
    assert "`ray status`" in told[0]
    last = text(found.console).splitlines()[-1]
    assert "0 running; 1 interrupted;" in last


def test_before_a_trial_is_through_the_best_says_at_which_epoch(tmp_path):
    study = new_study(tmp_path)
    found = shown(study)
    assert "no score yet" in found._line()
    end(study.records["0000"], records.RUNNING, curve(0)[:2])
    score = curve(0)[1]["val/accuracy"]
    assert f"best val/accuracy {score:.4f} (trial 0000, epoch 2)" in found._line()


def test_the_time_left_counts_the_work_of_this_run_alone(tmp_path, monkeypatch):
    study = mixed_study(tmp_path, unfinished=True)  # 6 of 8 ended, 0006 is at epoch 3 of 4
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    found = shown(study)
    assert found.done_before == 6.75
    now += 10.0
    end(study.records["0006"], records.FINISHED, curve(6))
    assert found._time_left() == "about 40 s left", "a quarter of a trial took 10 s, one is left"
    now += 70.0
    assert found._time_left() == "about 5 min left"


def test_the_start_is_no_part_of_what_an_epoch_takes(tmp_path, monkeypatch):
    study = new_study(tmp_path)  # 7 trials of 4 epochs
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    found, trials = shown(study), [study.records["0000"], study.records["0001"]]
    for record in trials:
        end(record, records.RUNNING, [])
        found.changed(record)
    told = []
    for record, at in zip([*trials, *trials], (1100.0, 1101.0, 1110.0, 1111.0), strict=True):
        now = at
        end(record, records.RUNNING, curve(0)[: record.epoch + 1])
        found.changed(record)
        told.append(found._time_left())
    assert told[:2] == ["time left unknown"] * 2
    assert told[3] == "about 2 min left", "24 epochs are left, and two of them take 10 s"


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_terminal_has_a_panel_and_leaves_none_behind(tmp_path, is_terminal):
    study = mixed_study(tmp_path, unfinished=True)
    study.records["0006"].status = records.RUNNING
    console = Console(file=io.StringIO(), width=200, force_terminal=is_terminal)
    with Progress(Plan(study, build_space()), console) as found:
        found.refresh()
        if found.live:
            found.live.refresh()
        assert (found.live is not None) == is_terminal
        assert ("0006 epoch 3/4" in text(console)) == is_terminal
    assert found.live is None or not found.live.is_started
