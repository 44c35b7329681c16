"""What a person sees during a run, in a log and on a terminal, narrow or wide."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from gfn_ray.formatting import byte_size, count, duration, head, number, one_line, tail
from gfn_ray.runs.display import (
    Display,
    LiveDisplay,
    PlainDisplay,
    Progress,
    Sample,
    fit_sample,
    make_console,
    make_display,
    plain_line,
)

PROGRESS = Progress(
    step=25,
    trajectories=512,
    policy_version=24,
    staleness=1,
    replay_size=480,
    loss=12.345,
    log_reward=-52.1,
    log_ratio_var=9.41,
    reward_temperature=0.93,
    tokens_per_s={"sample": 312.0, "reward": 1204.2, "learn": 41.0},
)
SAMPLES = [
    Sample("Mia mixed everything in a bowl.", "She baked it.", "Her brother ate it.", -52.1),
    Sample("", "A [red]marked up[/red] \x1b[31mz\nof “two” lines", "", None),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> int:
    """Columns of the terminal: 80, or the test's own parameter."""
    columns: int = getattr(request, "param", 80)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("LINES", "40")
    monkeypatch.setenv("TERM", "xterm-256color")
    return columns


def ticks(*seconds: float) -> Iterator[float]:
    yield from seconds


def steps(display: Display, first: int, last: int) -> None:
    for step in range(first, last + 1):
        display.update(Progress(step, step * 16, step, 0, step * 16, loss=1.0))


def live(stream: Terminal, clock: Sequence[float] = (0.0, 60.0)) -> LiveDisplay:
    display = make_display(100, 5, stream, ticks(*clock).__next__)
    assert isinstance(display, LiveDisplay)
    return display


# A log


def test_a_line_holds_the_whole_state() -> None:
    assert plain_line(PROGRESS, 100, 395.0) == (
        "step 25/100 | loss 12.3 | log R -52.1 | Var(log R/T - log q) 9.41 | T 0.93 | "
        "policy v24, staleness 1 | 512 trajectories, 480 in replay | "
        "tokens/s sample 312.0, reward 1,204, learn 41.0 | 6:35 left"
    )


def test_what_is_unknown_is_a_dash() -> None:
    line = plain_line(Progress(1, 16, 0, 0, 16), 100, None)
    assert line.startswith("step 1/100 | loss - | log R - |")
    assert "tokens/s" not in line and "left" not in line


def test_a_log_gets_phases_messages_and_a_line_every_few_steps() -> None:
    stream = io.StringIO()
    display = make_display(12, 5, stream, ticks(*map(float, range(12))).__next__)
    assert isinstance(display, PlainDisplay)
    display.phase("evaluating the untrained policy on 24 held-out queries")
    steps(display, 1, 12)
    display.samples(SAMPLES)
    display.evaluated({"tv": 0.0512, "elbo": -46.4})
    display.message("[bold]as it is[/bold]")
    display.close()
    display.close()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "evaluating the untrained policy on 24 held-out queries"
    assert [line.split(" | ")[0] for line in lines[1:4]] == [
        "step 5/12",
        "step 10/12",
        "step 12/12",
    ]
    assert [line.split(" | ")[-1] for line in lines[1:4]] == ["0:07 left", "0:02 left", "0:00 left"]
    assert lines[4:] == ["evaluation | tv 0.0512 | elbo -46.4", "[bold]as it is[/bold]"]


def test_a_log_has_no_control_codes_whatever_the_environment_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    display = make_display(10, 1, stream)
    display.phase("learning")
    steps(display, 1, 10)
    display.show(Text("report", style="bold red"))
    assert "\x1b" not in stream.getvalue()


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(10, 1, Terminal()), PlainDisplay)


def test_a_stream_that_knows_few_characters_gets_question_marks() -> None:
    raw = io.BytesIO()
    display = make_display(10, 1, io.TextIOWrapper(raw, encoding="ascii"))
    display.message("she said “no” in 日本")
    display.show(Text("…"))
    display.close()
    assert raw.getvalue() == b"she said ?no? in ??\n?\n"


def test_a_report_line_that_is_too_long_is_not_cut() -> None:
    stream = io.StringIO()
    path = "/" + "x" * 200
    make_display(10, 1, stream).show(Group(Text(path, no_wrap=True, overflow="ignore")))
    assert stream.getvalue() == path + "\n"


# A terminal


