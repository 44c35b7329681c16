"""Data that cannot be: each file gets exit code 2 and one sentence with the place and the cure.

Through the task that reads it, up to where a run would start. What each parser makes of good data
is held by the tests of gfn_ray.data.
"""

from __future__ import annotations

import csv
import io
import json
import os
import socket

import pytest
from transformers import AutoTokenizer

from gfn_ray.cli import parse
from gfn_ray.data.stories import CLOZE_COLUMNS, ROC_COLUMNS
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.arithmetic.data import parse as problem_of
from gfn_ray.tasks.arithmetic.task import ArithmeticTask
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.continuation.task import ContinuationTask
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.infill.task import InfillTask
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from gfn_ray.tasks.subjectivity.task import SubjectivityTask
from testing.refusals import put, refusal, sparse, unprivileged

GIB, MIB = 2**30, 2**20
SENTENCES = [f"{name} ran home." for name in ("Ann", "Bob", "Cid", "Dee", "Eve")]
STORY = ["s1", "A Race", *SENTENCES]
CLOZE = ["c1", *SENTENCES, "All fell.", "3"]
LABELLED = {"text": "Ann ran home.", "label": 0, "label_text": "objective"}
SUM = problem_of("6 - 0 - 4")
ROW = {
    "str_query": SUM.question,
    "num_sol": SUM.solution,
    "str_rationale": SUM.rationale,
    "str_sol": SUM.answer,
}


