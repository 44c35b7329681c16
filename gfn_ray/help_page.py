"""What --help prints: every setting of a job, with what it takes, its default and its meaning."""

from __future__ import annotations

import shutil
import textwrap

from pydantic import BaseModel

from gfn_ray.settings import is_section, settings_of

_WIDEST_HELP = 100  # columns; wider paragraphs are hard to read


def help_page(job: type[BaseModel], prog: str) -> str:
    """The page, as wide as the terminal."""
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
            "Settings come from their defaults, then from the TOML file, then from flags; the last "
            "one counts. A switch is set by --NAME and cleared by --no-NAME."
        ),
        "  --config PATH\n"
        + paragraph("TOML file of settings; a section is a table there, as in [learner].", " " * 6)
        + "\n  --help, -h\n  --version",
    ]
    section = None
    for setting in settings_of(job).values():
        path = setting.name.split(".")[:-1]
        if path != section:
            section = path
            blocks.append(paragraph(_heading(job, path)))
        about = f"{setting.field.description or ''} [{setting.takes}; {setting.shown_default}]"
        blocks[-1] += f"\n  {setting.flag}{setting.metavar}\n" + paragraph(about, " " * 6)
    return "\n\n".join(blocks)


def _heading(model: type[BaseModel], path: list[str]) -> str:
    if not path:
        return "run: The whole run."
    about: str | None = None
    for name in path:
        field = model.model_fields[name]
        about = field.description
        if is_section(field.annotation):
            model = field.annotation
    return f"{'.'.join(path)}: {about or ''}".rstrip()
