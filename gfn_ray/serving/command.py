"""Serving from the shell: python -m gfn_ray sample|predict ADAPTER --FIELD TEXT ...

Defines its flags and output. Imports nothing heavy before the arguments are parsed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gfn_ray import __version__
from gfn_ray.errors import UserError
from gfn_ray.formatting import one_line, take_any_text

if TYPE_CHECKING:
    from gfn_ray.serving.samples import Prediction, Sample

HELP = """\
usage: python -m gfn_ray sample ADAPTER [--FIELD TEXT] ... [--OPTION VALUE] ...
       python -m gfn_ray predict ADAPTER ...

sample   draws z from the policy of a trained adapter, with log q of each in nats
predict  averages the answers of such samples: each answer with its share of samples

ADAPTER is an adapter directory of a run, such as runs/infill-latest/adapter. A query's texts are
flags named by its task's fields: --beginning and --ending for infill.

  --n N         samples [default 8 for sample, 16 for predict]
  --seed N      the same seed gives the same samples [default 0]
  --model NAME  the base model, if it is no longer where the run had it
  --base-adapter DIRECTORY  the adapter of --task.base-adapter, likewise
  --resample    draw samples from more candidates by R/q: closer to the posterior
  --candidates N  how many [default: 4 for each sample]
  --weighted    weigh the answers of predict by R/q
  --json        one JSON object per line
  --help, -h
  --version

Your own task is served from Python: gfn_ray.sample(adapter, query, n, task=MyTask)."""

_SAMPLES = {"sample": 8, "predict": 16}
_SWITCHES = {"--json": "as_json", "--resample": "resample", "--weighted": "weighted"}


@dataclass
class Words:
    """The parsed command line."""

    verb: str
    adapter: str
    n: int
    seed: int = 0
    model: str | None = None
    base_adapter: str | None = None
    resample: bool = False
    candidates: int | None = None
    weighted: bool = False
    as_json: bool = False
    query: dict[str, str] = field(default_factory=dict)


def command(arguments: Sequence[str]) -> int:
    """Runs one command and returns the exit code; raises UserError for a wrong argument."""
    if not arguments or "--help" in arguments or "-h" in arguments:
        print(HELP)
        return 0
    if "--version" in arguments:
        print(f"gfn_ray {__version__}")
        return 0
    words = read_words(arguments)
    from gfn_ray.serving.policy import ServedPolicy

    with ServedPolicy(words.adapter, model=words.model, base_adapter=words.base_adapter) as policy:
        query, n, seed = words.query, words.n, words.seed
        if words.verb == "sample":
            drawn = policy.sample(
                query, n, seed=seed, resample=words.resample, candidates=words.candidates
            )
            _print_samples(drawn, words.as_json)
        else:
            found = policy.predict(query, n, seed=seed, weighted=words.weighted)
            _print_answers(found, words.as_json)
    return 0


def _print_samples(drawn: list[Sample], as_json: bool) -> None:
    if (effective := getattr(drawn, "effective_sample_size", None)) is not None:
        print(f"effective sample size {effective:.1f}", file=sys.stderr)
    for one in drawn:
        record = {**vars(one), "token_ids": list(one.token_ids)}
        _print(record, f"{one.log_q:9.3f}  {one_line(one.text)}", as_json)


def _print_answers(found: Prediction, as_json: bool) -> None:
    for answer, weight in found.answers:
        record = {"answer": answer, "weight": weight}
        _print(record, f"{weight:6.3f}  {one_line(answer)}", as_json)
    if found.unanswered:
        share = found.unanswered
        _print({"answer": None, "weight": share}, f"{share:6.3f}  (no answer)", as_json)


def read_words(arguments: Sequence[str]) -> Words:
    """Parses a command line; raises UserError that names a wrong argument."""
    verb, *rest = arguments
    if verb not in _SAMPLES:
        raise UserError(f"the command is sample or predict, got {verb!r}; see --help")
    if not rest or rest[0].startswith("--"):
        raise UserError(f"{verb} needs an adapter directory, such as runs/infill-latest/adapter")
    words = Words(verb, rest[0], _SAMPLES[verb])
    left = rest[:0:-1]
    while left:
        word = left.pop()
        if not word.startswith("--"):
            raise UserError(f"unexpected word {word!r}; a query's texts are written --name TEXT")
        if word in _SWITCHES:
            setattr(words, _SWITCHES[word], True)
            continue
        flag, equals, text = word.partition("=")
        if not equals:
            if not left:
                raise UserError(f"{flag} got no text")
            text = left.pop()
        name = flag[2:].replace("-", "_")
        if name == "n":
            words.n = _whole(flag, text)
        elif name == "seed":
            words.seed = _whole(flag, text)
        elif name == "candidates":
            words.candidates = _whole(flag, text)
        elif name == "model":
            words.model = text
        elif name == "base_adapter":
            words.base_adapter = text
        else:
            words.query[name] = text
    return words


def _whole(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{flag} got {text!r}; it takes a whole number") from None


def _print(record: dict[str, object], line: str, as_json: bool) -> None:
    takes_all = take_any_text(sys.stdout)
    if as_json:
        line = json.dumps(record, ensure_ascii=not takes_all)  # escapes lose nothing
        if not line.isprintable():  # control codes from a model must not reach a terminal
            line = json.dumps(record)
    print(line)
