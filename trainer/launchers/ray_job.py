"""Submit a run to a running Ray cluster and follow it: `python -m trainer.launchers.ray_job [overrides]`.

RAY_API_SERVER_ADDRESS is the address of the cluster's dashboard. The job runs in this directory, which
the machines of the cluster must share. Ctrl-C stops the job, resumable. The exit status is the run's.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shlex
import signal
import sys
import time

from trainer.cli import report
from trainer.errors import EXIT_FAILED, ConfigError, RunError, missing_extra

ADDRESS = "RAY_API_SERVER_ADDRESS"
POLL_SECONDS = 0.5


def submit(arguments: list[str]) -> int:
    """Run `python -m trainer launcher=ray ARGUMENTS` as a job; returns its exit status.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
        RunError: the cluster does not take the job.
    """
    if importlib.util.find_spec("ray") is None:
        raise missing_extra("ray", "ray", "launch/ray_job.sh")
    if not os.environ.get(ADDRESS):
        raise ConfigError(f"{ADDRESS}: is not set; give the address of the cluster's dashboard, e.g. {ADDRESS}=http://127.0.0.1:8265")
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        client = JobSubmissionClient(os.environ[ADDRESS])
    except AuthenticationError as error:
        raise ConfigError(
            f"{ADDRESS}={os.environ[ADDRESS]}: the cluster asks for its token; set RAY_AUTH_MODE=token (and RAY_AUTH_TOKEN_PATH, if not ~/.ray/auth_token)"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise ConfigError(f"{ADDRESS}={os.environ[ADDRESS]}: no Ray cluster takes jobs there: {str(error).splitlines()[0]}") from error
    path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    command = shlex.join(["env", "-C", os.getcwd(), f"PYTHONPATH={path}", "python", "-m", "trainer", "launcher=ray", *arguments])
    try:
        job = client.submit_job(entrypoint=command)
    except RuntimeError as error:  # what the cluster answered; its last line is the cause
        cause = str(error).strip().splitlines()[-1].rstrip(".")
        raise RunError(f"the Ray cluster at {os.environ[ADDRESS]} did not take the job: {cause}") from error

    def stop(number: int, _: object) -> None:
        client.stop_job(job)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)

    async def follow() -> None:
        async for text in client.tail_job_logs(job):
            sys.stdout.write(text)
            sys.stdout.flush()

    with contextlib.suppress(RuntimeError):  # the line broke, or the job ended before it printed: its status tells
        asyncio.run(follow())
    while not client.get_job_status(job).is_terminal():
        time.sleep(POLL_SECONDS)
    info = client.get_job_info(job)
    if info.driver_exit_code is None:
        print(f"run failed: job {job}: {info.message}", file=sys.stderr)
        return EXIT_FAILED
    return info.driver_exit_code


if __name__ == "__main__":
    try:
        sys.exit(submit(sys.argv[1:]))
    except (ConfigError, RunError) as error:
        sys.exit(report(error))
