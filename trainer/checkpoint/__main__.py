"""python -m trainer.checkpoint {ls,verify,export,import}: look at checkpoints, check them, move them out and in."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.checkpoint.directory import MANIFEST, has_manifest, is_unfinished
from trainer.checkpoint.ls import NOT_FINISHED, checkpoints, look, newest, table
from trainer.checkpoint.verify import problems
from trainer.cli import report
from trainer.errors import EXIT_FAILED, ConfigError, RunError
from trainer.units import parse_size

PATH_HELP = "a checkpoint, or a run directory"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (ConfigError, RunError) as error:
        return report(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer.checkpoint", description="Look at the checkpoints of a run, check them, move them out and in.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("ls", help="what checkpoints a run has")
    command.add_argument("path", metavar="RUN_DIR", type=Path)
    command.set_defaults(command=_ls)

    command = commands.add_parser("verify", help="check every file against its sha256; exit status 1 where one is damaged or missing")
    command.add_argument("path", metavar="PATH", type=Path, help=f"{PATH_HELP}: then all of its checkpoints")
    command.set_defaults(command=_verify)

    command = commands.add_parser("export", help="write the model in a form that others read")
    command.add_argument("path", metavar="PATH", type=Path, help=f"{PATH_HELP}: then its newest checkpoint")
    command.add_argument("out", metavar="OUT", type=Path, help="what to write; must not be there yet")
    command.add_argument(
        "--format",
        choices=("hf", "plain"),
        default="hf",
        help="hf: a directory for AutoModelForCausalLM.from_pretrained (gpt as a Llama); plain: one safetensors file under canonical names (default: hf)",
    )
    command.add_argument("--max-shard-size", metavar="SIZE", type=_size, default=parse_size("5GB"), help="of each file of --format hf (default: 5GB)")
    command.set_defaults(command=_export)

    command = commands.add_parser("import", help="start a run of model=gpt from a Llama in a Hugging Face directory")
    command.add_argument("source", metavar="HF_DIR", help="a directory, a hub id, or the name of a fetched asset")
    command.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the run directory that gets the checkpoint of step 0")
    command.set_defaults(command=_import)
    return parser


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _ls(options: argparse.Namespace) -> int:
    found = [look(path) for path in checkpoints(options.path)]
    print(table(found) if found else f"{options.path} has no checkpoints")
    return 0


def _verify(options: argparse.Namespace) -> int:
    damaged = 0
    every = checkpoints(options.path)
    if not every:
        print(f"{options.path} has no checkpoints")
    for path in every:
        try:
            whole = has_manifest(path)
            if not whole and is_unfinished(path):
                print(f"{path}: {NOT_FINISHED}; it is not taken for a checkpoint")
                continue
        except (ConfigError, RunError) as error:  # the others are checked all the same
            wrong = [str(error)]
        else:
            wrong = problems(path) if whole else [f"{path}: {MANIFEST} is missing"]
        damaged += len(wrong)
        for problem in wrong:
            print(problem, file=sys.stderr)
        if not wrong:
            print(f"{path}: every file is as it was written")
    return EXIT_FAILED if damaged else 0


def _export(options: argparse.Namespace) -> int:
    path = newest(options.path)
    from trainer.checkpoint import export

    notes = []
    if options.format == "hf":
        notes = export.export_hf(path, options.out, options.max_shard_size)
    else:
        export.export_plain(path, options.out)
    print("\n  ".join([f"{path} is exported to {options.out}", *notes]))
    return 0


def _import(options: argparse.Namespace) -> int:
    from trainer.checkpoint.import_hf import import_hf

    overrides = import_hf(options.source, options.run_dir)
    print(f"{options.source} is imported into {options.run_dir}\nTrain on, with your data=: {shlex.join(['python', '-m', 'trainer', *overrides])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
