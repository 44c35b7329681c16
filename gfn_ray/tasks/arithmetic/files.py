"""Arithmetic problems from files: JSON lists in the format that the method's paper published.

Defines the format, its optional fields, and which rows are used for training and test. A repeated
question counts once. White space around a text is ignored; a row that contradicts itself is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gfn_ray.data.columns import Columns, refuse_missing
from gfn_ray.data.files import read_document
from gfn_ray.data.leakage import kept_apart
from gfn_ray.data.strict_json import parse_json
from gfn_ray.errors import UserError, shown
from gfn_ray.formatting import count
from gfn_ray.tasks.arithmetic.config import ArithmeticConfig, ArithmeticDataConfig
from gfn_ray.tasks.arithmetic.data import Problem, Splits, generate, parse

_NEEDED = ("str_query", "num_sol")
_KEYS = (*_NEEDED, "str_rationale", "str_sol")


@dataclass(frozen=True)
class ProblemFile:
    """demonstrations: rows with a rationale. problems: the others. repeated: number of rows with
    the question of an earlier one, which are in neither."""

    path: Path
    demonstrations: list[Problem]
    problems: list[Problem]
    repeated: int

    @property
    def all(self) -> list[Problem]:
        return [*self.demonstrations, *self.problems]

    @property
    def notes(self) -> tuple[str, ...]:
        if not self.repeated:
            return ()
        rows = count(self.repeated, "row")
        return (f"{rows} of {self.path} left out because an earlier one has the same question",)


def load_splits(config: ArithmeticDataConfig, task: ArithmeticConfig) -> Splits:
    """Returns the given problems, and generated ones for the rest; no two splits share a question.

    A file's rows with a rationale are the demonstrations, the others the training problems; if it
    has none of a kind, all of that kind are generated. Test rows that are also in the other file,
    used or not, are left out. Raises UserError for an invalid file, and for one with some but too
    few rows of a kind.
    """
    columns = Columns.of(config)
    given = test = None
    notes: list[str] = []
    if config.path is not None:
        given = read_problems(config.path, "--data.path", columns)
        notes += given.notes
    if config.test_path is not None:
        file = read_problems(config.test_path, "--data.test-path", columns)
        test, left_out = kept_apart(file.all, given.all if given else [], _itself, "problem")
        test, others = _of_lengths(test, task, file)
        notes += [*file.notes, *left_out, *others]
        if task.eval_split != "test":
            notes.append(
                f"evaluated on generated problems: those of {file.path} are kept out of training, "
                "and --task.eval-split test evaluates on them"
            )
    columns.check_all_found()
    demonstrations: int | Sequence[Problem] = task.demonstrations
    problems: int | Sequence[Problem] = task.problems
    if given is not None and given.demonstrations:
        demonstrations = _taken(given.demonstrations, task.demonstrations, "demonstrations", given)
    elif given is not None and task.demonstrations:
        notes.append(
            f"{given.path} has no str_rationale: the {count(task.demonstrations, 'demonstration')} "
            "of this run are generated"
        )
    if given is not None and given.problems:
        problems = _taken(given.problems, task.problems, "problems", given)
    splits = generate(
        task.data_seed,
        demonstrations=demonstrations,
        problems=problems,
        train_operands=task.train_operands,
        held_out=task.held_out,
        held_out_operands=task.eval_operands,
        largest_operand=task.largest_operand,
        test=test,
    )
    return replace(splits, notes=tuple(notes))


def read_problems(path: Path, setting: str, columns: Columns) -> ProblemFile:
    """Reads the problems of a JSON list of {str_query, num_sol, str_rationale, str_sol}.

    The last two are optional, and so are the values of a rationale's steps ("6 - 0 =, 6 - 4 =").
    Raises UserError, with the row (the first is 1), for anything else, and for a row whose texts
    contradict each other.
    """
    try:
        rows = parse_json(read_document(path, setting))
    except ValueError as error:
        raise UserError(f"{setting}: {path} is not JSON: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f"{setting}: {path} is not a list of problems; expected [{{{', '.join(_KEYS)}}}, ...]"
        )
    solved: dict[Problem, bool] = {}
    for number, row in enumerate(rows, 1):
        problem, has_rationale = _problem(row, f"{path}, row {number}", columns)
        solved[problem] = solved.get(problem, False) or has_rationale
    with_it, without = (
        [one for one, has in solved.items() if has is kind] for kind in (True, False)
    )
    return ProblemFile(path, with_it, without, repeated=len(rows) - len(solved))


def _problem(row: object, where: str, columns: Columns) -> tuple[Problem, bool]:
    """Returns a row's problem, and whether it has a rationale."""
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with {', '.join(_KEYS)}; fix it there")
    cells = columns.row(row)
    if missing := [key for key in _NEEDED if key not in cells]:
        refuse_missing(where, "key", missing, row)
    there = [key for key in _KEYS if key in _NEEDED or cells.get(key) is not None]
    for key in there:
        if not isinstance(cells[key], (str, int)) or isinstance(cells[key], bool):
            raise UserError(
                f"{where}, {key}: got {shown(cells[key])}; expected text or a whole number"
            )
    texts = {key: str(cells[key]).strip() for key in there}
    problem = _asked(texts["str_query"])
    if problem is None:
        raise UserError(
            f"{where}, str_query: got {shown(cells['str_query'])}; expected one such as "
            "'Question: 6 - 0 - 4 = ? Answer:'"
        )
    for key, right in _right(problem).items():
        if key in texts and texts[key] not in right:
            raise UserError(f"{where}, {key}: got {shown(cells[key])}; expected {shown(right[0])}")
    return problem, "str_rationale" in texts


def _asked(question: str) -> Problem | None:
    try:
        problem = parse(question.removeprefix("Question: ").removesuffix(" = ? Answer:"))
    except ValueError:
        return None
    return problem if question == problem.question else None


def _right(problem: Problem) -> Mapping[str, Sequence[str]]:
    """Returns the accepted values of each text of a problem."""
    without_values = re.sub(r"= -?[0-9]+", "=", problem.rationale)
    return {
        "num_sol": (str(problem.solution),),
        "str_rationale": (without_values.strip(), problem.rationale.strip()),
        "str_sol": (problem.answer,),
    }


def _taken(found: Sequence[Problem], asked: int, kind: str, file: ProblemFile) -> list[Problem]:
    if len(found) < asked:
        with_or_without = "with" if kind == "demonstrations" else "without"
        raise UserError(
            f"task.{kind} asks for {asked}, and --data.path {file.path} has {len(found)} "
            f"{with_or_without} str_rationale; lower it"
        )
    return list(found[:asked])


def _of_lengths(
    test: Sequence[Problem], task: ArithmeticConfig, file: ProblemFile
) -> tuple[list[Problem], tuple[str, ...]]:
    """Returns the problems with task.eval_operands, and a note on how many others there are."""
    asked = ", ".join(map(str, sorted(task.eval_operands)))
    kept = [problem for problem in test if len(problem.operands) in task.eval_operands]
    if not kept:
        raise UserError(
            f"--data.test-path: {file.path} has no problem with as many operands as "
            f"task.eval_operands asks for ({asked}); change that"
        )
    if len(kept) == len(test):
        return kept, ()
    left_out = count(len(test) - len(kept), "problem")
    return kept, (
        f"{left_out} of {file.path} left out: task.eval_operands asks for {asked} operands",
    )


def _itself(problem: Problem) -> Problem:
    return problem
