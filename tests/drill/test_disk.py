"""Small disks, and a limit on the size of a run's files."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from tests.commands import ROOT
from tests.disks import not_mounted
from trainer.drill import processes
from trainer.drill.disk import limit, take_away

ENDING = "i=100; while [ $i -lt 300 ]; do sleep 0.$i & i=$((i+1)); done; wait"  # one about every millisecond


KILLED = """
import os, sys
from pathlib import Path
from trainer.drill.disk import small_disk
disk = small_disk(Path(sys.argv[1]), 1 << 16)
print(disk.__enter__() or "", flush=True)
os._exit(1)
"""


def test_processes_may_end_while_they_are_limited():
    """A limit that meets one that has just ended goes on to the others."""
    mark = processes.new_mark()
    env = os.environ | {processes.MARK: mark}
    with subprocess.Popen(["sleep", "100"], env=env) as sleeping, subprocess.Popen(["sh", "-c", ENDING], env=env) as ending:
        try:
            while ending.poll() is None:
                limit(mark, 1 << 20)
            assert resource.prlimit(sleeping.pid, resource.RLIMIT_FSIZE)[0] == 1 << 20
        finally:
            processes.end_all(mark)


def test_what_a_killed_drill_left_mounted_is_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "full_disk" / "checkpoints"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=ROOT, capture_output=True, text=True)
    if why := done.stdout.strip():
        not_mounted(why)
    (path / "file").touch()
    assert path.is_mount()
    take_away(tmp_path)
    assert not path.is_mount()
    assert list(path.iterdir()) == []
