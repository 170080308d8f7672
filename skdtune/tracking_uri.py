"""Which MLflow a study is mirrored to when nobody says."""

import os
from pathlib import Path

from skdtune import flags
from skdtune.errors import ConfigError

_VARIABLE = "MLFLOW_TRACKING_URI"


def absolute(uri: str) -> str:
    """A database file by its full path, so that a study finds it from any folder."""
    scheme, separator, place = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite") or place in ("", ":memory:"):
        return uri
    return f"{scheme}:///{Path(place).absolute()}"


def default_uri() -> str:
    """MLFLOW_TRACKING_URI, else a database in the working folder (never MLflow's retired file
    store). Errors: ConfigError for a variable that holds neither."""
    given = os.environ.get(_VARIABLE)
    if not given:
        return "sqlite:///mlflow.db"
    try:
        return flags.tracking_uri(given)
    except ValueError as error:
        raise ConfigError(_VARIABLE, [str(error)]) from None
