"""What a person sees while a search runs: a live panel on a terminal, plain lines anywhere else."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from skdtune import nodes, records
from skdtune.leaderboard import LABELS, rank
from skdtune.plan import Plan
from skdtune.records import Record
from trainables import metrics

_PANEL_EVERY_S = 0.25
_PLAIN_EVERY_S = 30.0
_REMIND_EVERY_S = 300.0


class Progress:
    """Trials done, running and stopped; the best so far against the baseline; the time left."""

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.console = plan, console
        self.started = time.monotonic()
        self.ran = self.told = self.started  # when a trial was last seen to run
        self.done_before = self._work_done()
        self.epochs_before = {key: record.epoch for key, record in plan.study.records.items()}
        self.beginning: set[str] | None = None  # trials of the first ones that are still to report
        self.live = (
            Live(console=console, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )
        self.next_refresh = 0.0 if self.live else self.started + _PLAIN_EVERY_S

    def __enter__(self) -> "Progress":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def changed(self, record: Record) -> None:
        """A record has changed: shown at the next refresh."""
        self._set_clock(record)
        if record.status == records.RUNNING and record.epoch == 0 and not self.live:
            self.console.print(
                f"trial {record.key} starts ({_what(record)})", highlight=False, markup=False
            )

    def ended(self, record: Record) -> None:
        """A trial has ended: a line of its own."""
        score = record.last.get(self.plan.space.search.metric)
        result = (
            f"{self.plan.space.search.metric} {score:.4f}" if score is not None else "no result"
        )
        epochs = f"epoch {record.epoch}/{record.config['epochs']}"
        error = f": {record.error}" if record.error else ""
        self.console.print(
            f"trial {record.key} {record.status:8} {epochs}  {result}  ({_what(record)}){error}",
            highlight=False,
            markup=False,
        )

    def refresh(self) -> None:
        """Called from Tune's loop as often as it turns."""
        now = time.monotonic()
        if now < self.next_refresh:
            return
        self.next_refresh = now + (_PANEL_EVERY_S if self.live else _PLAIN_EVERY_S)
        self._tell_of_standstill(now)
        if self.live:
            self.live.update(self._panel())
        else:
            self.console.print(self._line(), highlight=False, markup=False)

    def _tell_of_standstill(self, now: float) -> None:
        if any(r.status == records.RUNNING for r in self.plan.study.records.values()):
            self.ran = self.told = now
        elif now - self.told >= _REMIND_EVERY_S:
            self.told = now
            minutes = (now - self.ran) / 60
            self.console.print(
                f"no trial has run for {minutes:.0f} minutes: no node has room for one; {nodes.WHY}"
            )

    def _line(self) -> str:
        found = list(self.plan.study.records.values())
        count = {
            status: sum(r.status == status for r in found) for status in {r.status for r in found}
        }
        ended = sum(record.has_ended for record in found)
        parts = [
            f"{ended} of {self.plan.total + self.plan.repeats_to_come} trials ended",
            f"{count.get(records.RUNNING, 0)} running",
        ]
        parts += [
            f"{count[s]} {s}"
            for s in (records.INTERRUPTED, records.STOPPED, records.DIVERGED, records.FAILED)
            if s in count
        ]
        return "; ".join([*parts, self._best(), self._time_left()])

    def _panel(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1))
        table.add_row(self._line())
        for record in self.plan.study.records.values():
            if record.status == records.RUNNING:
                score = record.last.get(self.plan.space.search.metric)
                shown = f"{score:.4f}" if score is not None else "-"
                table.add_row(
                    f"  {record.key} epoch {record.epoch}/{record.config['epochs']} {shown} "
                    f"{_what(record)}"
                )
        return table

    def _best(self) -> str:
        metric = self.plan.space.search.metric
        board = rank(self.plan.study)
        scored = (row for row in board.rows if row.score is not None and not row.is_baseline)
        best = board.winner or next(scored, None)
        if best is None:
            return "no score yet"
        if best.gain is not None:
            gain = f"{best.gain:+.4f} against the baseline"
            return f"best {metric} {best.value:.4f} (trial {best.key}, {gain})"
        return f"best {metric} {best.score:.4f} (trial {best.key}, epoch {best.record.epoch})"

    def _set_clock(self, record: Record) -> None:
        """Time counts from when all of the first trials have reported an epoch: what comes before
        it, the processes' start and the images, comes once."""
        if self.beginning == set() or record.epoch <= self.epochs_before.get(record.key, 0):
            return
        if self.beginning is None:
            found = self.plan.study.records.values()
            self.beginning = {r.key for r in found if r.status == records.RUNNING}
        self.beginning.discard(record.key)
        self.started, self.done_before = time.monotonic(), self._work_done()

    def _time_left(self) -> str:
        done = self._work_done() - self.done_before
        if done <= 0:
            return "time left unknown"
        left = self.plan.total + self.plan.repeats_to_come - self._work_done()
        seconds = left * (time.monotonic() - self.started) / done
        return (
            f"about {max(seconds, 0) / 60:.0f} min left"
            if seconds > 90
            else f"about {max(seconds, 0):.0f} s left"
        )

    def _work_done(self) -> float:
        """In trials; one that runs counts by its epochs, one that was stopped counts whole."""
        return sum(
            1.0 if record.has_ended else record.last.get(metrics.EPOCH, 0) / record.config["epochs"]
            for record in self.plan.study.records.values()
        )


def _what(record: Record) -> str:
    if record.repeats:
        return f"repeats {record.repeats}, seed {record.seed}"
    if record.role == records.BASELINE:
        return LABELS[record.role]
    values = ", ".join(f"{path} {_short(value)}" for path, value in record.params.items())
    label = f"{LABELS[record.role]}: " if record.role in LABELS else ""
    return label + (values or "fixed")


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
