"""One proof from start to end."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from trainer import own_options
from trainer.config import Config
from trainer.distributed import Place
from trainer.errors import ConfigError, RunError
from trainer.launchers.base import count_gpus
from trainer.prove import cells, html, plan, record, table, verdict
from trainer.prove.fork import Forked
from trainer.prove.options import ProveOptions
from trainer.prove.reference import find_reference
from trainer.sections import Device
from trainer.writing import write_whole


def prove(base: Config, options: ProveOptions) -> None:
    """Prove the strategies for the running Hydra job, whose config is `base`.

    Raises:
        ConfigError: the model or the command cannot be proved at all.
        RunError: some strategy is not equal, or it could not be told.
    """
    if "WORLD_SIZE" in os.environ:
        raise ConfigError("WORLD_SIZE is set: the proof starts its own processes; run it without torchrun")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exception, so that the ranks are ended too
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a script has started in the background
    began = time.monotonic()
    run_dir = own_options.directory(base, "prove")
    with tempfile.TemporaryDirectory(prefix="prove-") as scratch:
        work = Path(scratch)
        device, why = choose_device(base, options, work)
        made = plan.make(base, options, device)
        run_dir.mkdir(parents=True, exist_ok=True)
        import_all(made, device)
        resume_at = options.steps // 2 if options.resume else 0
        reference = find_reference(made.reference, options, work, resume_at)
        header = record.header(made.reference, base, options, reference, device, why)
        print("\n".join(record.said(header)), flush=True)
        (control,) = cells.run([plan.Cell("control", 1, made.control)], reference, work, options.timeout, 1, lambda row: None)
        if control.status == "failed":
            raise RunError(f"the control run failed: {control.reason}\n\n{control.trace}")
        cells.leave_out_touchy_buffers(reference, work / "control-1")
        rows = cells.run(made.cells, reference, work, options.timeout, cells.cores(), tell, resume_at)
    verdict.soften(rows, control)
    result = verdict.conclude(rows, control, reference, options.strategies)
    document = record.document(header, rows, control, result, time.monotonic() - began)
    write_whole(run_dir / "prove.json", json.dumps(document, indent=1, allow_nan=False))
    write_whole(run_dir / "prove.html", html.page(document))
    print(f"\n{table.text([control, *rows], list(reference.optimizers))}\n")
    print(
        "\n".join(
            [*table.notes(rows), f"{table.SIGNS[result.word]} {record.sentence(document)} ({document['seconds']:.0f} s)", f"report: {run_dir / 'prove.html'}"]
        )
    )
    if not result.proved:
        raise RunError("\n".join([f"verdict: {result.word}", *result.lines]))


def tell(row: cells.Row) -> None:
    """One line for a row that is done, on a terminal alone: the table that follows says more."""
    if sys.stdout.isatty():
        print(f"  {row.strategy} on {verdict.ranks(row.ranks)}: {row.status}{f', {row.seconds:.1f} s' if row.seconds else ''}", flush=True)


def choose_device(base: Config, options: ProveOptions, work: Path) -> tuple[str, str]:
    """("cpu" or "cuda", why). All cells run on the same kind of device, or their rounding would differ.

    Raises:
        ConfigError: train.device=cuda, and there are too few GPUs.
    """
    if base.train.device is Device.cpu:
        return "cpu", "train.device=cpu"
    answer = work / "gpus.txt"

    # Asked in a fork: a process that has touched CUDA cannot fork ranks that use it.
    def ask(_: Place) -> None:
        answer.write_text(str(count_gpus()), encoding="utf-8")

    Forked(1, ask, work / "gpus", options.timeout).wait()
    gpus = int(answer.read_text()) if answer.exists() else 0
    most = max(options.ranks)
    if gpus >= most:
        return "cuda", f"{gpus} GPUs"
    if base.train.device is Device.cuda:
        raise ConfigError(f"train.device=cuda: {most} processes need as many GPUs, and there are {gpus}; use prove.ranks=[{max(1, gpus)}], or train.device=cpu")
    return "cpu", f"{most} processes need as many GPUs, and there are {gpus}" if gpus else "no GPU"


def import_all(made: plan.Plan, device: str) -> None:
    """Import, once, what the forked ranks will use."""
    importlib.import_module("torch").set_num_threads(1)
    if device == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed looks for GPUs while it is imported
    parts = [type(made.reference.model).__module__ + "_module"]
    if device == "cpu":  # importing DeepSpeed may touch CUDA
        parts += [type(cell.config.strategy).__module__ + "_engine" for cell in made.cells if cell.config is not None]
    for name in ["torch._dynamo", "torch.distributed.fsdp", "trainer.prove.rank", *dict.fromkeys(parts)]:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)
