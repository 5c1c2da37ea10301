"""python -m trainer.data validate data=tabular data.path=FILE data.target=COLUMN [key=value ...]: is the table what it should be?"""

from __future__ import annotations

from collections.abc import Sequence

from trainer.data import commands
from trainer.data.examine import CHECKS, ExamineOptions, examine
from trainer.data.tabular import Tabular

HELP = f"""Hold a table against its schema, and search it for what makes results better than they are.
The schema is data.schema, or FILE.schema.yaml; where it is not there yet, it is inferred from data.path and written.

Options of this command beside those of python -m trainer:
  validate.threshold=0.99    the AUC (regression: R2) of one column alone from which on it is named
  validate.errors=[a,b]      checks whose findings end with exit status 1, the others warn; of {", ".join(CHECKS)}
                             (default: schema, prepared, copy)

Exit status 0: no error; 1: there is one; 2: the command was wrong, or a file cannot be read."""


def main(arguments: Sequence[str]) -> int:
    """The command; returns the exit status."""
    return commands.run(arguments, "validate", ExamineOptions, HELP, validate)


def validate(knobs: Tabular, options: ExamineOptions) -> int:
    """Print what is found; returns 1 where something is an error."""
    options.check("validate")
    result = examine(knobs, options)
    told = f"inferred now from {knobs.path}" if result.inferred else f"{len(result.rules.columns)} columns"
    print(f"schema    {result.schema_path}: {told}; to enforce it in training: data.schema={result.schema_path}")
    for one in result.told:
        print(f"{one.level:<10}{one.text}")
    return int(result.failed)
