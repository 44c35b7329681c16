"""Settings that cannot be: each gets exit code 2 and one sentence with the thing and the cure.

The wording of single values is held by test_cli.py; here are the kinds of mistakes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gfn_ray.cli import parse
from gfn_ray.config import CompareJob
from gfn_ray.runs.run_dir import RunDir
from gfn_ray.settings_values import dump_toml
from gfn_ray.tasks.arithmetic.config import ArithmeticJob
from gfn_ray.tasks.continuation.config import ContinuationJob
from gfn_ray.tasks.infill.config import InfillJob
from gfn_ray.tasks.random_number.config import RandomNumberJob
from gfn_ray.tasks.subjectivity.config import SubjectivityJob
from testing.job_runner import JOBS
from testing.refusals import check, contents, put, refusal, sparse, unprivileged

FILE = ("--config", "run.toml")
DIGITS = "9" * 5000

# What lies at run.toml, the flags, and what the sentence names.
FILES = {
    "missing": (None, FILE, ["--config", "run.toml", "No such file", "check the path"]),
    "directory": (Path.mkdir, FILE, ["--config", "run.toml", "a directory; give a file"]),
    "pipe": (os.mkfifo, FILE, ["--config", "run.toml", "a pipe; save its output to a file"]),
    "device": (None, ("--config", "/dev/zero"), ["--config", "/dev/zero", "a device; save"]),
    "link to itself": (lambda p: p.symlink_to(p.name), FILE, ["--config", "run.toml", "links"]),
    "too large": (sparse(2**30), FILE, ["--config", "run.toml", "more than 262,144 bytes"]),
    "no name": (None, ("--config=",), ["--config got ''", "it takes a path"]),
    "home of nobody": (None, ("--config", "~no.one/a"), ["--config got '~no.one/a'", "a path"]),
    "latin-1": (b"steps = 1\n# caf\xe9\n", FILE, ["run.toml, line 2", "save the file as UTF-8"]),
    "utf-16": ("steps = 1".encode("utf-16"), FILE, ["run.toml is UTF-16", "save it as UTF-8"]),
    "NUL": (b"steps = 1\n\0", FILE, ["run.toml, line 2", "a NUL byte", "UTF-8 text"]),
    "open string": (
        "a = 'x\nb = 1\n",
        FILE,
        ["--config got run.toml", "not TOML", "end of document"],
    ),
    "section twice": ("[learner]\n[learner]\n", FILE, ["not TOML", "twice", "line 2"]),
    "JSON": ('{"steps": 1}', FILE, ["--config got run.toml", "not TOML", "line 1"]),
    "too deep": (f"a = {'[' * 9999}", FILE, ["run.toml", "not TOML", "recursion depth"]),
    "too many digits": (f"steps = {DIGITS}", FILE, ["run.toml", "not TOML", "4300 digits"]),
    "too many hex digits": (f"steps = 0x{DIGITS}", FILE, ["steps in run.toml", "too large"]),
    "too large for a seed": (f"seed = {2**63}", FILE, ["seed in run.toml got 92", "too large"]),
    "too large for a float": (
        f"[learner]\nlr = {'9' * 400}",
        FILE,
        ["learner.lr in run.toml got 99", "too large; it takes a number, above 0"],
    ),
    "infinity": ("[learner]\nlr = inf", FILE, ["learner.lr in run.toml got inf", "a number"]),
    "date": ("steps = 1979-05-27", FILE, ["steps in run.toml got", "a whole number, at least 0"]),
    "table for a value": ("[steps]\na = 1", FILE, ["steps in run.toml got {'a': 1}", "a whole"]),
    "list for a section": ("[[learner]]\nlr = 1", FILE, ["learner in run.toml", "[learner]"]),
    "choice of another type": (
        "[policy]\nlora_rank = '8'",
        FILE,
        ["policy.lora_rank in run.toml got '8'", "one of 1, 8, 16"],
    ),
    "path with a NUL": (r'run_dir = "a\u0000b"', FILE, ["run_dir in run.toml", "a path, or none"]),
    "setting of another kind": (
        "[objective]\nkind = 'db'\nsubtb_lambda = 0.9",
        FILE,
        ["objective.subtb_lambda in run.toml belongs to objective.kind subtb; this run has db"],
    ),
    "setting of a kind that a flag replaced": (
        "[objective]\nroot_flow = 'learned'",
        (*FILE, "--objective.kind", "vargrad"),
        ["objective.root_flow in run.toml belongs to objective.kind subtb|db|tb", "has vargrad"],
    ),
    "lists within lists": (
        f"[policy]\nlora_targets = {'[' * 300}{']' * 300}",
        FILE,
        ["policy.lora_targets in run.toml got [[[", "it takes text, or several"],
    ),
    "kind of another type": ("[objective]\nkind = 3", FILE, ["objective.kind in run.toml got 3"]),
    "setting of another job": ("task.high = 9", FILE, ["setting task.high in run.toml"]),
    "endless name": (f"{'x' * 9999} = 1", FILE, ["xxx... in run.toml", "--help lists"]),
    "name that steers a terminal": (r'"\u001b[31m" = 1', FILE, [r"setting \x1b[31m in run.toml"]),
    "resume in the file": ("resume = 'runs/a'", FILE, ["resume in run.toml", "as a flag"]),
    "resume beside a file": ("", (*FILE, "--resume", "."), ["--resume", "leave --config run.toml"]),
    "resume with another seed": (None, ("--resume", ".", "--seed", "1"), ["leave --seed out"]),
    "resume what is no run": (
        None,
        ("--resume", "."),
        ["--resume got /", "which has no config.toml"],
    ),
    "resume by a long name": (
        None,
        ("--resume", "x" * 300),
        ["--resume: cannot read /", "xxx...: File name too long; give a shorter one"],
    ),
    "resume below a home of nobody": (None, ("--resume", "~no.one"), ["--resume got '~no.one'"]),
}

# The job, its flags, and what the sentence names.
FLAGS = {
    "misspelt": (InfillJob, ["--task.tempalte", "x"], ["did you mean --task.template?"]),
    "of another job": (InfillJob, ["--task.labels", "2"], ["unknown setting --task.labels"]),
    "endless value": (InfillJob, ["--steps", DIGITS], ["--steps got '999", "a whole number"]),
    "endless word": (InfillJob, ["x" * 9999], ["unexpected argument 'xxx", "--name value"]),
    "beyond 64 bits": (InfillJob, ["--seed", "9" * 20], ["--seed got 99999", "too large"]),
    "seed beyond the engine's": (
        InfillJob,
        ["--seed", str(2**32)],
        ["--seed got 4294967296", "at least 0, below 4,294,967,296"],
    ),
    "required": (CompareJob, [], ["--runs is missing", "paths"]),
    "path in no UTF-8": (
        InfillJob,
        ["--data.path", "\udce9.csv"],
        ["argument '\\udce9.csv' is not UTF-8", "rename the file"],
    ),
    "home of nobody": (InfillJob, ["--run-dir", "~no.one/a"], ["--run-dir got '~no.one/a'"]),
    "three words of two": (
        SubjectivityJob,
        ["--task.label-words", "a,b,c"],
        ["--task.label-words got", "2 of it"],
    ),
    "equal words": (SubjectivityJob, ["--task.label-words", "a,a"], ["two different words"]),
    "unknown of several": (
        ContinuationJob,
        ["--task.baselines", "greedy,best"],
        ["--task.baselines got ['greedy', 'best']", "some of tempered, nucleus"],
    ),
    "template that looks inside": (
        InfillJob,
        ["--task.template", "{beginning.x} {ending}"],
        ["task.template takes plain {beginning} and {ending}"],
    ),
    "template by an index": (
        SubjectivityJob,
        ["--task.answer", "{label[x]}"],
        ["task.answer takes plain {label}", "'{label[x]}'"],
    ),
    "template of a great width": (
        RandomNumberJob,
        ["--task.prompt", "{low:>99999999999}"],
        ["task.prompt takes plain {how}, {low} and {high}"],
    ),
    "template with braces doubled": (
        InfillJob,
        ["--task.template", "{{beginning}} {ending}"],
        ["task.template lacks {beginning}"],
    ),
    "template before a second space": (
        InfillJob,
        ["--task.template", "{ending} {beginning} "],
        ["task.template ends in a space", "leave it out", "{beginning} '"],
    ),
    "two sources": (
        InfillJob,
        ["--data.path", "a.csv", "--data.hub", "b/c"],
        ["data.path (", "/a.csv) and data.hub (b/c)", "give one"],
    ),
    "two tests": (
        InfillJob,
        ["--data.hub", "b/c", "--data.test-path", "a.csv", "--data.test-split", "test"],
        ["data.test_path (", "data.test_split (test) name two test sets; give one"],
    ),
    "test that is the training": (
        InfillJob,
        ["--data.path", "a.csv", "--data.test-path", "./a.csv"],
        ["data.path and data.test_path are both", "leave the second out"],
    ),
    "split that is the training": (
        InfillJob,
        ["--data.hub", "b/c", "--data.split", "test", "--data.test-split", "test"],
        ["data.split and data.test_split are both test; change one"],
    ),
    "split of no dataset": (
        SubjectivityJob,
        ["--data.split", "train"],
        ["data.split (train)", "data.hub is none; set data.hub"],
    ),
    "column without a name": (
        InfillJob,
        ["--data.columns", "sentence"],
        ["data.columns takes pairs FOUND=EXPECTED, such as sentence=text; got sentence"],
    ),
    "columns of one name": (
        SubjectivityJob,
        ["--data.columns", "a=text,b=text"],
        ["data.columns names a column twice; got a=text, b=text; leave one out"],
    ),
    "columns of a text": (
        ContinuationJob,
        ["--data.path", "a.txt", "--data.columns", "a=text"],
        ["data.columns (a=text) needs data.hub", "no columns; leave it out"],
    ),
    "half a stop": (InfillJob, ["--stop.metric", "elbo"], ["stop.metric", "stop.below", "both"]),
    "stop that is never read": (
        InfillJob,
        ["--stop.metric", "elbo", "--stop.below", "1"],
        ["stop.metric (elbo)", "eval.every is 0", "set it"],
    ),
    "stop that is first read after the end": (
        RandomNumberJob,
        ["--stop.metric", "tv", "--stop.below", "1", "--steps", "25", "--eval.every", "25"],
        ["stop.metric (tv)", "eval.every (25)", "steps (25)", "lower the first"],
    ),
    "flow that the loss has not": (
        InfillJob,
        ["--objective.kind", "vargrad", "--objective.root-flow", "learned"],
        ["--objective.root-flow belongs to --objective.kind subtb|db|tb; this run has vargrad"],
    ),
    "factor that the loss has not": (
        InfillJob,
        ["--objective.kind", "tb", "--objective.subtb-lambda", "0.9"],
        ["--objective.subtb-lambda belongs to --objective.kind subtb; this run has tb"],
    ),
    "factor that the job's own loss has not": (
        ArithmeticJob,
        ["--objective.subtb-lambda", "0.9"],
        ["--objective.subtb-lambda belongs to --objective.kind subtb; this run has tb"],
    ),
    "rate of a log Z that is not learned": (
        InfillJob,
        ["--objective.log-z-lr", "0.1"],
        ["objective.log_z_lr (0.1) belongs to objective.root_flow learned", "has batch_mean"],
    ),
    "no such kind": (
        InfillJob,
        ["--objective.kind", "trpo", "--objective.root-flow", "learned"],
        [
            "--objective.kind got 'trpo'; it takes one of subtb, db, tb, vargrad, ref_tb, ppo, "
            "rloo, grpo, dpo, mle"
        ],
    ),
    "empty range": (RandomNumberJob, ["--task.low", "100"], ["task.low (100) must be below"]),
    "endless range": (RandomNumberJob, ["--task.high", "9" * 18], ["narrow the range"]),
    "sum of one number": (
        ArithmeticJob,
        ["--task.train-operands", "1"],
        ["task.train_operands takes distinct numbers of 2 or more", "(1,)"],
    ),
    "sums too large": (ArithmeticJob, ["--task.largest-operand", "99"], ["task.max_digits (2)"]),
    "nothing to learn": (
        ArithmeticJob,
        ["--task.demonstrations", "0", "--task.problems", "0"],
        ["task.demonstrations and task.problems are both 0"],
    ),
    "shots without demonstrations": (
        ArithmeticJob,
        ["--task.demonstrations", "3"],
        ["task.reward_shots (3) must be below task.demonstrations (3)"],
    ),
    "the same temperature twice": (
        ContinuationJob,
        ["--task.temperatures", "0.5,0.5"],
        ["task.temperatures takes distinct numbers", "0.5, 0.5"],
    ),
    "a whole nucleus": (ContinuationJob, ["--task.nucleus", "1"], ["--task.nucleus", "below 1"]),
    "groups that do not divide": (
        ContinuationJob,
        ["--task.diverse-groups", "3"],
        ["task.diverse_groups (3)", "eval.samples (8)", "change one"],
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_file_of_settings(case, tmp_path, monkeypatch, capsys):
    content, argv, names = FILES[case]
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "run.toml", content)
    refusal(lambda: parse(InfillJob, argv), tmp_path, capsys, *names)


def test_a_file_of_settings_that_may_not_be_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "run.toml", "steps = 1")
    (tmp_path / "run.toml").chmod(0)

    def body():
        with unprivileged():
            return parse(InfillJob, FILE)

    names = ["--config: cannot read run.toml", "Permission denied", "change its permissions"]
    refusal(body, tmp_path, capsys, *names)


def test_a_run_that_may_not_be_looked_at_is_not_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "closed", lambda place: place.mkdir(mode=0))

    def body():
        with unprivileged():
            return parse(InfillJob, ["--resume", "closed/run"])

    names = ["--resume: cannot read", "closed/run", "Permission denied; change its permissions"]
    refusal(body, tmp_path, capsys, *names)


def test_a_run_is_resumed_below_the_place_where_runs_go(tmp_path, monkeypatch):
    """A submitted job's working directory is Ray's copy of the code, without runs."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    (tmp_path / "runs" / "one").mkdir(parents=True)
    put(tmp_path / "runs" / "one" / "config.toml", "steps = 7")
    assert parse(InfillJob, ["--resume", "runs/one"]).steps == 7


