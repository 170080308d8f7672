"""The names of all metrics."""

EPOCH = "epoch"  # 1-based; the scheduler's clock and MLflow's step
LOSS_TOTAL = "loss/total"
TRAIN_ACCURACY = "train/accuracy"
LEARNING_RATE = "optim/lr"
EPOCH_SECONDS = "time/epoch_s"
IMAGES_PER_SECOND = "time/images_per_s"
PEAK_MEMORY = "memory/peak_gib"
TIMESTAMP = "timestamp_s"  # when the epoch ended, Unix time; kept with the metrics, not one of them
SCORES = ("accuracy", "loss", "top5", "ece")
VALIDATION = "val"
TEST = "test"


def loss_name(term: str) -> str:
    """The metric of a method's term. Errors: TypeError for a name that MLflow might not take, or
    that is the sum's."""
    name = f"loss/{term}"
    if not (isinstance(term, str) and term.isidentifier()) or name == LOSS_TOTAL:
        what = "letters, digits and underscores make a name, and `total` is the sum's"
        raise TypeError(f"{term!r} cannot be the name of a term: {what}")
    return name


def score_names(prefix: str) -> tuple[str, ...]:
    """The evaluation metrics of one split, e.g. `val/accuracy`."""
    return tuple(f"{prefix}/{score}" for score in SCORES)