@pytest.mark.parametrize("width", [60, 80, 120], indirect=True)
def test_the_panel_shows_everything_and_fits(width: int) -> None:
    display = live(Terminal())
    display.update(Progress(15, 300, 14, 1, 300))
    display.update(PROGRESS)
    display.evaluated({"tempered_ratio_var": 11.3, "log_z_gap": 0.61, "elbo": -46.2})
    display.samples(SAMPLES)
    with display.console.capture() as captured:
        display.console.print(display._render())
    display.close()
    lines = Text.from_ansi(captured.get()).plain.splitlines()
    assert max(cell_len(line) for line in lines) <= width
    shown = "\n".join(lines)
    for expected in (
        *("step 25/100", "7:30 left", "12.3", "-52.1", "9.41", "0.93", "v24 (1)"),
        *("evaluation after 25 updates", "tempered_ratio_var", "11.3", "0.61", "-46.2"),
        *("512", "480", "312.0", "1,204", "41.0", "Var(log R/T - log q)", "[She baked it.]"),
    ):
        assert expected in shown


def test_text_of_a_model_cannot_style_or_move_anything() -> None:
    display = live(Terminal())
    display.samples(SAMPLES)
    with display.console.capture() as captured:
        display.console.print(display._render())
    shown = captured.get()
    assert "\x1b[31m" not in shown
    assert "[A [red]marked up[/red] [31mz of “two” lines]" in Text.from_ansi(shown).plain


def test_a_terminal_that_knows_only_ascii_gets_only_ascii() -> None:
    class Narrow(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    raw = io.BytesIO()
    display = make_display(100, 5, Narrow(raw, encoding="ascii"))
    display.phase("learning")
    display.samples(SAMPLES)
    display.update(PROGRESS)
    display.close()
    assert b"step 25/100" in raw.getvalue()
    assert b"[She baked it.]" in raw.getvalue()
    assert raw.getvalue().isascii()


def test_messages_stay_above_the_panel_and_the_cursor_comes_back() -> None:
    stream = Terminal()
    display = live(stream)
    display.phase("learning")
    display.update(PROGRESS)
    display.message("sampler 0 restarted")
    display.close()
    display.close()
    written = stream.getvalue()
    assert "sampler 0 restarted" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1


def test_closing_before_anything_was_shown_writes_nothing() -> None:
    stream = Terminal()
    live(stream).close()
    assert stream.getvalue() == ""


# One line of text


@given(st.text(), st.text(), st.text(), st.integers(40, 200))
def test_a_sample_fits_its_line(left: str, z: str, right: str, width: int) -> None:
    line = fit_sample(Sample(left, z, right, -12.3), width).plain
    assert cell_len(line) <= width
    assert one_line(line).startswith("-12.3")


def test_a_sample_that_fits_is_shown_whole() -> None:
    line = fit_sample(Sample("He ran.", "He fell.", "It hurt.", -3.0), 80).plain
    assert line == "   -3.0  He ran. [He fell.] It hurt."


def test_a_sample_that_does_not_fit_keeps_its_middle_and_what_touches_it() -> None:
    line = fit_sample(Sample("a" * 99 + "b", "c" * 30, "d" + "e" * 99), 80).plain
    assert len(line) == 80
    left, middle, right = line.split(" ")
    assert left.startswith("...a") and left.endswith("ab")
    assert middle == f"[{'c' * 30}]"
    assert right.startswith("de") and right.endswith("e...")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (0.0, "0"),
        (-52.123, "-52.1"),
        (9.414, "9.41"),
        (0.1234, "0.12"),
        (0.01234, "0.0123"),
        (5e-7, "5e-07"),
        (12345.6, "12,346"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (3, "3.00"),
    ],
)
def test_numbers(value: float | None, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (395, "6:35"), (3661, "1:01:01")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


@pytest.mark.parametrize(
    ("amount", "noun", "shown"),
    [
        (1, "query", "1 query"),
        (24, "query", "24 queries"),
        (0, "update", "0 updates"),
        (2000, "update", "2,000 updates"),
    ],
)
def test_counts(amount: int, noun: str, shown: str) -> None:
    assert count(amount, noun) == shown


def test_cutting_counts_cells_not_characters() -> None:
    assert head("日本語日本語", 9) == "日本語..."
    assert tail("日本語日本語", 9) == "...日本語"
    assert head("abcdefghij", 10) == "abcdefghij"
    assert head("abcdefghij", 7) == ""


def test_a_console_treats_markup_as_text() -> None:
    stream = io.StringIO()
    make_console(stream).print("[bold]x[/bold] :smile:")
    assert stream.getvalue() == "[bold]x[/bold] :smile:\n"


@pytest.mark.parametrize(
    ("amount", "shown"), [(512 << 20, "512 MiB"), (0, "0 MiB"), (5.6 * 2**30, "5.6 GiB")]
)
def test_bytes_read_like_a_person_would_say_them(amount: float, shown: str) -> None:
    assert byte_size(amount) == shown
