"""Whatever a file or a command line holds, its reader gives a sound value or a UserError.

Any other exception fails these tests. Bytes are drawn at random, as text, as pieces of the format
in a random order, and as a valid file with a part replaced.
"""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout

import pytest
import tomli_w
from hypothesis import example, given
from hypothesis import strategies as st

from gfn_ray.cli import parse
from gfn_ray.config import DataConfig
from gfn_ray.data.columns import Columns
from gfn_ray.data.stories import CLOZE_COLUMNS, LAYOUTS, ROC_COLUMNS, load_stories
from gfn_ray.data.strict_json import parse_json
from gfn_ray.errors import UserError
from gfn_ray.serving.command import Words, read_words
from gfn_ray.settings import put, settings_of
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.arithmetic.data import Problem
from gfn_ray.tasks.arithmetic.data import parse as problem_of
from gfn_ray.tasks.arithmetic.files import read_problems
from gfn_ray.tasks.continuation.config import ContinuationJob, PromptDataConfig
from gfn_ray.tasks.continuation.data import load_prompts
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.subjectivity.config import SubjectivityDataConfig, SubjectivityJob
from gfn_ray.tasks.subjectivity.data import load_sentences
from testing.examples import examples

JOBS = (InfillJob, ContinuationJob, RandomNumberJob, ArithmeticJob, SubjectivityJob)
fuzz = examples(200)

STORIES = b"\r\n".join(
    [
        ",".join(ROC_COLUMNS).encode(),
        b's1,A Race,Ann ran.,"She fell, and rose.",She won.,"She said ""yes"".",It rained.',
        "s2,Café,Zoë ate.,She paid.,She left.,It was noon.,Rain fell.".encode(),
    ]
)
CLOZE = ",".join(CLOZE_COLUMNS).encode() + b"\nc1,One.,Two.,Three.,Four.,Five.,Six.,2\n"
PROMPTS = "It rained.\n\n\tThe  shop was closed.\r\nLast: Zoë".encode()
SUM = problem_of("6 - 0 - 4")
SUMS = json.dumps(
    [
        {
            "str_query": SUM.question,
            "num_sol": SUM.solution,
            "str_rationale": SUM.rationale,
            "str_sol": SUM.answer,
        }
    ],
    indent=1,
).encode()
SENTENCES = (
    b'{"text": "A man rows.", "label": 0, "label_text": "objective"}\n\n'
    b'{"text": "Dull.", "label": 1}'
)

JSON_PIECES = [*'[]{},:"\\', "\n", " ", "1e999", "NaN", "-", "9" * 30, "9" * 5000, "true", "null"]
JSON_PIECES += [r"\ud800", r"\u0000", '"label"', '"text"', '"num_sol"', '"str_query"', '"a b"']
CSV_PIECES = [*',"\r\n', "\0", "\ufeff", "a", " ", "1", *ROC_COLUMNS, *CLOZE_COLUMNS]
TOML_PIECES = [*"[]{}=.\"'#,\n", " ", "'''", "\r", "1", "-inf", "0x" + "f" * 5000, "9" * 5000]
TOML_PIECES += ["1979-05-27T07:32:00+25:00", "steps", "learner", "lr", "seed", "run_dir", "true"]


def pieces(of):
    return st.lists(st.sampled_from(of), max_size=40).map(lambda found: "".join(found).encode())


@st.composite
def damaged(draw, valid):
    """A valid file with a part of it replaced by others, or by anything."""
    start = draw(st.integers(0, len(valid)))
    end = draw(st.integers(start, min(len(valid), start + 30)))
    other = draw(st.integers(0, len(valid)))
    put_in = draw(st.binary(max_size=6) | st.just(valid[other : other + 20]))
    return valid[:start] + put_in + valid[end:]


def contents(of, *valid):
    text = st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    return st.one_of(st.binary(max_size=200), text, pieces(of), *map(damaged, valid))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "data"


def read(reader, *arguments):
    """What it reads; None, once it has refused in a sentence on one line."""
    try:
        return reader(*arguments)
    except UserError as error:
        assert str(error).strip()
        return None


def sound(text):
    """A text as a prompt can hold it: of whole characters, without NUL, its white space folded."""
    text.encode("utf-8")
    return "\0" not in text and text == " ".join(text.split())


@fuzz
@given(contents(CSV_PIECES, STORIES, CLOZE))
def test_stories(file, raw):
    file.write_bytes(raw)
    stories = read(load_stories, DataConfig(path=file))
    if stories is not None:
        assert stories and len({one.story_id for one in stories}) == len(stories)
        assert all(len(one.sentences) == 5 and all(one.sentences) for one in stories)
        assert all(map(sound, (text for one in stories for text in (one.title, *one.sentences))))


@fuzz
@given(st.sampled_from(LAYOUTS), st.lists(st.lists(st.text(max_size=5), max_size=9), max_size=4))
def test_stories_of_any_cells_below_a_good_header(file, layout, rows):
    quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in rows]
    text = "\n".join(",".join(row) for row in [layout.columns, *quoted])
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    stories = read(load_stories, DataConfig(path=file))
    assert stories is None or all(map(sound, (text for one in stories for text in one.sentences)))


