"""What a person sees while a model trains: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from tqdm import tqdm

from trainer.callbacks.metrics import LAST_STEPS
from trainer.callbacks.record import REPORT
from trainer.errors import run_again
from trainer.ledger import PARTS, Totals, read, total
from trainer.state import Callback, RunInfo, StepInfo
from trainer.units import count, duration, printable, share, size

WINDOW = 50  # steps that speed, MFU and time left are averaged over


def mean_over_time(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Mean of rates, each weighted with the time it held: the sum of what was done over the sum of the time."""
    total = sum(seconds)
    return sum(value * second for value, second in zip(values, seconds, strict=True)) / total if total > 0 else math.nan


def mean_over_tokens(recent: Sequence[StepInfo]) -> float:
    """Mean loss of `recent` steps but skipped ones, each weighted with its number of tokens."""
    taken = [info for info in recent if not info.skipped]
    tokens = [info.tokens_per_second * info.step_seconds for info in taken]
    return sum(info.loss * count for info, count in zip(taken, tokens, strict=True)) / sum(tokens) if sum(tokens) > 0 else math.nan


def seconds_left(recent: Sequence[StepInfo], last_step: int) -> float:
    """Steps still to do times the mean time of the `recent` ones."""
    return (last_step - recent[-1].step) * sum(info.step_seconds for info in recent) / len(recent)


def describe_step(recent: Sequence[StepInfo], last_step: int) -> str:
    """The newest of `recent`: its loss, and speed and time left over all of them."""
    info = recent[-1]
    seconds = [step.step_seconds for step in recent]
    parts = ["skipped" if info.skipped else f"loss {info.loss:.4f}", f"{count(mean_over_time([step.tokens_per_second for step in recent], seconds))} tokens/s"]
    mfu = mean_over_time([step.mfu for step in recent], seconds)
    if math.isfinite(mfu):
        parts.append(f"MFU {mfu:.1%}")
    parts += [size(info.memory_bytes), f"{duration(seconds_left(recent, last_step))} left"]
    return ", ".join(parts)


def describe_run(run: RunInfo) -> list[str]:
    """What is trained, how and on what; the formula of MFU and the peak it assumes."""
    data = {key: value for key, value in run.data.items() if key != "lineage"}  # whole in run.json
    data |= {"fingerprint": str(run.data["fingerprint"])[:12]} if "fingerprint" in run.data else {}
    facts = ", ".join(f"{key.replace('_', ' ')} {_fact(value)}" for key, value in data.items())
    lines = [
        f"run       {run.run_dir}",
        f"strategy  {run.strategy}, {run.world_size} process{'' if run.world_size == 1 else 'es'} on {run.device}",
        f"model     {printable(run.model)}, {run.parameters:,} parameters",
        f"data      {facts}",
    ]
    peak = f"{count(run.peak_flops, ' ')}FLOP/s" if math.isfinite(run.peak_flops) else "unknown, so MFU is not shown"
    lines.append(
        f"MFU       FLOP per token x tokens/s / peak; FLOP per token: {run.flops_formula} = {count(run.flops_per_token)}; "
        f"peak of all processes: {peak} ({run.peak_source})"
    )
    if run.resumed_from is not None:
        lines.append(f"resumed   from {run.resumed_from}, going on with step {run.first_step} of {run.max_steps}")
    return lines


