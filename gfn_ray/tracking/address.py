"""Addresses of tracking stores: what they name, and what of them may be shown."""

from __future__ import annotations

import re
from pathlib import Path

SQLITE_FILE = "sqlite:///"
SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_SECRET_QUERY = re.compile(r"(?i)([?&][^=&]*(?:pass|pwd|token|secret|key|sig)[^=&]*=)[^&\s]+")
_SECRET_LOGIN = re.compile(r"(?i)\b((?!sqlite|file)[a-z][\w+.-]*://)[^\s'\"]*@")


def redact_uri(text: str) -> str:
    """The URI, or a text with URIs in it, without user names, passwords and tokens."""
    return _SECRET_QUERY.sub(r"\1***", _SECRET_LOGIN.sub(r"\1***@", text))


def sqlite_path(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix(SQLITE_FILE).partition("?")[0])


def reason(error: BaseException) -> str:
    """One line: the system's own words, which MLflow wraps in a paragraph, where there are any."""
    root, link = error, error
    while link := link.__cause__ or link.__context__:  # type: ignore[assignment]
        root = link if isinstance(link, OSError) else root
    lines = redact_uri(str(root)).strip().splitlines()
    return lines[0][:160] if lines else type(root).__name__  # a TimeoutError says nothing
