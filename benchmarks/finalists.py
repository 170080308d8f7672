"""What it is worth to train the best trials again with other seeds (`search.finalists`).

    python -m benchmarks.finalists [--draws 4000] [--output FILE]
    python -m benchmarks.finalists --record [--part 0 --of 2]

--record trains the best 130 settings of benchmarks/data/digits_wide.csv again, each with five other
seeds, and keeps their validation and test accuracies in benchmarks/data/digits_wide_seeds.csv; it
goes on where it stopped. One process of one thread; with --part and --of several share the work,
each with a file of its own.
Without it searches are drawn from the two tables: so many settings at random, ranked by their first
seed; the best of them get some of the other seeds; the best mean wins, and is judged by the seeds
that had no say in it. A draw with fewer of the 130 than there are finalists is drawn again. All
trainings are paid for at the full budget: the trials, the repeats, and those of the baseline and
the first trial, which play no other part here. The standard error is that of the draws; that of the
600 settings and the one validation set is larger.
"""

import argparse
import csv
import dataclasses
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from benchmarks import curves, pages
from benchmarks.curves import Table
from trainables import data, metrics
from trainables.training import Training

DATA = Path(__file__).parent / "data"
CURVES, SEEDS = DATA / "digits_wide.csv", DATA / "digits_wide_seeds.csv"
BEST, OTHER_SEEDS = 130, range(1, 6)
COLUMNS = ("setting", "seed", "val/accuracy", "test/accuracy")
PLANS = ((64, 0, 0), (59, 3, 1), (54, 3, 2), (50, 5, 2), (49, 3, 3), (300, 0, 0))
MUST_BEAT = 2


@dataclass
class Outcome:
    """Of many searches alike, a value each. shown: the score by which the winner won. validation,
    test: its accuracy with seeds that had no say."""

    shown: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    test: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--part", type=int, default=0)
    parser.add_argument("--of", type=int, default=1)
    options = parser.parse_args()
    recorded = curves.read(CURVES)
    if options.record:
        place = SEEDS.with_suffix(f".{options.part}.csv") if options.of > 1 else SEEDS
        record(recorded, place, options.part, options.of)
        return
    text = "\n".join(report(recorded, options.draws)) + "\n"
    print(text)
    if options.output:
        options.output.write_text(text)


def record(recorded: Table, place: Path, part: int, of: int) -> None:
    torch.set_num_threads(1)
    jobs = [(seed, setting) for seed in OTHER_SEEDS for setting in best_settings(recorded)]
    done = len(place.read_text().splitlines()) - 1 if place.exists() else 0
    test = data.build(**recorded.space.fixed["data"], final=True)
    with place.open("a", newline="") as file:
        writer = csv.writer(file)
        if done <= 0:
            writer.writerow(COLUMNS)
        for seed, setting in jobs[part::of][max(done, 0) :]:
            config = recorded.space.config(recorded.curves[setting].params) | {"seed": seed}
            training = Training(**config)
            *_, last = training.epochs()
            training.sets = dataclasses.replace(training.sets, held_out=test.held_out)
            training.split = metrics.TEST
            scores = training._scores()
            values = last["val/accuracy"], scores["test/accuracy"]
            writer.writerow([setting, seed, *(f"{value:.4f}" for value in values)])
            file.flush()


def best_settings(recorded: Table) -> list[int]:
    """The numbers of those that some search may have as finalists, best first."""
    found = recorded.curves

    def order(setting: int) -> tuple[float, float]:
        scores = found[setting].scores
        return -scores["val/accuracy"][-1], scores["val/loss"][-1]

    whole = max(len(curve.scores["val/accuracy"]) for curve in found)
    full = [i for i, curve in enumerate(found) if len(curve.scores["val/accuracy"]) == whole]
    return sorted(full, key=order)[:BEST]


def report(recorded: Table, draws: int) -> Iterator[str]:
    seeds = read_seeds()
    ranked = best_settings(recorded)
    values = np.array([[seeds[setting, seed] for seed in OTHER_SEEDS] for setting in ranked])
    yield from pages.head("Finalists", "finalists", sys.argv[1:], f"{draws} draws a line.")
    for number, name in enumerate(("validation", "test")):
        within = values[:, :, number].var(axis=1, ddof=1).mean()
        total = values[:, :, number].mean(axis=1).var(ddof=1)
        between = max(total - within / len(OTHER_SEEDS), 0.0)
        yield (
            f"{name} accuracy of the best {BEST} of {len(recorded.curves)} settings: standard "
            f"deviation between seeds {within**0.5:.4f}, between settings {between**0.5:.4f}"
        )
    yield ""
    yield (
        "| trials | finalists | more seeds | trainings | score shown | the winner's validation "
        "accuracy, other seeds | its test accuracy, other seeds (standard error of the draws) |"
    )
    yield "|---|---|---|---|---|---|---|"
    for trials, finalists, more in PLANS:
        found = play(recorded, seeds, draws, trials, finalists, more)
        error = statistics.stdev(found.test) / len(found.test) ** 0.5
        yield (
            f"| {trials} | {finalists} | {more} | {trials + (finalists + MUST_BEAT) * more} "
            f"| {statistics.fmean(found.shown):.4f} | {statistics.fmean(found.validation):.4f} "
            f"| {statistics.fmean(found.test):.4f} ({error:.4f}) |"
        )


def play(
    recorded: Table,
    seeds: dict[tuple[int, int], tuple[float, float]],
    draws: int,
    trials: int,
    finalists: int,
    more: int,
) -> Outcome:
    chance, found = np.random.default_rng(0), Outcome()
    own = [curve.scores["val/accuracy"][-1] for curve in recorded.curves]
    ranked = best_settings(recorded)
    while len(found.test) < draws:
        drawn = set(chance.choice(len(own), trials, replace=False).tolist())
        best = [setting for setting in ranked if setting in drawn][: max(finalists, 1)]
        if len(best) < max(finalists, 1):
            continue
        order = chance.permutation(OTHER_SEEDS).tolist()
        asked, others = order[:more], order[more:]
        means = {
            setting: statistics.fmean([own[setting], *(seeds[setting, s][0] for s in asked)])
            for setting in best
        }
        winner = max(best, key=means.__getitem__)
        found.shown.append(means[winner])
        found.validation.append(statistics.fmean(seeds[winner, s][0] for s in others))
        found.test.append(statistics.fmean(seeds[winner, s][1] for s in others))
    return found


def read_seeds() -> dict[tuple[int, int], tuple[float, float]]:
    """Validation and test accuracy by setting and seed."""
    with SEEDS.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    return {
        (int(row["setting"]), int(row["seed"])): (
            float(row["val/accuracy"]),
            float(row["test/accuracy"]),
        )
        for row in rows
    }


if __name__ == "__main__":
    main()
