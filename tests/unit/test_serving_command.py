"""Serving from the shell: the words, what is printed, and every mistake in one line."""

import io
import json
import subprocess
import sys

import pytest

from gfn_ray.cli import main
from gfn_ray.serving.command import _print, command, read_words

Z = "he said “no”"


def test_words_become_a_query_and_options():
    given = ["sample", "a/b", "--beginning", "Tom sat.", "--ending=He ran.", "--n", "3", "--json"]
    words = read_words(given)
    assert words.query == {"beginning": "Tom sat.", "ending": "He ran."}
    assert (words.adapter, words.n, words.seed, words.as_json) == ("a/b", 3, 0, True)
    assert read_words(["predict", "a"]).n == 16


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "sample or predict, got 'train'"),
        (["sample"], "needs an adapter directory"),
        (["sample", "a", "b"], "unexpected word 'b'"),
        (["sample", "a", "--ending"], "--ending got no text"),
        (["sample", "a", "--n", "many"], "--n got 'many'; it takes a whole number"),
        (["sample", "no/adapter"], "there is no adapter directory no/adapter"),
    ],
)
def test_a_mistake_in_the_shell_is_one_line_and_code_2(arguments, message, capsys):
    assert main(lambda: command(arguments)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def printed_in_ascii(monkeypatch, as_json):
    """What becomes of a z on a stdout that knows only ASCII, where z has other characters."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    _print({"text": Z}, Z, as_json)
    sys.stdout.flush()
    return raw.getvalue().decode()


def test_a_stdout_that_knows_few_characters_gets_question_marks(monkeypatch):
    assert printed_in_ascii(monkeypatch, as_json=False) == "he said ?no?\n"


def test_a_stdout_that_knows_few_characters_gets_json_without_loss(monkeypatch):
    assert json.loads(printed_in_ascii(monkeypatch, as_json=True)) == {"text": Z}


def test_help_and_the_package_load_nothing_heavy():
    script = (
        "import sys, gfn_ray\n"
        "from gfn_ray.serving.command import command\n"
        "command(['--help'])\n"
        "heavy = {'torch', 'vllm', 'ray', 'transformers', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "python -m gfn_ray sample" in done.stdout
