"""Addresses of tracking stores: what they name, and what of them may be shown."""

from __future__ import annotations

import re
from pathlib import Path

SQLITE_FILE = "sqlite:///"
SQL_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql")

_SECRET_NAME = r"(?is)([?&][^=&]*(?:pass|pwd|token|secret|key|sig)[^=&]*=)"
_WITH_LOGIN = r"((?!sqlite|file)[a-z][\w+.-]*://)"

# A value that is one URI: a password may hold anything, so what ends it is the last @.
_QUERY = re.compile(_SECRET_NAME + "[^&]+")
_URI = re.compile(r"(?i)[a-z][\w+.-]*://")
_LOGIN = re.compile(rf"(?is)\A{_WITH_LOGIN}.*@")
# A text with URIs in it, where blanks and quotes end them.
_QUERY_IN_TEXT = re.compile(_SECRET_NAME + r"[^&\s]+")
_LOGIN_IN_TEXT = re.compile(rf"(?i)\b{_WITH_LOGIN}[^\s'\"]*@")

_REDACTED = re.compile(r"://\*\*\*@|[?&][^=&]*=\*\*\*(?=&|$)")


def redact_uri(uri: str) -> str:
    """A value that is one URI, without user name, password and tokens; anything else as it is."""
    if not _URI.match(uri):
        return uri
    return _QUERY.sub(r"\1***", _LOGIN.sub(r"\1***@", uri))


def redact_text(text: str, uri: str = "") -> str:
    """A text with URIs in it, without the same; `uri` is one that it may repeat."""
    if uri:
        text = text.replace(uri, redact_uri(uri))
    return _QUERY_IN_TEXT.sub(r"\1***", _LOGIN_IN_TEXT.sub(r"\1***@", text))


def is_redacted(uri: str) -> bool:
    """Whether that has been done to it, so that it opens nothing any more."""
    return _REDACTED.search(uri) is not None


def sqlite_path(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix(SQLITE_FILE).partition("?")[0])


def reason(error: BaseException, uri: str) -> str:
    """One line: the system's own words, which MLflow wraps in a paragraph, where there are any.

    uri: of the store, which they may repeat.
    """
    root, link = error, error
    while link := link.__cause__ or link.__context__:  # type: ignore[assignment]
        root = link if isinstance(link, OSError) else root
    lines = redact_text(str(root), uri).strip().splitlines()
    return lines[0][:160] if lines else type(root).__name__  # a TimeoutError says nothing
