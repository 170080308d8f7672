"""Trials as Ray has them: what one is given, what it reports until it is done, one that fails."""

from tests.trainables.tiny import config, repeated
from trainables import sources
from trainables.classifier import ClassifierTrial

WATCHED = ["epoch", "val/accuracy"]


def given(study, trial=None, key="k1", after=0, session="s1") -> dict:
    run = {
        "key": key,
        "identity": key,
        "study": str(study),
        "after": after,
        "threads": 1,
        "session": session,
        "device": "cpu",
        "images": None,
        "silence_s": 60.0,
        "watched": WATCHED,
    }
    return {"trial": trial or config(), "run": run}


def reports_of(results: list[dict]) -> list[dict]:
    return repeated([dict(result["report"]) for result in results])


def steps(trainable: ClassifierTrial) -> list[dict]:
    """All results until it is done."""
    results = [trainable.train()]
    while not results[-1]["done"]:
        results.append(trainable.train())
    return results


def reader(monkeypatch, error: BaseException) -> dict:
    """A config whose data set raises the error when it is read."""

    def broken(root):
        raise error

    known = {**sources.readers(), "broken": broken}
    monkeypatch.setattr(sources, "readers", lambda: known)
    return config(data={"name": "broken"})
