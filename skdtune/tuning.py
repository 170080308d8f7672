"""A plan to Ray Tune: sampler, scheduler, retries, reused workers; runs until the plan is done
or stopped."""

import contextlib
import gc
import tempfile
from collections.abc import Iterator

from ray import tune
from ray.tune.execution import class_cache
from rich.console import Console

from skdtune import scheduler
from skdtune.capacity import Slots
from skdtune.interrupt import Interrupt
from skdtune.plan import Plan
from skdtune.progress import Progress
from skdtune.recorder import Recorder
from skdtune.sampler import OptunaSampler
from skdtune.settings import Resources
from skdtune.writer import Writer
from trainables.classifier import ClassifierTrial

# Of a trial's process, spot machines taken back included, in a whole night. The trainable itself
# gives up on a trial that fails in one epoch again and again, so this bounds only workers that
# cannot even start.
_MOST_FAILURES = 50


def run(
    plan: Plan,
    resources: Resources,
    slots: Slots,
    writer: Writer,
    interrupt: Interrupt,
    console: Console,
    trainable: type[ClassifierTrial] = ClassifierTrial,
) -> None:
    """Runs every trial that the plan still has. Ray must be connected. Tune's own files are
    thrown away: the study's records are what a resume reads.

    trainable: another one where a benchmark measures all but the training."""
    interrupt.on_stop = plan.interrupt
    _keep_secrets()
    if plan.is_done or interrupt.stop_all():
        return
    with (
        tempfile.TemporaryDirectory(prefix="skdtune-") as scratch,
        Progress(plan, console) as progress,
    ):
        tuner = tune.Tuner(
            tune.with_resources(trainable, {"cpu": resources.cpu, "gpu": resources.gpu}),
            tune_config=tune.TuneConfig(
                search_alg=OptunaSampler(plan.space, plan, slots.now),
                scheduler=scheduler.build(plan.space, plan.known),
                num_samples=-1,  # until the sampler says that the plan is done
                # without it Tune has one trial wait at a time, and no autoscaler sees more
                max_concurrent_trials=slots.most or plan.total + plan.repeats_to_come,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                stop=interrupt,
                callbacks=[Recorder(plan, writer, interrupt, progress, slots.doubt)],
                # trials save their own
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=_MOST_FAILURES),
                verbose=0,
            ),
        )
        with _imports_aside():
            tuner.fit()


@contextlib.contextmanager
def _imports_aside() -> Iterator[None]:
    """A full garbage collection goes through whatever the imports made for half a second, in which
    no trial is answered. Left out for good it would not be gone when the process ends, and Triton
    would tell of leaks, behind the results."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _keep_secrets() -> None:
    """Tune gives its workers the driver's keys of AWS as a part of their runtime environment, which
    Ray writes into a log that everybody on the node may read. A node reaches the storage on its
    own, which is looked at before it is used."""
    named = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in named if not name.startswith("AWS_")}
