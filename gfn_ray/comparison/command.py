"""The comparison from start to end: the runs that are left, then the pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gfn_ray.cli import print_line
from gfn_ray.comparison.config import ComparisonJob
from gfn_ray.comparison.coverage_plot import draw_coverage
from gfn_ray.comparison.method_plot import draw_methods
from gfn_ray.comparison.pages import markdown, page
from gfn_ray.comparison.records import Records
from gfn_ray.comparison.results import Row, rows
from gfn_ray.comparison.runner import run_cells
from gfn_ray.comparison.section import Section
from gfn_ray.comparison.tables import catalog
from gfn_ray.errors import UserError
from gfn_ray.paths import output_root
from gfn_ray.storage.atomic import write_atomically

PAGE, DOCUMENT = "index.html", "comparison.md"


def comparison(config: ComparisonJob) -> int:
    """Runs what is left of the table and makes its pages; returns the exit code."""
    chosen = _chosen(config)
    root = output_root() / config.directory.expanduser() / config.table
    records = Records(_records(config, root))
    if not config.only_pages:
        run_cells(chosen, root, records, config.cell_minutes, print_line)
    found = [(section, rows(section, records)) for section in chosen]
    root.mkdir(parents=True, exist_ok=True)
    plots = {section.slug: _drawn(section, known, root) for section, known in found}
    document = markdown(found)
    write_atomically(root / DOCUMENT, document)
    write_atomically(root / PAGE, page(found, plots, root))
    if config.document is not None:
        config.document.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(config.document, document)
    print_line(document)
    print_line(f"page   {root / PAGE}")
    return 0


def _records(config: ComparisonJob, root: Path) -> Path:
    if config.records is not None:
        return output_root() / config.records.expanduser()
    return output_root() / "docs/comparison" if config.table == "full" else root / "records"


def _chosen(config: ComparisonJob) -> list[Section]:
    known = {one.slug: one for one in catalog.sections(config.table)}
    if config.sections is None:
        return list(known.values())
    if unknown := [name for name in config.sections if name not in known]:
        raise UserError(
            f"the table {config.table} has no section {unknown[0]!r}; it has {', '.join(known)}"
        )
    return [known[name] for name in config.sections]


def _drawn(section: Section, found: Sequence[Row], root: Path) -> Path:
    """Who covers what, by the first seed of each method, where every probability is known; else
    each seed of each method on the axes that are shown."""
    if not found[0].records[0].distribution:
        axes = [section.axis(name) for name in section.shown]
        png, _ = draw_methods(root / f"{section.slug}-methods", axes, found, section.title)
        return png
    panels = [(row.title, row.records[0].coverage) for row in found]
    title = f"{section.title}: what each method covers (grey: the posterior)"
    png, _ = draw_coverage(root / f"{section.slug}-coverage", panels, title)
    return png