def _fact(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def describe_end(run: RunInfo, recent: Sequence[StepInfo], last_eval: tuple[int, Mapping[str, float]] | None, status: str) -> list[str]:
    """How far the run came: train loss against the unigram entropy of the data, and the last evaluation."""
    entropy = run.data.get("unigram_entropy")
    unit = "" if entropy is None else " nats"
    at = recent[-1].step if recent else run.first_step - 1
    again = f"{run_again(run.run_dir, run.config['checkpoint']['resume'])} to go on"
    on = again if at < run.last_step or status == "preempted" else "to go on, leave out train.stop_at or raise it"
    lines = [f"finished  step {at}" if status == "finished" else f"{status}   at step {at} of {run.max_steps}: {on}"]
    if recent:
        newest = list(recent)[-LAST_STEPS:]
        loss = f"train     loss {mean_over_tokens(newest):.4f}{unit} over the last {len(newest)} step{'' if len(newest) == 1 else 's'}"
        lines.append(loss if entropy is None else f"{loss}, unigram entropy of the data {entropy:.4f}{unit}")
    if last_eval is not None:
        step, metrics = last_eval
        values = ", ".join(f"{key} {value:.4f}{unit if key == 'loss' else ''}" for key, value in metrics.items())
        lines.append(f"eval      {values} after step {step}")
    return lines


def describe_time(totals: Totals) -> str:
    """Where the time went, over all starts: the share of compute, then what took at least a thousandth of the rest."""
    wall = totals.wall
    others = {name: seconds for name, seconds in totals.seconds.items() if name != "compute" and seconds >= wall / 1000}
    spent = ", ".join(f"{PARTS[name]} {share(seconds, wall)}" for name, seconds in sorted(others.items(), key=lambda item: -item[1]))
    starts = "" if totals.starts == 1 else f" over {totals.starts} starts"
    twice = f"; {totals.repeated_steps} step{'' if totals.repeated_steps == 1 else 's'} done twice" if totals.repeated_steps else ""
    return f"time      {totals.effective:.1%} of {duration(wall)}{starts} in effective training; {spent}{twice}"


class Progress(Callback):
    """A bar on `err` when that is a terminal, else a line on `out` every `every` steps.

    What is said once (start, evaluations, end) goes to `out`.
    """

    def __init__(self, every: int, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._every = every
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._recent: deque[StepInfo] = deque(maxlen=WINDOW)
        self._last_eval: tuple[int, Mapping[str, float]] | None = None
        self._run: RunInfo | None = None
        self._bar: tqdm | None = None

    def _say(self, line: str) -> None:
        tqdm.write(line, file=self._out)  # moves a bar out of the way
        self._out.flush()

    def on_start(self, run: RunInfo) -> None:
        self._run = run
        for line in describe_run(run):
            self._say(line)
        if self._err.isatty():
            unknown = 0 in os.get_terminal_size(self._err.fileno())  # tqdm would draw nothing
            self._bar = tqdm(
                total=run.last_step,
                initial=run.first_step - 1,
                file=self._err,
                ncols=80 if unknown else None,
                nrows=24 if unknown else None,
                dynamic_ncols=not unknown,
                bar_format="{n_fmt}/{total_fmt} |{bar}| {desc}",
            )

    def on_steps(self, infos: Sequence[StepInfo]) -> None:
        assert self._run is not None
        last = self._run.last_step
        for info in infos:
            self._recent.append(info)
            if self._bar is None and (info.step % self._every == 0 or info.step in (self._run.first_step, last)):
                self._say(f"step {info.step}/{last}: {describe_step(self._recent, last)}")
        if self._bar is not None:
            self._bar.n = infos[-1].step
            self._bar.set_description_str(describe_step(self._recent, last))

    def on_eval(self, step: int, metrics: Mapping[str, float]) -> None:
        assert self._run is not None
        self._last_eval = (step, metrics)
        if step != self._run.last_step:
            self._say(f"eval after step {step}: " + ", ".join(f"{key} {value:.4f}" for key, value in metrics.items()))

    def on_finish(self, status: str, facts: Mapping[str, Any]) -> None:
        assert self._run is not None
        self._close_bar()
        for line in describe_end(self._run, self._recent, self._last_eval, status):
            self._say(line)
        if starts := read(self._run.run_dir):
            self._say(describe_time(total(starts)))
        if facts.get("sample"):
            self._say(f"sample    {printable(facts['sample'])}")
        report = self._run.run_dir / REPORT
        if report.exists():
            self._say(f"report    {report}")

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        self._close_bar()