def test_a_run_is_resumed_where_a_latest_link_led_even_if_another_run_moves_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("GFN_RAY_HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "config.toml").write_text("steps = 7\n")
    (tmp_path / "latest").symlink_to("one")
    config = parse(InfillJob, ["--resume", "latest"])
    run = RunDir.reopen(Path("latest"))
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").symlink_to("two")
    assert config.resume == tmp_path / "one"
    run.write_summary({})
    assert (tmp_path / "one" / "summary.json").is_file()
    assert not (tmp_path / "two" / "summary.json").exists()


@pytest.mark.parametrize("case", FLAGS)
def test_bad_flags(case, tmp_path, monkeypatch, capsys):
    job, argv, names = FLAGS[case]
    monkeypatch.chdir(tmp_path)
    refusal(lambda: parse(job, argv), tmp_path, capsys, *names)


def test_a_damaged_file_of_a_run_is_named_with_the_flag_that_led_to_it(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "config.toml", "steps =\n")
    names = [f"--resume got {tmp_path}/config.toml", "not TOML", "line 1"]
    refusal(lambda: parse(InfillJob, ["--resume", "."]), tmp_path, capsys, *names)


def test_a_run_of_another_job_is_no_run_to_go_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "config.toml", dump_toml(RandomNumberJob()))
    names = ["--resume got a run of another job", "unknown setting task."]
    refusal(lambda: parse(InfillJob, ["--resume", "."]), tmp_path, capsys, *names)


def test_a_byte_order_mark_and_a_file_without_settings_are_no_mistakes(tmp_path):
    file = tmp_path / "run.toml"
    for content, steps in ((b"\xef\xbb\xbfsteps = 7", 7), (b"", InfillJob().steps)):
        file.write_bytes(content)
        assert parse(InfillJob, ["--config", str(file)]).steps == steps


@pytest.mark.parametrize(
    ("job", "argv", "names"),
    [
        ("infill", FILE, ["learner.lr in run.toml got 'fast'", "it takes a number, above 0"]),
        ("compare", ["--run", "a"], ["unknown setting --run", "did you mean --runs?"]),
    ],
)
def test_a_job_ends_as_its_settings_do(job, argv, names, tmp_path):
    put(tmp_path / "run.toml", "[learner]\nlr = 'fast'")
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, str(JOBS / f"{job}.py"), *argv],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=120,
    )
    check(done.returncode, done.stderr, *names)
    assert done.stdout == ""
    assert contents(tmp_path) == before