def table(*rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def stories(*rows):
    return table(ROC_COLUMNS, *rows)


def lines(*rows):
    return "\n".join(map(json.dumps, rows))


def nested(depth):
    return "[" * depth + "]" * depth


def listen(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)  # the test's directory is the current one: no name is too long


# What lies at `data`, and what the sentence names. The first are every reader's alike.
STORIES = {
    "missing": (None, ["--data.path", "data: No such file", "check the path"]),
    "directory": (lambda p: p.mkdir(), ["--data.path", "data: it is a directory; give a file"]),
    "pipe that nobody writes": (os.mkfifo, ["--data.path", "data: it is a pipe; save its"]),
    "socket": (listen, ["--data.path", "data: it is a socket; save its output to a file"]),
    "device": (lambda p: p.symlink_to("/dev/zero"), ["--data.path", "data: it is a device"]),
    "link to itself": (lambda p: p.symlink_to(p.name), ["--data.path", "data: Too many levels"]),
    "more than 1 GiB": (sparse(GIB + 1), ["--data.path", "1,073,741,824 bytes; give a part"]),
    "line of 1 GiB": (sparse(GIB), ["data, line 1: more than 1,048,576 bytes; break the line up"]),
    "empty": ("", ["data is empty", "a CSV file with a header line"]),
    "byte-order mark alone": ("\ufeff", ["data is empty", "with a header line"]),
    "utf-16": (stories(STORY).encode("utf-16"), ["data is UTF-16", "save it as UTF-8"]),
    "utf-32": (stories(STORY).encode("utf-32"), ["data is UTF-32", "save it as UTF-8"]),
    "compressed": (b"\x1f\x8b\x08" + bytes(range(256)), ["data, line 1", "not UTF-8; save"]),
    "latin-1": (
        stories(STORY, ["s2", "Caf\xe9", *SENTENCES]).encode("latin-1"),
        ["data, line 3, column storytitle", "save the file as UTF-8"],
    ),
    "NUL": (stories(STORY).replace("Bob", "B\0b"), ["line 2, column sentence2", "a NUL byte"]),
    "no header": (table(STORY), ["data, line 1: missing columns", "those of ROCStories"]),
    "column missing": (
        table(ROC_COLUMNS[:-1], STORY[:-1]),
        ["missing column sentence5; found storyid, storytitle, sentence1", "a comma between"],
    ),
    "column twice": (table([*ROC_COLUMNS, "storyid"], STORY), ["named twice: 'storyid'"]),
    "semicolons, two columns with other names": (
        stories(STORY).replace(",", ";").replace("sentence", "Sentence", 2),
        [
            "data, line 1: missing columns sentence1, sentence2; found storyid, storytitle, Senten",
            "with a semicolon between them",
            "--data.columns",
        ],
    ),
    "tab unquoted": (
        stories([*STORY, "x"]).replace(",", "\t"),
        ["line 2, column number 8", "a tab unquoted?"],
    ),
    "cell missing": (stories(STORY[:-1]), ["line 2, column sentence5: missing", "expected 7"]),
    "comma unquoted": (stories([*STORY, "x"]), ["line 2, column number 8", "a comma unquoted?"]),
    "quote left open": (stories(STORY) + 's2,"T', ["line 3: not valid CSV", "quote left open"]),
    "cell of 200,000": (
        stories(["s1", "x " * 100_000, *SENTENCES]),
        ["line 2: not valid CSV: field larger than field limit (131072)"],
    ),
    "sentence of blanks": (stories([*STORY[:-1], " "]), ["line 2, column sentence5: empty"]),
    "header alone": (stories(), ["data holds no story, only a header; add rows"]),
    "id twice": (stories(STORY, STORY), ["line 3, column storyid", "'s1'", "needs its own"]),
    "answer 3": (table(CLOZE_COLUMNS, CLOZE), ["line 2, column AnswerRight", "expected 1 or 2"]),
    "too few": (stories(STORY), ["eval.queries asks for 24", "lower it or give more stories"]),
}
PROMPTS = {
    "empty": ("", ["data holds no prompt", "give one per line"]),
    "blank": (" \n\t\r\n", ["data holds no prompt", "give one per line"]),
    "bytes in the third line": (b"One.\nTwo.\n\x80\n", ["data, line 3: bytes that are not UTF-8"]),
    "NUL": ("One.\nT\0o.\n", ["data, line 2: a NUL byte"]),
    "second line of 2 MiB": ("One.\n" + "x" * 2 * MIB, ["data, line 2: more than 1,048,576"]),
    "too few": ("One.\nTwo.\n", ["eval.queries asks for 20", "give more prompts"]),
    "one prompt a thousand times": ("One.\n" * 1000, ["eval.queries", "the data has 0"]),
    "prompt of 1,000 words": (
        "\n".join(["word " * 1000, *(f"Sentence {i}." for i in range(300))]),
        ["the prompt of text 'line-1' has", "sampler.max_prompt_tokens allows 235"],
    ),
}
SUMS = {
    "empty": ("", ["data is not JSON: Expecting value at column 1"]),
    "comma missing": (
        '[\n{"str_query": ""\n"num_sol": 2}]',
        ["--data.path: ", "/data is not JSON: Expecting ',' delimiter at line 3, column 1"],
    ),
    "JSON lines": (lines(ROW, ROW), ["data is not JSON: Extra data at line 2, column 1"]),
    "bytes in the second line": (b'[\n"\xff"]', ["data, line 2: bytes that are not UTF-8"]),
    "NUL": (b"[]\0", ["data, line 1: a NUL byte"]),
    "more than 64 MiB": (sparse(64 * MIB + 1), ["--data.path", "67,108,864 bytes; give a part"]),
    "too deep": (nested(99_999), ["data is not JSON", "nested too deep; flatten it"]),
    "number of 5,000 digits": ("[" + "9" * 5000 + "]", ["more than 18 digits; write a smaller"]),
    "number beyond a float": ("[1e999]", ["the number '1e999' is too large; write a smaller"]),
    "NaN": ("[NaN]", ["data is not JSON: NaN is not JSON; write a number or null"]),
    "key twice": ('[{"num_sol": 1, "num_sol": 2}]', ["the key 'num_sol' occurs twice"]),
    "half a pair": (r'[{"str_sol": "\ud83d"}]', ["'str_sol' has half of a surrogate pair; write"]),
    "an object": (
        json.dumps(ROW),
        ["data is not a list of problems; expected [{str_query, num_sol"],
    ),
    "empty list": ("[]", ["data is not a list of problems"]),
    "row that is a text": (json.dumps([ROW, "6 - 0"]), ["data, row 2: expected an object with"]),
    "key missing": (
        json.dumps([{"str_query": ""}]),
        ["data, row 1: missing key num_sol; found str_query; --data.columns"],
    ),
    "value of a wrong type": (
        json.dumps([{**ROW, "str_sol": json.loads(nested(500))}]),
        ["data, row 1, str_sol: got [[[", "expected text or a whole number"],
    ),
    "another solution": (json.dumps([{**ROW, "num_sol": 3}]), ["num_sol: got 3; expected '2'"]),
    "product": (
        json.dumps([{**ROW, "str_query": "Question: 2 * 3 = ? Answer:"}]),
        ["row 1, str_query: got 'Question: 2 * 3", "expected one such as"],
    ),
    "too few": (
        json.dumps([ROW, ROW]),
        ["task.demonstrations asks for 50", "has 1 with str_rationale; lower it"],
    ),
    "too few without rationales": (
        json.dumps([{"str_query": SUM.question, "num_sol": 2}]),
        ["task.problems asks for 1000", "has 1 without str_rationale; lower it"],
    ),
}
SENTENCES_OF = {
    "empty": ("", ["data holds no sentence; give text and label of each"]),
    "blank": ("\n\n", ["data holds no sentence; give text and label of each"]),
    "list over several lines": (json.dumps([LABELLED], indent=1), ["data, line 1: not a line of"]),
    "line cut off": (lines(LABELLED) + '\n{"text"', ["data, line 2: not a line of JSON", "column"]),
    "bytes": (b'{"text": "\xff"}', ["data, line 1: bytes that are not UTF-8"]),
    "too deep": (nested(99_999), ["data, line 1", "nested too deep; flatten it"]),
    "a number": ("3", ["data, line 1: expected an object with text and label"]),
    "text missing": (
        lines({"sentence": "a", "label": 1}),
        ["line 1: missing key text; found sentence, label; --data.columns sentence=text"],
    ),
    "label missing": (lines({"text": "a"}), ["line 1: missing key label; found text; --data"]),
    "label in words": (lines(LABELLED | {"label": "objective"}), ["label", "got 'objective'"]),
    "label outside the set": (lines(LABELLED | {"label": 2}), ["label: expected 0", "got 2"]),
    "label that is no whole number": (lines(LABELLED | {"label": 0.0}), ["label", "got 0.0"]),
    "labels at odds": (lines(LABELLED | {"label": 1}), ["label_text: expected 'subjective'"]),
    "label twice": ('{"label": 0, "label": 1}', ["the key 'label' occurs twice"]),
    "NUL as JSON writes it": (lines(LABELLED | {"text": "a\0"}), ["line 1, text: a NUL byte"]),
    "half a pair": (lines(LABELLED | {"text": "\ud800"}), ["'text' has half of a surrogate"]),
    "one label": (
        lines(*({"text": f"Plot {i}.", "label": 0} for i in range(100))),
        ["task.labels 10 needs 5 subjective sentences, and the pool has 0; lower it or give more"],
    ),
    "too few": (
        lines(*({"text": f"Text {i}.", "label": i % 2} for i in range(60))),
        ["eval.queries asks for 40 test sentences", "give more"],
    ),
}
TASKS = {
    "infill": (InfillJob, InfillTask, STORIES),
    "continuation": (ContinuationJob, ContinuationTask, PROMPTS),
    "arithmetic": (ArithmeticJob, ArithmeticTask, SUMS),
    "subjectivity": (SubjectivityJob, SubjectivityTask, SENTENCES_OF),
}
CASES = [(task, case) for task, (*_, cases) in TASKS.items() for case in cases]


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return AutoTokenizer.from_pretrained(tiny_dir)


def load(task, tokenizer):
    """What a job does before it starts anything."""
    job, make, _ = TASKS[task]
    make(parse(job, ["--data.path", "data"])).load(tokenizer, len(tokenizer))
    return 0


@pytest.mark.parametrize(("task", "case"), CASES)
def test_a_bad_file_of_data(task, case, tokenizer, tmp_path, monkeypatch, capsys):
    content, names = TASKS[task][2][case]
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data", content)
    refusal(lambda: load(task, tokenizer), tmp_path, capsys, *names)


@pytest.mark.parametrize("task", TASKS)
def test_every_reader_refuses_what_is_no_readable_text(
    task, tokenizer, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"

    def body():
        with unprivileged():
            return load(task, tokenizer)

    put(data, "x")
    data.chmod(0)
    refusal(body, tmp_path, capsys, "--data.path", "data", "Permission", "change its permissions")
    data.unlink()
    for content, name in ((os.mkfifo, "a pipe"), (sparse(2 * GIB), "bytes"), (b"\xff\xfe", "16")):
        put(data, content)
        refusal(lambda: load(task, tokenizer), tmp_path, capsys, "data", name)
        data.unlink()
