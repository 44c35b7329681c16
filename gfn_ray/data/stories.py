"""Five-sentence stories: read strictly, split for good.

Owns the two CSV layouts (ROCStories, Story Cloze), what separates their cells, the embedded
stories, the same columns from the Hugging Face hub, and the split. A malformed row is refused with
file, line and column, never skipped or mended. Two liberties: a byte-order mark and blank lines are
passed over, and white space inside a cell is folded to single spaces, because a line break within
a sentence would end it in a prompt.

Does not own prompts or tokens.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import NoReturn

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import folded, raw_lines
from gfn_ray.data.hash_split import place
from gfn_ray.data.hub import Table, load_tables, load_test_table
from gfn_ray.data.leakage import kept_apart, same_text, without_leaks
from gfn_ray.errors import UserError, shown

SENTENCES = 5
ROC_SENTENCES = tuple(f"sentence{i}" for i in range(1, SENTENCES + 1))
ROC_COLUMNS = ("storyid", "storytitle", *ROC_SENTENCES)
CLOZE_CONTEXT = tuple(f"InputSentence{i}" for i in range(1, SENTENCES))
CLOZE_ENDINGS = {"1": "RandomFifthSentenceQuiz1", "2": "RandomFifthSentenceQuiz2"}
CLOZE_ANSWER = "AnswerRightEnding"
CLOZE_COLUMNS = ("InputStoryid", *CLOZE_CONTEXT, *CLOZE_ENDINGS.values(), CLOZE_ANSWER)
EMBEDDED = "stories.csv"
# By the name that a message gives each. Of those that fit a header equally well the first counts.
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "vertical bar": "|"}


@dataclass(frozen=True)
class Story:
    """A title (empty where the source has none) and five sentences."""

    story_id: str
    title: str
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """notes: what a person should know of how they came about."""

    train: list[Story]
    validation: list[Story]
    test: list[Story]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    """Cells by column, and where they stand, for messages."""

    where: str
    cells: Mapping[str, str]


def load_splits(config: DataConfig) -> Splits:
    """The stories to train on, those of validation, and those to test on, none of which stands
    in another part; UserError where a source is malformed.

    Where a test is given apart, the other stories' own test part is trained on too.
    """
    columns = Columns.of(config)
    parts = split(_load(config, columns))
    train, test = parts.train, parts.test
    if config.has_test:
        train, test = [*train, *test], _load_test(config, columns)
    columns.check_all_found()
    validation, notes = without_leaks("validation", parts.validation, train, _content, "story")
    keep = kept_apart if config.has_test else partial(without_leaks, "test")
    test, more = keep(test, [*train, *validation], _content, "story")
    return Splits(train, validation, test, (*notes, *more))


def load_stories(config: DataConfig) -> list[Story]:
    """All stories of the configured source, in its order; UserError where it is malformed."""
    return _load(config, Columns.of(config))


def _load(config: DataConfig, columns: Columns) -> list[Story]:
    """The stories that are not given as a test apart."""
    if config.hub is not None:
        return stories_from_tables(load_tables(config), config.hub, columns)
    if config.path is not None:
        return _load_file(config.path, "--data.path", columns)
    embedded = resources.files("gfn_ray.data") / EMBEDDED
    if not embedded.is_file():
        raise UserError(
            f"this installation lacks gfn_ray/data/{EMBEDDED}; reinstall it, or give --data.path"
        )
    return _parse_csv(embedded.read_bytes().splitlines(keepends=True), EMBEDDED, Columns({}))


def _load_test(config: DataConfig, columns: Columns) -> list[Story]:
    """Those that are, under ids that no other story has."""
    if config.test_path is not None:
        stories = _load_file(config.test_path, "--data.test-path", columns)
    else:
        stories = stories_from_tables(load_test_table(config), str(config.hub), columns)
    return [replace(story, story_id=f"test-{story.story_id}") for story in stories]


def _load_file(path: Path, setting: str, columns: Columns) -> list[Story]:
    return _parse_csv(raw_lines(path, setting), str(path), columns)


def _content(story: Story) -> str:
    return same_text(" ".join(story.sentences))


def split(stories: Iterable[Story], fractions: Sequence[float] = (0.7, 0.1, 0.2)) -> Splits:
    """Train, validation and test, each in the order given.

    A story's part follows from its id alone: SHA-256 of the id, read as a number in [0, 1),
    falls below the first fraction (train), below the first two (validation), or above
    (test). So it is the same on every machine, in every run, and whatever else the file
    holds; the fractions are met on average.
    """
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ValueError(f"fractions must be three shares that sum to 1, got {tuple(fractions)}")
    train, validation, _ = fractions
    parts = Splits([], [], [])
    for story in stories:
        where = place(story.story_id)
        if where < train:
            parts.train.append(story)
        elif where < train + validation:
            parts.validation.append(story)
        else:
            parts.test.append(story)
    return parts


def _parse_csv(raw: Iterable[bytes], name: str, columns: Columns) -> list[Story]:
    text = _text(raw)
    first = list(_up_to_header(text))
    separator = _separator(first, columns)
    lines = _csv_lines(chain(first, text), name, SEPARATORS[separator])
    where, header = next(lines, ("", []))
    if not header:
        raise UserError(f"{name} is empty; expected a CSV file with a header line")
    found = [_checked(cell, where, f"number {i}") for i, cell in enumerate(header, 1)]
    layout = _layout(found, where, columns, separator)
    names = columns.expected(found)
    rows = (_row(where, names, cells, separator) for where, cells in lines)
    return _collect(layout, rows, name)


def _up_to_header(text: Iterator[str]) -> Iterator[str]:
    """The first lines, as far as one that is not blank."""
    for line in text:
        yield line
        if line.strip():
            return


def _separator(first: Sequence[str], columns: Columns) -> str:
    """What stands between the cells: that by which the header has the most of a layout's columns,
    or the most columns where it has none of them. No header has all of them by two."""

    def lacking(name: str) -> tuple[int, int]:
        try:
            header = next(csv.reader(first[-1:], delimiter=SEPARATORS[name], strict=True), [])
        except csv.Error:  # such as a cell that goes on in the next line
            header = []
        found = columns.expected([cell.strip() for cell in header])
        return min(len(set(layout.columns) - set(found)) for layout in LAYOUTS), -len(found)

    return min(SEPARATORS, key=lacking)


def _text(raw: Iterable[bytes]) -> Iterator[str]:
    """Lines as text, those that end in a carriage return among them.

    Undecodable bytes become lone surrogates, which no valid UTF-8 holds, so that they can be
    reported by line and column once the cells are apart.
    """
    for line in raw:
        yield from io.StringIO(line.decode("utf-8", "surrogateescape"), newline="")


def _csv_lines(text: Iterator[str], name: str, separator: str) -> Iterator[tuple[str, list[str]]]:
    """Records that are not blank, each with the line it starts on."""
    reader = csv.reader(text, delimiter=separator, strict=True)
    while True:
        where = f"{name}, line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f"{where}: not valid CSV: {error}; is a quote left open, or not doubled "
                "within a text?"
            ) from None
        if cells:
            yield where, cells


def _row(where: str, columns: Sequence[str], cells: Sequence[str], separator: str) -> _Row:
    if len(cells) < len(columns):
        _refuse(where, columns[len(cells)], f"missing: {len(cells)} cells; expected {len(columns)}")
    if len(cells) > len(columns):
        what = f"surplus: {len(cells)} cells, expected {len(columns)}; is a {separator} unquoted?"
        _refuse(where, f"number {len(columns) + 1}", what)
    checked = {
        column: _checked(cell, where, column) for column, cell in zip(columns, cells, strict=True)
    }
    return _Row(where, checked)


def _checked(cell: str, where: str, column: str) -> str:
    """The cell with white space folded; refused where its bytes are no text."""
    return folded(cell, f"{where}, column {column}")


def _roc_story(row: _Row) -> Story:
    sentences = tuple(_filled(row, column) for column in ROC_SENTENCES)
    return Story(_filled(row, "storyid"), row.cells["storytitle"], sentences)


def _cloze_story(row: _Row) -> Story:
    answer = row.cells[CLOZE_ANSWER]
    if answer not in CLOZE_ENDINGS:
        _refuse(row.where, CLOZE_ANSWER, f"expected 1 or 2, got {shown(answer)}; mend it there")
    endings = {key: _filled(row, column) for key, column in CLOZE_ENDINGS.items()}
    context = tuple(_filled(row, column) for column in CLOZE_CONTEXT)
    return Story(_filled(row, "InputStoryid"), "", (*context, endings[answer]))


@dataclass(frozen=True)
class _Layout:
    """A set of columns, the id first, and how a row of them becomes a story."""

    columns: tuple[str, ...]
    story: Callable[[_Row], Story]


LAYOUTS = (_Layout(ROC_COLUMNS, _roc_story), _Layout(CLOZE_COLUMNS, _cloze_story))


def _layout(
    found: Sequence[str], where: str, columns: Columns, separator: str | None = None
) -> _Layout:
    """The layout whose columns are all there; further columns are ignored.

    separator: what stands between them, in a file.
    """
    repeated = sorted({column for column in found if found.count(column) > 1})
    if repeated:
        raise UserError(
            f"{where}: columns named twice: {', '.join(map(shown, repeated))}; rename one"
        )
    names = columns.expected(found)
    layout = min(LAYOUTS, key=lambda layout: len(set(layout.columns) - set(names)))
    if missing := [column for column in layout.columns if column not in names]:
        between = f" with a {separator} between them" if separator else ""
        refuse_missing(
            where,
            "column",
            missing,
            found,
            f"{between}, and expected those of ROCStories ({', '.join(ROC_COLUMNS)}) or of Story "
            f"Cloze ({', '.join(CLOZE_COLUMNS)})",
        )
    return layout


def _filled(row: _Row, column: str) -> str:
    return row.cells[column] or _refuse(row.where, column, "empty; fill it")


def _refuse(where: str, column: str, what: str) -> NoReturn:
    raise UserError(f"{where}, column {column}: {what}")


def _collect(layout: _Layout, rows: Iterable[_Row], name: str) -> list[Story]:
    stories: list[Story] = []
    seen: dict[str, str] = {}
    for row in rows:
        story = layout.story(row)
        if story.story_id in seen:
            first = seen[story.story_id]
            _refuse(
                row.where,
                layout.columns[0],
                f"{shown(story.story_id)} also stands in {first}; each story needs its own",
            )
        seen[story.story_id] = row.where
        stories.append(story)
    if not stories:
        raise UserError(f"{name} holds no story, only a header; add rows below it")
    return stories


def stories_from_tables(tables: Mapping[str, Table], name: str, columns: Columns) -> list[Story]:
    """Stories of all the tables together: `split` decides the parts, not the hub."""
    layouts = [
        _layout(table.column_names, f"{name}, {part}", columns) for part, table in tables.items()
    ]
    if not layouts or len(set(layouts)) > 1:
        raise UserError(f"--data.hub: {name} mixes layouts or has no table at all")
    rows = (
        _hub_row(f"{name}, {part}, row {number}", layouts[0].columns, columns.row(cells))
        for part, table in tables.items()
        for number, cells in enumerate(table, 1)
    )
    return _collect(layouts[0], rows, name)


def _hub_row(where: str, columns: Sequence[str], cells: Mapping[str, object]) -> _Row:
    texts = {}
    for column in columns:
        cell = cells[column]
        if column == CLOZE_ANSWER and isinstance(cell, int):  # the hub types its columns
            cell = str(cell)
        if not isinstance(cell, str):
            _refuse(where, column, f"expected text, got {type(cell).__name__}; mend it there")
        texts[column] = _checked(cell, where, column)
    return _Row(where, texts)
