# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The server's doors: what it answers to whom, and that it calls nobody."""

import os
import signal
from pathlib import Path

import pytest

from attnpatch.playground import server

ROOT = Path(__file__).parents[2]
FILE = "/gradio_api/file="


@pytest.fixture(scope="module")
def client(served):
    import httpx  # which comes with Gradio

    with httpx.Client(base_url=served.address, timeout=120) as found:
        yield found


def test_the_page_is_there_and_may_load_nothing_from_elsewhere(client):
    answer = client.get("/")
    assert answer.status_code == 200 and "attnpatch playground" in answer.text
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self'") and "http" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/etc/../etc/passwd",
        str(ROOT / "pyproject.toml"),
        "pyproject.toml",
        "../../etc/passwd",
        "%2Fetc%2Fpasswd",
        str(Path(__file__)),
        "/proc/self/environ",
        "file:///etc/passwd",
    ],
)
def test_files_of_the_machine_are_refused(client, path):
    answer = client.get(FILE + path)
    assert answer.status_code in (403, 404)
    assert "root:" not in answer.text and "[project]" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        str(ROOT / "docs/image-prompts.png"),
        "http://127.0.0.1:9/a.png",
        "https://nowhere.invalid/a.png",
        "",
        "file:///",
    ],
)
@pytest.mark.parametrize("place", [0, 5], ids=["picture", "mask"])
def test_a_field_may_not_name_a_file_that_is_no_upload(client, served, path, place):
    """A path is checked before anything is read, copied or fetched, a picture's too."""
    called = served.calls.read_text()
    config = client.get("/config").json()
    (generate,) = [d for d in config["dependencies"] if len(d["inputs"]) > 10]
    field = {"path": path, "meta": {"_type": "gradio.FileData"}}
    values = [None] * len(generate["inputs"])
    values[place] = {"background": None, "layers": [field], "composite": None} if place else field
    asked = client.post(
        "/gradio_api/queue/join",
        json={"data": values, "fn_index": generate["id"], "session_hash": "abc"},
    )
    with client.stream("GET", "/gradio_api/queue/data?session_hash=abc") as stream:
        said = "".join(stream.iter_text())
    assert asked.status_code == 200
    assert '"success":false' in said and "file: expected an upload, got" in said
    assert "gradio cache" not in said
    assert "nowhere.invalid" not in served.calls.read_text()[len(called) :]
    assert ":9)" not in served.calls.read_text()[len(called) :]


def test_what_was_uploaded_is_given_back(client):
    picture = (ROOT / "docs/image-prompts.png").read_bytes()
    sent = client.post("/gradio_api/upload", files={"files": ("a.png", picture, "image/png")})
    (path,) = sent.json()
    assert client.get(FILE + path).content == picture


def test_a_large_upload_is_refused(client):
    content = b"0" * (server.LARGEST_UPLOAD + 1)
    answer = client.post("/gradio_api/upload", files={"files": ("a.png", content, "image/png")})
    assert answer.status_code == 413


def test_a_name_from_elsewhere_that_points_here_is_refused(client):
    assert client.get("/", headers={"host": "example.org"}).status_code == 400
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200


def test_nothing_is_offered_to_programs(client):
    answer = client.get("/gradio_api/info")
    assert answer.json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert client.get("/openapi.json").status_code == 404


def test_nobody_else_is_called(client, served):
    client.get("/")
    called = served.calls.read_text().splitlines()
    assert [line for line in called if not line.startswith(("127.0.0.1", "('127.0.0.1'"))] == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs signals")
@pytest.mark.parametrize(
    ("until", "kind"),
    [("Loading diffusers", "SIGHUP"), ("Playground: ", "SIGTERM"), ("Playground: ", "SIGINT")],
)
def test_a_signal_that_ends_it_leaves_no_files(play, tmp_path, until, kind):
    there = tmp_path / "temporary"
    there.mkdir()
    with play(tmp_path / "calls.txt", until, TMPDIR=str(there)) as (process, _):
        assert len(list(there.glob("attnpatch-play-*"))) == 1
        process.send_signal(getattr(signal, kind))
        said, _ = process.communicate(timeout=120)
    assert list(there.glob("attnpatch-play-*")) == []
    assert process.returncode == (0 if kind == "SIGINT" else 128 + getattr(signal, kind))
    assert "Traceback" not in said, said


def test_gradio_is_told_to_be_silent(tmp_path, monkeypatch):
    for name in ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "GRADIO_TEMP_DIR"):
        monkeypatch.setenv(name, "")
    server.private(tmp_path)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["GRADIO_TEMP_DIR"].startswith(str(tmp_path))


def test_a_port_that_is_taken_is_named():
    with server.listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            OSError, match=rf"--port: expected a free port at 127.0.0.1, got {port}"
        ):
            server.listen("127.0.0.1", port)


def test_a_host_that_is_not_known_is_named():
    with pytest.raises(OSError, match=r"--host: expected an address of this machine"):
        server.listen("nope.invalid", 0)
