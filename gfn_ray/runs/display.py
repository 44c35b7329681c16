"""What the user sees during a run: a live panel, or plain lines in a log.

Owns only layout and wording: it is told what happened and decides how that looks. Text from a
language model is shown as text, never as markup or control codes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from gfn_ray.formatting import duration, head, number, one_line, tail, take_any_text

SAMPLES_SHOWN = 4
LOG_COLUMNS = 100  # if neither a terminal nor COLUMNS sets it; fits every metric's name
NEIGHBOUR_CELLS = 18  # width of the text shown on each side of a sample, if there is room
REFRESHES_PER_SECOND = 4.0


@dataclass(frozen=True)
class Progress:
    """The state of training after an update; None if a number is not known yet.

    log_reward: mean untempered log R of fresh samples. log_ratio_var: Var(log R/T - log q).
    tokens_per_s: by stage, in display order.
    """

    step: int
    trajectories: int
    policy_version: int
    staleness: int
    replay_size: int
    loss: float | None = None
    log_reward: float | None = None
    log_ratio_var: float | None = None
    reward_temperature: float | None = None
    tokens_per_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One sampled z between the texts around it."""

    left: str
    z: str
    right: str
    log_reward: float | None = None


class Display(Protocol):
    """Told what happens, in order, by a single thread."""

    console: Console

    def phase(self, text: str) -> None:
        """The run enters this phase."""

    def update(self, progress: Progress) -> None:
        """An update was applied."""

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """The policy was evaluated on held-out queries during training."""

    def samples(self, samples: Sequence[Sample]) -> None:
        """Fresh samples; they replace earlier ones."""

    def message(self, text: str) -> None:
        """Something worth a line of its own."""

    def show(self, renderable: RenderableType) -> None:
        """Closes the display, then prints a report; what is too wide, like a path, is not cut."""

    def close(self) -> None:
        """Restores the terminal; a second call does nothing."""


