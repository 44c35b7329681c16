"""The page that --help prints: every setting of a job, its values, its default and its meaning."""

from __future__ import annotations

import shutil
import textwrap
from itertools import groupby

from pydantic import BaseModel

from gfn_ray.settings import NONE, REQUIRED, Setting, listed

_WIDEST_HELP = 100  # columns; wider paragraphs are hard to read
_METAVARS = {
    "boolean": "",
    "integer": " N",
    "number": " NUMBER",
    "path": " PATH",
    "string": " TEXT",
    "array": " A,B,...",
}


def help_page(job: type[BaseModel], prog: str) -> str:
    """Returns the help page of a job, as wide as the terminal."""
    width = min(_WIDEST_HELP, shutil.get_terminal_size().columns)

    def paragraph(text: str, indent: str = "") -> str:
        return textwrap.fill(
            " ".join(text.split()),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
            break_long_words=False,
        )

    blocks = [
        f"usage: {prog} [--config FILE.toml] [--SETTING VALUE] ...",
        paragraph(job.__doc__ or ""),
        paragraph(
            "Settings come from their defaults, then the TOML file, then flags; the last one wins. "
            "--NAME turns a switch on, --no-NAME turns it off."
        ),
        "  --config PATH\n"
        + paragraph("TOML file of settings; a section is a table, such as [learner].", " " * 6)
        + "\n  --help, -h\n  --version",
    ]
    for heading, settings in groupby(listed(job), lambda setting: setting.heading):
        blocks.append(paragraph(heading))
        for setting in settings:
            about = setting.schema.get("description", "")
            about += f" [{setting.takes}; {_default(setting)}]"
            blocks[-1] += f"\n  {setting.flag}{_metavar(setting)}\n" + paragraph(about, " " * 6)
    return "\n\n".join(blocks)


def _metavar(setting: Setting) -> str:
    """Returns the placeholder for the value after the flag; empty for a switch."""
    if choices := setting.main.get("enum"):
        return " " + "|".join(map(str, choices))
    kind = setting.main.get("format") or setting.main["type"]
    return _METAVARS[kind]


def _default(setting: Setting) -> str:
    default = setting.default
    if default is REQUIRED:
        return "required"
    if isinstance(default, list):
        default = ",".join(map(str, default))
    if isinstance(default, str):
        return f"default {default if default.split() == [default] else repr(default)}"
    return f"default {NONE if default is None else str(default).lower()}"
