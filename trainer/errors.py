"""Errors that people read, and the exit status each one stands for."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_RESUMABLE = 75  # EX_TEMPFAIL: a preempted run, to be started again


class ConfigError(ValueError):
    """The command or its config is wrong: nothing was started (exit status 2).

    The message names the key, the value given and what would be right.
    """


class MissingExtra(ConfigError):
    """An optional dependency is not installed."""


class RunError(RuntimeError):
    """The run failed for a reason that the message explains in full (exit status 1)."""


class Interrupted(RunError):
    """A person ended the run at once, and with it a sweep (exit status 1)."""


class Stopped(RuntimeError):
    """The run was asked to stop and can be resumed from its directory (exit status 75)."""


def run_again(run_dir: object, resume: str | None = None) -> str:
    """What to do to go on from the newest checkpoint in `run_dir`, after a start with `checkpoint.resume=RESUME` (None: not known)."""
    return "run the same command" if resume == "auto" else f"run the same command with checkpoint.resume=auto run_dir={run_dir}"


def missing_extra(package: str, extra: str, what: str) -> MissingExtra:
    """The error for an optional dependency that is not installed."""
    return MissingExtra(
        f"{what} needs the package {package!r}, which is not installed; install it with: pip install -e '.[{extra}]' (in a checkout of trainer)"
    )