def make_display(
    total_steps: int,
    log_every: int,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Display:
    """Returns a live display if the stream (default: stdout) is a terminal, else plain lines."""
    console = make_console(stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveDisplay(console, total_steps, clock)
    return PlainDisplay(console, total_steps, log_every, clock)


def make_console(stream: TextIO | None = None) -> Console:
    """Returns a console that prints any text: no markup, and no character can fail."""
    stream = stream or sys.stdout
    take_any_text(stream)
    # Colours and cursor moves only in a terminal, whatever FORCE_COLOR says: logs are read raw.
    terminal = stream.isatty()
    return Console(
        file=stream,
        force_terminal=terminal,
        width=None if terminal or "COLUMNS" in os.environ else LOG_COLUMNS,
        markup=False,
        emoji=False,
        highlight=False,
    )


class PlainDisplay:
    """Lines for a log, one every `log_every` updates. Samples go only to samples.jsonl."""

    def __init__(
        self, console: Console, total_steps: int, log_every: int, clock: Callable[[], float]
    ) -> None:
        self.console = console
        self._total = total_steps
        self._log_every = log_every
        self._time_left = _TimeLeft(total_steps, clock)

    def phase(self, text: str) -> None:
        self._line(text)

    def update(self, progress: Progress) -> None:
        left = self._time_left.after(progress.step)
        if progress.step % self._log_every == 0 or progress.step == self._total:
            self._line(plain_line(progress, self._total, left))

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._line("evaluation | " + " | ".join(f"{n} {number(v)}" for n, v in metrics.items()))

    def samples(self, samples: Sequence[Sample]) -> None:
        pass

    def message(self, text: str) -> None:
        self._line(text)

    def show(self, renderable: RenderableType) -> None:
        self.console.print(renderable, crop=False)

    def close(self) -> None:
        self.console.file.flush()

    def _line(self, text: str) -> None:
        # Not through rich, which would wrap the line at 80 columns.
        print(text, file=self.console.file, flush=True)


class LiveDisplay:
    """A panel redrawn in place; messages scroll above it."""

    def __init__(self, console: Console, total_steps: int, clock: Callable[[], float]) -> None:
        self.console = console
        self._total = total_steps
        self._time_left = _TimeLeft(total_steps, clock)
        self._left: float | None = None
        self._progress: Progress | None = None
        self._samples: tuple[Sample, ...] = ()
        self._metrics: dict[str, float] = {}
        self._metrics_title = ""
        self._ascii = console.options.ascii_only
        self._spinner = Spinner("line" if self._ascii else "dots")
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=REFRESHES_PER_SECOND,
            vertical_overflow="crop",
        )

    def phase(self, text: str) -> None:
        self._spinner.update(text=Text(text, style="bold"))
        self._live.start(refresh=True)

    def update(self, progress: Progress) -> None:
        self._left = self._time_left.after(progress.step)
        self._progress = progress
        self._live.start(refresh=True)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        self._metrics = dict(metrics)
        step = self._progress.step if self._progress else 0
        self._metrics_title = f"evaluation after {step} updates"

    def samples(self, samples: Sequence[Sample]) -> None:
        self._samples = tuple(samples[:SAMPLES_SHOWN])

    def message(self, text: str) -> None:
        self.console.print(Text(text))

    def show(self, renderable: RenderableType) -> None:
        self.close()
        self.console.print(renderable, crop=False)

    def close(self) -> None:
        self._live.stop()

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [self._spinner]
        if self._progress is not None:
            parts += [self._bar(self._progress), _numbers(self._progress)]
        if self._metrics:
            cells = [(name, number(value)) for name, value in self._metrics.items()]
            parts += [Text(self._metrics_title, style="bold"), _grid(cells)]
        if self._samples:
            parts.append(_sample_panel(self._samples, self.console.width))
        return Group(*parts)

    def _bar(self, progress: Progress) -> Table:
        row = Table.grid(padding=(0, 1), expand=True)
        for ratio in (None, 1, None):
            row.add_column(ratio=ratio, no_wrap=True)
        row.add_row(
            Text(f"step {progress.step}/{self._total}"),
            ProgressBar(total=self._total, completed=progress.step),
            Text("" if self._left is None else f"{duration(self._left)} left"),
        )
        return row


def plain_line(progress: Progress, total_steps: int, seconds_left: float | None) -> str:
    """Formats one update on one line."""
    rates = ", ".join(f"{stage} {number(rate)}" for stage, rate in progress.tokens_per_s.items())
    parts = [
        f"step {progress.step}/{total_steps}",
        f"loss {number(progress.loss)}",
        f"log R {number(progress.log_reward)}",
        f"Var(log R/T - log q) {number(progress.log_ratio_var)}",
        f"T {number(progress.reward_temperature)}",
        f"policy v{progress.policy_version}, staleness {progress.staleness}",
        f"{progress.trajectories} trajectories, {progress.replay_size} in replay",
        f"tokens/s {rates}" if rates else "",
        "" if seconds_left is None else f"{duration(seconds_left)} left",
    ]
    return " | ".join(part for part in parts if part)


def fit_sample(sample: Sample, width: int) -> Text:
    """Fits the sample on one line of at most `width` cells: ...beginning [middle] ending...

    On a wide line the middle leaves its neighbours a little room, on a narrow one half, and takes
    whatever they do not need.
    """
    reward = "" if sample.log_reward is None else f"{sample.log_reward:7.1f}  "
    left, z, right = (one_line(text) for text in (sample.left, sample.z, sample.right))
    room = max(0, width - len(reward) - len(" [] "))
    context_text = min(room - room // 2, 2 * NEIGHBOUR_CELLS, cell_len(left) + cell_len(right))
    z = head(z, room - context_text)
    room -= cell_len(z)
    left = tail(left, max(room // 2, room - cell_len(right)))
    right = head(right, room - cell_len(left))
    text = Text(reward, style="cyan", no_wrap=True, overflow="crop")
    text.append(f"{left} " if left else "", style="dim")
    text.append(f"[{z}]", style="bold green")
    text.append(f" {right}" if right else "", style="dim")
    return text


class _TimeLeft:
    """Estimates the seconds until the last step, at the mean pace since the first update seen."""

    def __init__(self, total_steps: int, clock: Callable[[], float]) -> None:
        self._total = total_steps
        self._clock = clock
        self._first: tuple[int, float] | None = None

    def after(self, step: int) -> float | None:
        now = self._clock()
        if self._first is None or step <= self._first[0]:
            self._first = (step, now)
            return None
        first_step, first_time = self._first
        return (now - first_time) / (step - first_step) * (self._total - step)


def _numbers(progress: Progress) -> Table:
    cells = [
        ("loss", number(progress.loss)),
        ("trajectories", f"{progress.trajectories:,}"),
        ("log R", number(progress.log_reward)),
        ("in replay", f"{progress.replay_size:,}"),
        ("Var(log R/T - log q)", number(progress.log_ratio_var)),
        ("policy (staleness)", f"v{progress.policy_version} ({progress.staleness})"),
        ("reward temperature", number(progress.reward_temperature)),
    ]
    cells += [(f"{stage} tokens/s", number(rate)) for stage, rate in progress.tokens_per_s.items()]
    return _grid(cells)


def _grid(cells: Sequence[tuple[str, str]]) -> Table:
    """Labels with their values, two pairs per row."""
    table = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for i in range(0, len(cells), 2):
        pair = cells[i : i + 2]
        table.add_row(
            *(text for label, value in pair for text in (Text(label, "dim"), Text(value)))
        )
    return table


def _sample_panel(samples: Sequence[Sample], width: int) -> Panel:
    inside = max(0, width - 4)  # border and padding
    rows = Group(*(fit_sample(sample, inside) for sample in samples))
    return Panel(rows, title="fresh samples", title_align="left", border_style="dim")
