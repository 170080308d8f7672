"""Which MLflow a study is mirrored to when nobody says."""

import os
import socket
from pathlib import Path
from urllib.parse import unquote

from skdtune import flags
from skdtune.errors import ConfigError

_VARIABLE = "MLFLOW_TRACKING_URI"
_PORTS = {"postgresql": 5432, "mysql": 3306}
_ELSEWHERE = {"host", "hostaddr", "service", "unix_socket"}  # options that name another place
_KNOCK_S = 5.0


def absolute(uri: str) -> str:
    """A database file by its full path, so that a study finds it from any folder."""
    path = database(uri)
    if path is None:
        return uri
    scheme, _, place = uri.partition(":///")
    _, mark, options = place.partition("?")
    written = str(path.absolute()).replace("%", "%25").replace("?", "%3F")
    return f"{scheme}:///{written}{mark}{options}"


def database(uri: str) -> Path | None:
    """The file of an SQLite database, in a URI by SQLAlchemy's rules: escapes such as `%20`, and
    options behind a question mark. None for anything else."""
    scheme, separator, place = uri.partition(":///")
    if not separator or not scheme.startswith("sqlite"):
        return None
    return Path(unquote(place.partition("?")[0]))


def knock(uri: str) -> None:
    """Errors: OSError when nobody answers where a PostgreSQL or MySQL server is said to be, which
    MLflow would try ten times in a hundred seconds."""
    port = _PORTS.get(uri.partition(":")[0].partition("+")[0])
    if port is None:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except (ArgumentError, ValueError):  # several servers, or a mistake that MLflow tells
        return
    if url.host and "," not in url.host and not _ELSEWHERE & url.query.keys():
        socket.create_connection((url.host, url.port or port), _KNOCK_S).close()


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
