import errno
import io
import math
import os
import pty

import pytest

from trainer.callbacks.progress import Progress, describe_step, mean_over_time, mean_over_tokens, seconds_left
from trainer.callbacks.record import REPORT


def test_rates_are_means_over_time(step_info):
    # 100 tokens in 1 s, then 100 in 3 s: 200 tokens in 4 s are 50 tokens/s, not the mean of 100 and 33.
    recent = [step_info(1, tokens=100, seconds=1.0), step_info(2, tokens=100, seconds=3.0)]
    assert mean_over_time([info.tokens_per_second for info in recent], [info.step_seconds for info in recent]) == pytest.approx(50.0)
    assert math.isnan(mean_over_time([], []))


def test_loss_is_a_mean_over_tokens(step_info):
    recent = [step_info(1, tokens=300, loss=1.0), step_info(2, tokens=100, loss=5.0)]
    assert mean_over_tokens(recent) == pytest.approx(2.0)
    assert math.isnan(mean_over_tokens([]))


def test_time_left_is_the_steps_left_times_their_mean_time(step_info):
    recent = [step_info(9, seconds=1.0), step_info(10, seconds=2.0)]
    assert seconds_left(recent, 30) == pytest.approx(20 * 1.5)
    assert seconds_left(recent, 10) == 0


def test_a_step_in_words(step_info):
    # 200 tokens/s x 2e6 FLOP / 1e9 FLOP/s = 40 %; 120 steps of 0.5 s are left.
    recent = [step_info(29, loss=9.0), step_info(30, loss=2.34567)]
    assert describe_step(recent, 150) == "loss 2.3457, 200 tokens/s, MFU 40.0%, 300 MiB, 0:01:00 left"
    assert describe_step([step_info(30, peak=math.nan)], 30) == "loss 2.0000, 200 tokens/s, 300 MiB, 0:00:00 left"


def run_to_the_end(progress, run, step_info, evaluate_at=()):
    progress.on_start(run)
    for step in range(run.first_step, run.last_step + 1):
        progress.on_steps([step_info(step, loss=float(step))])
        if step in evaluate_at:
            progress.on_eval(step, {"loss": 1.75, "accuracy": 0.5})


def test_plain_lines_where_there_is_no_terminal(tmp_path, run_info, step_info):
    out, err = io.StringIO(), io.StringIO()
    progress = Progress(10, out, err)
    data = {"samples": 1000, "unigram_entropy": 3.21, "fingerprint": "0123456789abcdef" * 4}
    run_to_the_end(progress, run_info(last_step=25, max_steps=25, data=data), step_info, evaluate_at=(10, 25))
    (tmp_path / REPORT).write_text("")
    progress.on_finish("finished", {"sample": "def f():\x1b[2J\n\treturn"})
    progress.close()
    assert err.getvalue() == ""
    assert out.getvalue().splitlines() == [
        f"run       {tmp_path}",
        "strategy  fsdp, 2 processes on cpu",
        "model     GPT, 3,145,728 parameters",
        "data      samples 1,000, unigram entropy 3.21, fingerprint 0123456789ab",
        "MFU       FLOP per token x tokens/s / peak; FLOP per token: 6 x parameters = 2M; peak of all processes: 1 GFLOP/s (measured)",
        "step 1/25: loss 1.0000, 200 tokens/s, MFU 40.0%, 300 MiB, 0:00:12 left",
        "step 10/25: loss 10.0000, 200 tokens/s, MFU 40.0%, 300 MiB, 0:00:08 left",
        "eval after step 10: loss 1.7500, accuracy 0.5000",
        "step 20/25: loss 20.0000, 200 tokens/s, MFU 40.0%, 300 MiB, 0:00:02 left",
        "step 25/25: loss 25.0000, 200 tokens/s, MFU 40.0%, 300 MiB, 0:00:00 left",
        "finished  step 25",
        "train     loss 15.5000 nats over the last 20 steps, unigram entropy of the data 3.2100 nats",  # the mean of 6 .. 25
        "eval      loss 1.7500 nats, accuracy 0.5000 after step 25",
        "sample    def f():\ufffd[2J",  # a model cannot clear the screen
        "\treturn",
        f"report    {tmp_path / REPORT}",
    ]


@pytest.mark.parametrize(
    ("last", "advice"),
    [(7, "to go on, leave out train.stop_at or raise it"), (20, "run the same command to go on")],
    ids=["at train.stop_at", "by a signal"],
)
def test_a_resumed_run_says_so_and_a_stopped_one_how_to_go_on(run_info, step_info, last, advice):
    out = io.StringIO()
    progress = Progress(10, out, io.StringIO())
    facts = {"first_step": 6, "world_size": 1, "peak_flops": math.nan, "data": {"rows": 5}, "resumed_from": "checkpoints/step-00000005"}
    progress.on_start(run_info(last_step=last, **facts))
    for step in (6, 7):
        progress.on_steps([step_info(step, loss=float(step))])
    progress.on_finish("stopped", {})
    progress.close()
    lines = out.getvalue().splitlines()
    assert "strategy  fsdp, 1 process on cpu" in lines
    assert "resumed   from checkpoints/step-00000005, going on with step 6 of 20" in lines
    assert any("peak of all processes: unknown, so MFU is not shown (measured)" in line for line in lines)
    assert f"stopped   at step 7 of 20: {advice}" in lines
    assert "train     loss 6.5000 over the last 2 steps" in lines
    assert not any(line.startswith(("eval", "sample", "report")) for line in lines)


def test_a_run_without_a_step_left_ends_without_numbers(run_info):
    out = io.StringIO()
    progress = Progress(10, out, io.StringIO())
    progress.on_start(run_info(first_step=21))
    progress.on_finish("finished", {})
    assert out.getvalue().splitlines()[-1] == "finished  step 20"


def read_all(main: int) -> str:
    """What was written to the other end of a terminal, which has been closed."""
    parts = []
    try:
        while part := os.read(main, 2**16):
            parts.append(part)
    except OSError as error:
        if error.errno != errno.EIO:  # so Linux says that it is closed
            raise
    os.close(main)
    return b"".join(parts).decode()


@pytest.mark.parametrize("size", [(0, 0), (30, 120)])
def test_a_bar_in_a_terminal(run_info, step_info, size):
    main, terminal = pty.openpty()
    if size != (0, 0):
        import fcntl
        import struct
        import termios

        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    out = io.StringIO()
    with open(terminal, "w") as err:
        progress = Progress(10, out, err)
        run_to_the_end(progress, run_info(last_step=3, max_steps=20), step_info)
        progress.on_finish("stopped", {})
        progress.close()
    drawn = read_all(main)
    assert "loss 3.0000, 200 tokens/s, MFU 40.0%, 300 MiB, 0:00:00 left" in drawn
    assert "3/3 |" in drawn
    assert not any(line.startswith("step") for line in out.getvalue().splitlines())
    assert out.getvalue().splitlines()[-1] == "train     loss 2.0000 nats over the last 3 steps, unigram entropy of the data 3.2100 nats"
