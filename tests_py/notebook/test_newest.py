# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The newest request is answered, whatever came before it."""

import threading

import pytest

from attnpatch.notebook.newest import Newest

LONG = 60  # seconds until a test gives up; nothing waits so long


class Runs:
    """Runs that wait for a word at each of their steps."""

    def __init__(self):
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.ran, self.answers = [], []
        self.previews = Newest(self.run, lambda *answer: self.answers.append(answer))

    def run(self, request, check):
        self.ran.append(request)
        self.begun.release()
        assert self.go.acquire(timeout=LONG)
        check()
        if isinstance(request, Exception):
            raise request
        return request * 10


@pytest.fixture
def runs():
    found = Runs()
    yield found
    found.go.release(100)
    found.previews.close()


def test_a_request_is_answered(runs):
    runs.previews.ask(1)
    runs.go.release()
    assert runs.previews.wait(LONG)
    assert runs.answers == [(1, 10)]
    assert runs.previews.stopped == 0


def test_a_newer_request_stops_the_running_one_and_those_between_never_run(runs):
    runs.previews.ask(1)
    assert runs.begun.acquire(timeout=LONG)
    for request in (2, 3, 4):
        runs.previews.ask(request)
    runs.go.release(2)
    assert runs.previews.wait(LONG)
    assert runs.ran == [1, 4]
    assert runs.answers == [(4, 40)]
    assert runs.previews.stopped == 1


def test_an_error_is_an_answer_and_the_next_request_runs(runs):
    error = RuntimeError("no memory")
    runs.go.release(2)
    runs.previews.ask(error)
    assert runs.previews.wait(LONG)
    runs.previews.ask(5)
    assert runs.previews.wait(LONG)
    assert runs.answers == [(error, error), (5, 50)]


def test_closing_stops_what_runs_and_ends_the_thread(runs):
    runs.previews.ask(1)
    assert runs.begun.acquire(timeout=LONG)
    assert not runs.previews.wait(0), "it is busy"
    closing = threading.Thread(target=runs.previews.close)
    closing.start()
    while not runs.previews._closed:
        pass
    runs.go.release()
    closing.join(LONG)
    assert not closing.is_alive()
    assert runs.answers == []
    with pytest.raises(RuntimeError, match="this cell was closed"):
        runs.previews.ask(2)