@fuzz
@given(contents(["One.", " ", "\n", "\r", "\t", "\x85", "\u2028", "\0", "\ufeff"], PROMPTS))
def test_prompts(file, raw):
    file.write_bytes(raw)
    parts = read(load_prompts, PromptDataConfig(path=file))
    if parts is not None:
        prompts = [*parts.train, *parts.held_out]
        assert prompts and len({one.prompt_id for one in prompts}) == len(prompts)
        assert all(one.text and sound(one.text) for one in prompts)


@fuzz
@given(contents(JSON_PIECES, SUMS))
@example(b"[" * 100_000)
@example(b'[{"str_query":' * 400 + b"1")
def test_problems(file, raw):
    file.write_bytes(raw)
    found = read(problems_of, file)
    if found is not None:
        assert found.all and len(set(found.all)) == len(found.all)
        assert all(problem_of(one.expression) == one for one in found.all)


def problems_of(file):
    return read_problems(file, "--data.path", Columns({}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@fuzz
@given(
    st.sampled_from(["str_query", "num_sol", "str_rationale", "str_sol"]),
    VALUES | st.sampled_from([2, "2", SUM.question, SUM.rationale, SUM.answer]),
)
def test_problems_with_any_value_in_a_field(file, field, value):
    rows = json.loads(SUMS)
    rows[0][field] = value
    file.write_text(json.dumps(rows))
    found = read(problems_of, file)
    assert found is None or found.all == [SUM]


@fuzz
@given(st.text(max_size=20) | st.text("0123456789+- ", max_size=20))
def test_expressions(text):
    try:
        found = problem_of(text)
    except ValueError:
        return
    assert isinstance(found, Problem)
    assert problem_of(found.expression) == found


@fuzz
@given(contents(JSON_PIECES, SENTENCES))
@example(b"[" * 100_000)
@example(b'{"text": ' + b"[" * 900 + b"]" * 900 + b"}")
def test_sentences(file, raw):
    file.write_bytes(raw)
    check_sentences(file)


@fuzz
@given(st.dictionaries(st.sampled_from(["text", "label", "label_text", "x"]), VALUES))
def test_sentences_with_any_values(file, row):
    file.write_text(json.dumps(row))
    check_sentences(file)


def check_sentences(file):
    splits = read(load_sentences, SubjectivityDataConfig(path=file))
    if splits is not None:
        found = [*splits.pool, *splits.validation, *splits.test]
        assert found and all(one.text and sound(one.text) for one in found)
        assert {one.label for one in found} <= {0, 1}


@fuzz
@given(pieces(JSON_PIECES) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_what_is_read_as_json_is_what_pythons_own_reader_reads(raw):
    try:
        found = parse_json(raw.decode())
    except ValueError:
        return
    assert found == json.loads(raw)


def ends(job, argv):
    """The config, or None once a line has been said and the exit code is 2, or 0 for help."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            return parse(job, argv, "job.py")
    except SystemExit as ended:
        line = err.getvalue()
        if ended.code == 0:
            assert {"--help", "-h", "--version"} & set(argv) and out.getvalue() and not line
        else:
            assert ended.code == 2 and not out.getvalue()
            assert line.startswith("error: ") and line.removesuffix("\n").isprintable()
        return None


@fuzz
@given(contents(TOML_PIECES, dump_toml(InfillJob()).encode(), b"steps = 1\n[learner]\nlr = 1\n"))
@example(b"a = " + b"[" * 100_000)
@example(b"[data]\npath = '~no.one/x'")
def test_files_of_settings(file, raw):
    file.write_bytes(raw)
    ends(InfillJob, ["--config", str(file)])


@examples(100)
@given(st.data(), st.sampled_from(JOBS))
def test_files_of_settings_with_any_values(file, data, job):
    names = data.draw(st.lists(st.sampled_from(sorted(settings_of(job))), min_size=1, max_size=3))
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
    tree = {}
    for name in names:
        value = data.draw(
            st.integers() | st.floats() | text | st.booleans() | st.lists(text | st.integers())
        )
        put(tree, name, value)
    file.write_bytes(tomli_w.dumps(tree).encode())
    config = ends(job, ["--config", str(file)])
    if config is not None:
        file.write_text(dump_toml(config))
        assert ends(job, ["--config", str(file)]) == config


@fuzz
@given(st.data(), st.sampled_from(JOBS))
def test_command_lines(data, job):
    flags = [setting.flag for setting in settings_of(job).values()]
    flag = st.sampled_from([*flags, "--config", "--help", "-h", "--version", "--", "--no-", "--x"])
    value = st.text(max_size=6) | st.sampled_from(
        ["none", "true", "1", "0.5", "-1", "1e999", "9" * 5000, "~no.one", "a,b", "1,2", "{x.y}"]
    )
    equals = st.builds(lambda one, two: f"{one}={two}", flag, value)
    ends(job, data.draw(st.lists(flag | value | equals, max_size=5)))


@fuzz
@given(
    st.lists(
        st.sampled_from(
            ["sample", "predict", "--n", "--seed", "--json", "--model", "--=", "9" * 5000]
        )
        | st.text(max_size=6),
        min_size=1,
        max_size=6,
    )
)
def test_command_lines_of_serving(words):
    found = read(read_words, words)
    assert found is None or (isinstance(found, Words) and found.verb == words[0])
