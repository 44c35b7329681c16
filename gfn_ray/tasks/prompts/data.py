"""Rows of prompts: JSON lines, CSV, Parquet, the hub, or the embedded sets of three words.

Owns the formats, what a row must have, and the split. A malformed row is refused with its file, its
place and its column. Does not own tokens, nor what a reward function makes of the columns.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import bad_bytes, raw_lines, text_lines
from gfn_ray.data.hash_split import place
from gfn_ray.data.hub import load_tables, load_test_table
from gfn_ray.data.leakage import kept_apart, same_text
from gfn_ray.data.strict_json import parse_json
from gfn_ray.errors import UserError, shown
from gfn_ray.paths import unreadable
from gfn_ray.rewards.functions.judge import Prompt, Row
from gfn_ray.tasks.prompts.config import RowsConfig

TRAIN_SHARE = 0.8
PROMPT, DEMONSTRATION = "prompt", "demonstration"
EMBEDDED = "three_words.csv"
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_JSON = (".jsonl", ".json", ".ndjson")

# Two sentences show the form; the words of neither are among the sets.
EMBEDDED_PROMPT = """\
Each sentence has the three words before it.
(candle, window, storm) The candle stood in the window during the storm.
(farmer, truck, apples) The farmer filled the truck with apples.
({words})"""

Cells = Mapping[str, Any]


@dataclass(frozen=True)
class PromptRow:
    """row_id: of its query. demonstration: a known good completion, if the data have one."""

    row_id: str
    row: Row
    demonstration: str | None = None

    @property
    def content(self) -> str:
        """Equal for prompts that differ only in white space or in capital letters."""
        prompt = self.row.prompt
        return same_text(prompt if isinstance(prompt, str) else json.dumps(prompt))


@dataclass(frozen=True)
class Splits:
    """notes: what a person should know of how they came about."""

    train: list[PromptRow]
    held_out: list[PromptRow]
    notes: tuple[str, ...] = ()


def load_rows(config: RowsConfig) -> Splits:
    """Rows to train on and those held out: where a test is given apart, its rows; else those of
    every fifth prompt, by its text alone, so that equal prompts stay together."""
    columns = Columns.of(config)
    if config.hub is None and config.path is None:
        rows = [_embedded(words, where) for where, words in _embedded_words()]
    else:
        rows = _read(config, columns)
    if not config.has_test:
        return _split(rows, columns)
    test = _read_test(config, columns)
    columns.check_all_found()
    return Splits(rows, *kept_apart(test, rows, lambda one: one.content, "prompt"))


def rows_from_python(given: Iterable[str | Cells], config: RowsConfig) -> Splits:
    """Rows of a list, split in the same way: texts, or mappings with a prompt."""
    columns = Columns.of(config)
    rows = []
    for number, one in enumerate(given, 1):
        cells = {PROMPT: one} if isinstance(one, str) else one
        if not isinstance(cells, Mapping):
            raise UserError(
                f"prompts, row {number}: expected a text, or a dict with a prompt, got {shown(one)}"
            )
        rows.append(_row(columns.row(cells), f"prompts, row {number}", f"row-{number}"))
    return _split(rows, columns)


def prompt_of(cell: object, where: str) -> Prompt:
    """A prompt from a cell: a text, chat messages, or a text that is JSON of messages."""
    if isinstance(cell, str) and cell.lstrip().startswith("[{"):
        try:
            cell = parse_json(cell)
        except ValueError:
            return str(cell)  # a text that merely begins like JSON
    if isinstance(cell, str):
        if not cell.strip():
            _refuse(where, PROMPT, "empty; fill it")
        if found := bad_bytes(cell):
            _refuse(where, PROMPT, f"{found}; save the data as UTF-8 text")
        return cell
    if isinstance(cell, list) and cell and all(_is_message(one) for one in cell):
        return [{key: one[key] for key in ("role", "content")} for one in cell]
    _refuse(
        where, PROMPT, f"expected a text or chat messages with role and content, got {shown(cell)}"
    )


def _split(rows: Iterable[PromptRow], columns: Columns) -> Splits:
    columns.check_all_found()
    parts = Splits([], [])
    for one in rows:
        held_out = place(one.content) >= TRAIN_SHARE
        (parts.held_out if held_out else parts.train).append(one)
    return parts


def _is_message(one: object) -> bool:
    return isinstance(one, dict) and all(
        isinstance(one.get(key), str) for key in ("role", "content")
    )


def _read(config: RowsConfig, columns: Columns) -> list[PromptRow]:
    if config.hub is not None:
        tables = load_tables(config).items()
        return list(chain.from_iterable(_of_hub(config.hub, *one, columns) for one in tables))
    assert config.path is not None
    return _of_file(config.path, "--data.path", columns)


def _read_test(config: RowsConfig, columns: Columns) -> list[PromptRow]:
    """Under ids that no other row has."""
    if config.test_path is not None:
        return _of_file(config.test_path, "--data.test-path", columns, "test-")
    tables = load_test_table(config).items()
    found = [_of_hub(str(config.hub), *one, columns, "test-") for one in tables]
    return list(chain.from_iterable(found))


def _of_hub(
    name: str, part: str, table: Any, columns: Columns, before: str = ""
) -> Iterator[PromptRow]:
    for number, cells in enumerate(table, 1):
        where = f"{name}, {part}, row {number}"
        yield _row(columns.row(cells), where, f"{before}{part}-{number}")


def _of_file(path: Path, setting: str, columns: Columns, before: str = "") -> list[PromptRow]:
    kind = path.suffix.lower()
    if kind in _JSON:
        found = _json_rows(path, setting)
    elif kind in _SEPARATORS:
        found = _csv_rows(path, setting, _SEPARATORS[kind])
    elif kind == ".parquet":
        found = _parquet_rows(path, setting)
    else:
        raise UserError(
            f"{setting} got {path}; it takes a file whose name ends in .jsonl, .csv, .tsv or "
            ".parquet, by which its format is known"
        )
    rows = [
        _row(columns.row(cells), where, f"{before}row-{number}")
        for number, (where, cells) in enumerate(found, 1)
    ]
    if not rows:
        raise UserError(f"{setting} got {path}, which has no row; give it one a prompt")
    return rows


def _json_rows(path: Path, setting: str) -> Iterator[tuple[str, Cells]]:
    for where, line in text_lines(path, setting):
        if not line.strip():
            continue
        try:
            cells = parse_json(line)
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
        if not isinstance(cells, dict):
            raise UserError(
                f"{where}: expected an object with a key prompt, got {shown(cells)}; JSON lines "
                "have one object a line"
            )
        yield where, cells


def _csv_rows(path: Path, setting: str, separator: str) -> Iterator[tuple[str, Cells]]:
    text = (
        line
        for raw in raw_lines(path, setting)
        for line in io.StringIO(raw.decode("utf-8", "surrogateescape"), newline="")
    )
    reader = csv.DictReader(text, delimiter=separator, strict=True)
    try:
        for cells in reader:
            where = f"{path}, line {reader.line_num}"
            if None in cells or None in cells.values():
                got = sum(value is not None for value in cells.values())
                got += len(cells.get(None) or ()) - (None in cells)
                raise UserError(
                    f"{where}: {got} cells, and the header has {len(reader.fieldnames or ())}; is "
                    "a quote or a separator missing?"
                )
            yield where, cells
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not valid CSV: {error}; is a quote left open?"
        ) from None


def _parquet_rows(path: Path, setting: str) -> Iterator[tuple[str, Cells]]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{setting} got {path}: `pip install pyarrow` to read Parquet") from None
    number = 0
    try:
        with ParquetFile(path.expanduser()) as file:
            for batch in file.iter_batches():
                for cells in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", cells
    except OSError as error:
        raise unreadable(path, setting, error) from None
    except ArrowException as error:
        raise UserError(f"{setting} got {path}, which is no Parquet file: {error}") from None


def _row(cells: Cells, where: str, row_id: str) -> PromptRow:
    if PROMPT not in cells:
        refuse_missing(where, "column", [PROMPT], cells)
    columns = {}
    for name, cell in cells.items():
        if name not in (PROMPT, DEMONSTRATION):
            _check_plain(cell, where, name)
            columns[name] = cell
    demonstration = cells.get(DEMONSTRATION)
    if demonstration is not None and not isinstance(demonstration, str):
        _refuse(where, DEMONSTRATION, f"expected a text, got {shown(demonstration)}")
    prompt = prompt_of(cells[PROMPT], where)
    return PromptRow(row_id, Row(where, prompt, columns), demonstration or None)


def _check_plain(cell: object, where: str, name: str) -> None:
    """Refuses what cannot go to the process of a reward function as JSON."""
    try:
        json.dumps(cell)
    except (TypeError, ValueError):
        _refuse(
            where,
            name,
            f"a {type(cell).__name__}; a reward function gets texts, numbers, booleans, lists and "
            "objects of them: write it as one, or leave the column out",
        )
    if isinstance(cell, str) and (found := bad_bytes(cell)):
        _refuse(where, name, f"{found}; save the data as UTF-8 text")


def _embedded_words() -> list[tuple[str, str]]:
    file = resources.files("gfn_ray.data") / EMBEDDED
    if not file.is_file():
        raise UserError(
            f"this installation lacks gfn_ray/data/{EMBEDDED}; reinstall it, or give --data.path"
        )
    sets = csv.reader(io.StringIO(file.read_text(encoding="utf-8")))
    return [
        (f"{EMBEDDED}, line {number}", ", ".join(words)) for number, words in enumerate(sets, 1)
    ]


def _embedded(words: str, where: str) -> PromptRow:
    prompt = EMBEDDED_PROMPT.format(words=words)
    return PromptRow(words, Row(where, prompt, {"words": words}))


def _refuse(where: str, column: str, what: str) -> NoReturn:
    raise UserError(f"{where}, column {column}: {what}")
