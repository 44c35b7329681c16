"""The comparison from start to end: the runs that are left, then the pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gfn_ray.comparison import sections as tables
from gfn_ray.comparison.config import ComparisonJob
from gfn_ray.comparison.coverage import Coverage
from gfn_ray.comparison.coverage_plot import draw_coverage
from gfn_ray.comparison.pages import markdown, page, write
from gfn_ray.comparison.results import Row, rows
from gfn_ray.comparison.runner import run_cells
from gfn_ray.comparison.sections import Section
from gfn_ray.errors import UserError
from gfn_ray.paths import output_root

PAGE, DOCUMENT = "index.html", "comparison.md"


def comparison(config: ComparisonJob) -> int:
    """Runs what is left of the table and makes its pages; returns the exit code."""
    chosen = _chosen(config)
    root = output_root() / config.directory.expanduser() / config.table
    if not config.only_pages:
        run_cells(chosen, root, config.cell_minutes, lambda line: print(line, flush=True))
    found = [(section, rows(section, root)) for section in chosen]
    plots = {section.slug: _drawn(section, known, root) for section, known in found}
    document = markdown(found, root)
    write(document, root / DOCUMENT)
    write(page(found, plots, root), root / PAGE)
    if config.document is not None:
        write(document, config.document)
    print(document)
    print(f"page   {root / PAGE}")
    return 0


def _chosen(config: ComparisonJob) -> list[Section]:
    known = {one.slug: one for one in (tables.full() if config.table == "full" else tables.quick())}
    if config.sections is None:
        return list(known.values())
    if unknown := [name for name in config.sections if name not in known]:
        raise UserError(
            f"the table {config.table} has no section {unknown[0]!r}; it has {', '.join(known)}"
        )
    return [known[name] for name in config.sections]


def _drawn(section: Section, found: Sequence[Row], root: Path) -> list[Path]:
    """Who covers what, by the first seed of each method."""
    panels = []
    for row in found:
        one = Coverage.read(row.cells[0].directory(root))
        form = f", {row.method.form}" if row.method.form else ""
        panels.append((f"{row.method.name}{form}", one))
    title = f"{section.title}: what each method covers (grey: the posterior)"
    png, _ = draw_coverage(root / section.slug / "coverage", panels, title)
    return [png]
