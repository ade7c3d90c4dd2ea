# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Clusters of Ray on this machine, which lose a worker, a node and their head; an interrupt."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import attnpatch as ap
from deadly_measures import Held, KilledOnce
from engine_cases import assert_same, here, make  # noqa: F401

ray = pytest.importorskip("ray", reason="ray is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # Ray's own
]

from ray.cluster_utils import Cluster  # noqa: E402

TESTS = str(Path(__file__).parents[1])
PLAIN = {"include_dashboard": False}


def wait_until_held(folder, runs):
    deadline = time.monotonic() + 600
    while not (folder / "held").exists():
        assert runs() and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def path(monkeypatch):
    """Workers find the modules of the tests; clusters of others are not seen, nor these by them."""
    monkeypatch.setenv("PYTHONPATH", TESTS)
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets' paths have to be short
    monkeypatch.setenv("RAY_TMPDIR", temporary)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by itself 15: on a busy machine that is never
    yield
    shutil.rmtree(temporary, ignore_errors=True)


def test_a_worker_that_is_killed(here, tmp_path, path, caplog):  # noqa: F811
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **PLAIN})
    cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        results = ap.run_study(
            make(),
            tmp_path / "out",
            engine="ray",
            workers=3,  # for two there is room
            rows=2,
            measures={"process": KilledOnce(tmp_path, seed=1)},
            progress=False,
        )
        with pytest.raises(ValueError, match=r"address: expected none or .*, got elsewhere:1"):
            ap.run_study(make(), tmp_path / "other", engine="ray", address="elsewhere:1")
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert (tmp_path / "killed").exists()
    assert "an actor was lost" in caplog.text
    assert_same(results, here)


def test_a_node_that_is_lost(here, tmp_path, path, caplog):  # noqa: F811
    """Another node, which came later, goes on."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **PLAIN})
    first = cluster.add_node(num_cpus=1)
    try:
        ray.init(address=cluster.address, log_to_driver=False)
        held = {"held": Held(tmp_path, seed=1)}
        options = {"engine": "ray", "workers": 1, "rows": 2, "measures": held, "progress": False}
        with ThreadPoolExecutor() as threads:
            running = threads.submit(ap.run_study, make(), tmp_path / "out", **options)
            wait_until_held(tmp_path, lambda: not running.done())
            cluster.add_node(num_cpus=1)
            cluster.remove_node(first, allow_graceful=False)
            (tmp_path / "let_go").touch()
            results = running.result(timeout=600)
    finally:
        (tmp_path / "let_go").touch()
        ray.shutdown()
        cluster.shutdown()
    assert "an actor was lost" in caplog.text
    assert_same(results, here)


def start_head():
    return Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **PLAIN})


def kill_head(cluster):
    """End the processes of this head alone, none of another cluster."""
    cluster.remove_node(cluster.head_node, allow_graceful=False)


class Sweep:
    """The command on the cluster, which a measure holds at the first picture of seed 1."""

    def __init__(self, folder, address):
        self.folder, self.out, self.address = folder, folder / "out", address
        make().save(folder / "study.toml")
        module = f"from deadly_measures import Held\nhold = Held({str(folder)!r}, seed=1)\n"
        (folder / "held_here.py").write_text(module)

    def start(self):
        (self.folder / "held").unlink(missing_ok=True)
        study, module = str(self.folder / "study.toml"), "attnpatch_command"
        command = [sys.executable, "-m", module, "sweep", study, "--output", str(self.out)]
        command += ["--engine", "ray", "--address", self.address, "--resume", "--workers", "1"]
        command += ["--rows", "1", "--measure", "held_here:hold", "--quiet"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)

    def start_and_wait_until_held(self):
        running = self.start()
        wait_until_held(self.folder, lambda: running.poll() is None)
        return running

    def made(self):
        """Return when each picture that is recorded was written, by its file."""
        files = [self.out / row["file"] for row in ap.load_study(self.out)]
        return {file: file.stat().st_mtime_ns for file in files}


def test_an_interrupt_and_a_head_that_is_restarted(here, tmp_path, path, monkeypatch):  # noqa: F811
    """What is done is kept, and is not made again."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{tmp_path}")
    cluster = start_head()
    sweep = Sweep(tmp_path, cluster.address)
    try:
        running = sweep.start_and_wait_until_held()
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=300)
        assert running.returncode == 130 and "interrupted; --resume goes on" in said
        first = sweep.made()
        assert 0 < len(first) < len(here)

        running = sweep.start_and_wait_until_held()
        kill_head(cluster)
        said, _ = running.communicate(timeout=300)
        assert running.returncode == 1
        assert re.search(
            r"attnpatch sweep: ray: the head of the cluster, .*, does not answer", said
        )
        second = sweep.made()
        assert second.items() >= first.items() and len(second) < len(here)

        cluster = start_head()
        sweep.address = cluster.address
        (tmp_path / "let_go").touch()
        running = sweep.start()
        said, _ = running.communicate(timeout=600)
        assert running.returncode == 0, said
    finally:
        (tmp_path / "let_go").touch()
        cluster.shutdown()
    assert sweep.made().items() >= second.items()
    assert_same(ap.load_study(sweep.out), here)
