"""launch/ray_job.sh on a real cluster on this machine: it joins what runs, and its exit status is the run's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tests.commands import ROOT, environment, free_port
from tests.launchers.clusters import machine
from tests.launchers.running import PARTS, TROUBLE, losses, run


@pytest.fixture
def cluster(monkeypatch) -> Iterator[dict[str, str]]:
    """Addresses of a head node that is started for the test."""
    pytest.importorskip("ray.dashboard.optional_deps", reason="a cluster takes jobs only with ray[default]", exc_type=ImportError)
    gcs, dashboard = free_port(), free_port()
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with machine("--head", f"--port={gcs}", f"--dashboard-port={dashboard}", "--num-cpus=2"):
        yield {"gcs": f"127.0.0.1:{gcs}", "dashboard": f"http://127.0.0.1:{dashboard}"}


@pytest.mark.large
def test_a_job_and_a_run_in_a_cluster_that_is_there(cluster, tmp_path):
    def job(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = environment(RAY_API_SERVER_ADDRESS=cluster["dashboard"], PYTHONPATH=os.pathsep.join([str(PARTS), str(ROOT)]))
        env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
        return subprocess.run([str(ROOT / "launch" / "ray_job.sh"), *TROUBLE, *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)

    done = job("strategy=ddp", "launcher.nproc_per_node=2", "train.max_steps=3", "run_dir=job")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finished  step 3\n" in done.stdout
    wrong = job("train.max_step=3")
    assert wrong.returncode == 2
    assert "error: unknown key 'train.max_step'; did you mean 'train.max_steps'?\n" in wrong.stdout
    status, _, err = run("+strategy=ray", f"launcher.address='{cluster['gcs']}'", "train.max_steps=3", "run_dir=joined", cwd=tmp_path)
    assert status == 0, err
    assert losses(tmp_path / "job") == losses(tmp_path / "joined")


def test_a_job_needs_an_address(tmp_path):
    done = subprocess.run([sys.executable, "-m", "trainer.launchers.ray_job"], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: RAY_API_SERVER_ADDRESS: is not set; give the address of the cluster's dashboard, e.g. RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265\n"
    )


class NoAgent(BaseHTTPRequestHandler):
    """The dashboard of a cluster whose head node has no agent for jobs yet."""

    def do_GET(self):
        self.answer(200, json.dumps({"version": "4", "ray_version": "2.50.0", "ray_commit": "", "session_name": ""}))

    def do_POST(self):
        self.answer(500, "No available agent to submit job, please try again later.")

    def answer(self, status: int, text: str):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass


def test_a_cluster_that_takes_no_job(tmp_path):
    pytest.importorskip("ray")
    with HTTPServer(("127.0.0.1", 0), NoAgent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        env = environment(RAY_API_SERVER_ADDRESS=address, RAY_AUTH_MODE="disabled")
        done = subprocess.run([sys.executable, "-m", "trainer.launchers.ray_job"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        server.shutdown()
    assert done.returncode == 1
    told = "Request failed with status code 500: No available agent to submit job, please try again later"
    assert done.stderr.splitlines()[-1] == f"run failed: the Ray cluster at {address} did not take the job: {told}"
