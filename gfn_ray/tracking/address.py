"""Addresses of tracking stores, and how to show them without secrets."""

from __future__ import annotations

import re
from pathlib import Path

SQLITE_FILE = "sqlite:///"
SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_SECRET_NAME = r"(?is)([?&][^=&]*(?:pass|pwd|token|secret|key|sig)[^=&]*=)"
_WITH_LOGIN = r"((?!sqlite|file)[a-z][\w+.-]*://)"

# A value that is one URI: a password may contain anything, so it ends at the last @.
_QUERY = re.compile(_SECRET_NAME + "[^&]+")
_URI = re.compile(r"(?i)[a-z][\w+.-]*://")
_LOGIN = re.compile(rf"(?is)\A{_WITH_LOGIN}.*@")
# A text that contains URIs, which end at blanks and quotes.
_QUERY_IN_TEXT = re.compile(_SECRET_NAME + r"[^&\s]+")
_LOGIN_IN_TEXT = re.compile(rf"(?i)\b{_WITH_LOGIN}[^\s'\"]*@")

_REDACTED = re.compile(r"://\*\*\*@|[?&][^=&]*=\*\*\*(?=&|$)")


def redact_uri(uri: str) -> str:
    """Removes user name, password and tokens from a URI; returns anything else unchanged."""
    if not _URI.match(uri):
        return uri
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", uri))


def redact_text(text: str, uri: str = "") -> str:
    """Removes the same from URIs in a text; `uri` is one that the text may quote."""
    if uri:
        text = text.replace(uri, redact_uri(uri))
    return _QUERY_IN_TEXT.sub(r"\1***", _LOGIN_IN_TEXT.sub(r"\1***@", text))


def is_redacted(uri: str) -> bool:
    """Whether a URI was redacted, and so cannot be opened."""
    return _REDACTED.search(uri) is not None


def sqlite_path(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix(SQLITE_FILE).partition("?")[0])


def reason(error: BaseException, uri: str) -> str:
    """One line: the system's own message if there is one, without MLflow's paragraph around it.

    uri: of the store, which the message may quote.
    """
    root, link = error, error
    while link := link.__cause__ or link.__context__:  # type: ignore[assignment]
        root = link if isinstance(link, OSError) else root
    lines = redact_text(str(root), uri).strip().splitlines()
    return lines[0][:160] if lines else type(root).__name__  # a TimeoutError has no message
