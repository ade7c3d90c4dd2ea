# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A cluster of Ray on this machine: a worker that is killed, and a head that is restarted."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import attnpatch as ap
from deadly_measures import KilledOnce
from engine_cases import assert_same, here, make  # noqa: F401

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def path(monkeypatch):
    """Workers find the modules of the tests."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")


def test_a_worker_that_is_killed(here, tmp_path, path, caplog):  # noqa: F811
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        results = ap.run_study(
            make(),
            tmp_path / "out",
            engine="ray",
            workers=2,
            rows=2,
            measures={"process": KilledOnce(tmp_path, seed=1)},
            progress=False,
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "killed").exists()
    assert "an actor was lost" in caplog.text
    assert_same(results, here)


def head(verb):
    program = [sys.executable, "-m", "ray.scripts.scripts", *verb]
    subprocess.run(program, check=True, capture_output=True, timeout=120)


def start_head():
    head(["start", "--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false"])


def test_a_head_that_is_restarted(here, tmp_path, path):  # noqa: F811
    """The sweep ends with its cluster; on the next one it resumes where it was."""
    make().save(tmp_path / "study.toml")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "attnpatch.cli", "sweep", str(tmp_path / "study.toml")]
    command += ["--output", str(out), "--engine", "ray", "--workers", "1", "--rows", "1"]
    command += ["--address", "127.0.0.1:6399", "--resume", "--quiet"]
    start_head()
    try:
        sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 240
        while len(list(out.glob("records/*.json"))) < 3:
            assert sweep.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        head(["stop", "--force"])
        try:
            sweep.wait(60)
        except subprocess.TimeoutExpired:
            sweep.send_signal(signal.SIGKILL)
        assert sweep.wait(60) != 0
        sweep.stdout.close()
        part = {path: path.stat().st_mtime_ns for path in out.glob("pictures/*/*.png")}
        assert 3 <= len(ap.load_study(out)) <= len(part) < len(here)
        start_head()
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    finally:
        head(["stop", "--force"])
    results = ap.load_study(out)
    recorded = {out / row["file"] for row in results}
    kept = [path for path, written in part.items() if path.stat().st_mtime_ns == written]
    assert len(kept) >= 3 and set(part) <= recorded
    assert_same(results, here)
