"""Sentences labelled objective or subjective, with a fixed split.

Reads the embedded set, JSON lines and the same columns from the Hugging Face hub, splits them into
a labelled pool, validation and test, and draws a few labels from the pool. White space is folded
and blank lines are ignored; anything else that is malformed is refused with its line.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import NoReturn

import numpy as np

from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import folded, text_lines
from gfn_ray.data.hash_split import place
from gfn_ray.data.hub import Table, load_tables, load_test_table
from gfn_ray.data.leakage import kept_apart, same_text
from gfn_ray.data.strict_json import parse_json
from gfn_ray.errors import UserError, shown

EMBEDDED = "subjectivity.csv"
LABELS = ("objective", "subjective")
COLUMNS = ("text", "label")

# Ends of the pool and of the validation part, as shares of all sentences; the rest is the test.
POOL_END, VALIDATION_END = 0.32, 0.51


@dataclass(frozen=True)
class Sentence:
    """label: 0 objective (a statement of the plot), 1 subjective (an opinion)."""

    sentence_id: str
    text: str
    label: int


@dataclass(frozen=True)
class Splits:
    """pool: labels are drawn from it. notes: remarks for people on how the splits were made."""

    pool: list[Sentence]
    validation: list[Sentence]
    test: list[Sentence]
    notes: tuple[str, ...] = ()


def load_sentences(config: DataConfig, *, validate: bool = True) -> Splits:
    """Loads and splits the configured source; raises UserError if it is malformed.

    An embedded sentence's part depends on its id alone, any other's on its text, so that equal
    texts stay together on every machine and whatever else the source contains. With a separate
    test source, the other sentences are the pool, less a share for validation if requested, and
    the test has none of them.
    """
    columns = Columns.of(config)
    if config.hub is not None:
        tables = load_tables(config)
        splits = _split(_of_tables(tables, config.hub, columns), config.hub, by_id=False)
    elif config.path is not None:
        rows = _of_json_lines(config.path, "--data.path", columns)
        splits = _split(rows, str(config.path), by_id=False)
    else:
        splits = _split(_embedded(), EMBEDDED, by_id=True)
    if config.has_test:
        test = _load_test(config, columns)
        if validate:
            pool, validation = [*splits.pool, *splits.test], splits.validation
        else:
            pool, validation = [*splits.pool, *splits.test, *splits.validation], []
        kept = kept_apart(test, [*pool, *validation], lambda one: same_text(one.text), "sentence")
        splits = Splits(pool, validation, *kept)
    columns.check_all_found()
    return splits


def draw_labels(
    pool: Sequence[Sentence],
    labels: int,
    draw: int,
    fits: Callable[[Sentence], bool] = lambda _: True,
) -> list[Sentence]:
    """Draws `labels` sentences of the pool that fit, half of each label, alternating.

    If labels is odd, objective has one more. A larger number with the same draw contains the
    smaller one's sentences.
    """
    rng = np.random.default_rng(draw)
    chosen = []
    for label, name in enumerate(LABELS):
        found = [one for one in pool if one.label == label]
        wanted = (labels + 1 - label) // 2
        shuffled = (found[i] for i in rng.permutation(len(found)))
        drawn = list(islice(filter(fits, shuffled), wanted))
        if len(drawn) < wanted:
            raise UserError(
                f"task.labels {labels} needs {wanted} {name} sentences, and the pool has "
                f"{len(drawn)}; lower it or give more data"
            )
        chosen.append(drawn)
    return [chosen[i % 2][i // 2] for i in range(labels)]


def with_noise(labelled: Sequence[Sentence], share: float, draw: int) -> list[Sentence]:
    """The same sentences, a share of them with the other label. A larger share of the same draw
    has those of a smaller one wrong, too."""
    order = np.random.default_rng([draw, len(labelled)]).permutation(len(labelled))
    wrong = set(order[: round(share * len(labelled))].tolist())
    return [replace(s, label=1 - s.label) if i in wrong else s for i, s in enumerate(labelled)]


def _load_test(config: DataConfig, columns: Columns) -> list[Sentence]:
    """Loads the separate test source, with ids that no other sentence has."""
    if config.test_path is not None:
        rows = _of_json_lines(config.test_path, "--data.test-path", columns)
    else:
        rows = _of_tables(load_test_table(config), str(config.hub), columns)
    found = _some(rows, str(config.test_path or config.hub))
    return [replace(one, sentence_id=f"test-{one.sentence_id}") for one in found]


def _some(sentences: Iterable[Sentence], source: str) -> list[Sentence]:
    found = list(sentences)
    if not found:
        raise UserError(f"{source} holds no sentence; give {' and '.join(COLUMNS)} of each")
    return found


def _split(sentences: Iterable[Sentence], source: str, *, by_id: bool) -> Splits:
    parts = Splits([], [], [])
    for one in _some(sentences, source):
        where = place(one.sentence_id if by_id else one.text)
        if where < POOL_END:
            parts.pool.append(one)
        elif where < VALIDATION_END:
            parts.validation.append(one)
        else:
            parts.test.append(one)
    return parts


def _embedded() -> Iterator[Sentence]:
    file = resources.files("gfn_ray.data") / EMBEDDED
    if not file.is_file():
        raise UserError(
            f"this installation lacks gfn_ray/data/{EMBEDDED}; reinstall it, or give --data.path"
        )
    for row in csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))):
        yield Sentence(row["id"], row["text"], LABELS.index(row["label"]))


def _of_json_lines(path: Path, setting: str, columns: Columns) -> Iterator[Sentence]:
    for number, (where, text) in enumerate(text_lines(path, setting), 1):
        if text.strip():
            yield _json_row(text, where, f"line-{number}", columns)


def _json_row(text: str, where: str, sentence_id: str, columns: Columns) -> Sentence:
    try:
        row = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: not a line of JSON: {error}") from None
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with {' and '.join(COLUMNS)}; fix it there")
    named = columns.row(row)
    if missing := [key for key in COLUMNS if key not in named]:
        refuse_missing(where, "key", missing, row)
    return _sentence(named, where, sentence_id)


def _of_tables(tables: Mapping[str, Table], name: str, columns: Columns) -> Iterator[Sentence]:
    for part, table in tables.items():
        names = columns.expected(table.column_names)
        if missing := [column for column in COLUMNS if column not in names]:
            refuse_missing(f"{name}, {part}", "column", missing, table.column_names)
        for number, row in enumerate(table, 1):
            where = f"{name}, {part}, row {number}"
            yield _sentence(columns.row(row), where, f"{part}-{number}")


def _sentence(row: Mapping[str, object], where: str, sentence_id: str) -> Sentence:
    text, label, named = (row.get(key) for key in (*COLUMNS, "label_text"))
    if not isinstance(text, str) or not text.strip():
        _refuse(where, "text", "a sentence", text)
    if not isinstance(label, int) or isinstance(label, bool) or label not in (0, 1):
        _refuse(where, "label", "0 (objective) or 1 (subjective)", label)
    if named is not None and named != LABELS[label]:
        _refuse(where, "label_text", f"{LABELS[label]!r}, as label {label} says", named)
    return Sentence(sentence_id, folded(text, f"{where}, text"), int(label))


def _refuse(where: str, column: str, expected: str, got: object) -> NoReturn:
    raise UserError(f"{where}, {column}: expected {expected}, got {shown(got)}; fix it there")
