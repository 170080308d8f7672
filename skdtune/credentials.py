"""Passwords in URIs, which are refused: a URI is stored with a study, mirrored and printed."""

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

from trainables.arguments import Problem

OF_A_FILE_SYSTEM = "the file system's own environment variables"
# What an option of a URI is called that is a secret itself, and not a file with one.
_SECRET = re.compile(
    r"(?i)(^|_|ssl)(password|passwd|pwd|secret|token|(secret|account|api)_key|sas|sig)$"
)
_ODBC_SECRET = re.compile(r"(?i)(^|;)\s*(pwd|password)\s*=")  # within `odbc_connect`


def refuse(uri: str, instead: str) -> str:
    """The URI, which holds none. instead: where one belongs. Errors: ValueError, which does not
    repeat it."""
    try:
        parts = urlsplit(uri)
        options = parse_qs(parts.query, keep_blank_values=True)
    except ValueError as error:
        raise ValueError(f"not a URI: {error}") from None
    odbc = any(_ODBC_SECRET.search(value) for values in options.values() for value in values)
    if parts.password is not None or odbc or any(map(_SECRET.search, options)):
        raise ValueError(f"a password does not belong in a URI; give it in {instead}")
    return uri


def problems(value: Any, place: str = "") -> list[Problem]:
    """The places in a document whose texts are URIs with one."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        inside = f"{place}." if place else ""
        return [found for key, part in parts for found in problems(part, f"{inside}{key}")]
    if isinstance(value, str) and "://" in value:
        try:
            refuse(value, OF_A_FILE_SYSTEM)
        except ValueError as error:
            return [(place, str(error))]
    return []
