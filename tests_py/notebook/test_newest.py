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
        if isinstance(request, BaseException):
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


@pytest.mark.parametrize(
    "error", [RuntimeError("no memory"), SystemExit(3), KeyboardInterrupt()], ids=repr
)
def test_an_error_is_an_answer_and_the_next_request_runs(runs, error):
    runs.go.release(2)
    runs.previews.ask(error)
    assert runs.previews.wait(LONG)
    runs.previews.ask(5)
    assert runs.previews.wait(LONG)
    assert runs.answers == [(error, error), (5, 50)]


def test_a_cancelled_run_gives_no_answer_and_the_next_request_runs(runs):
    assert not runs.previews.cancel(), "nothing runs"
    runs.previews.ask(1)
    assert runs.begun.acquire(timeout=LONG)
    assert runs.previews.cancel()
    runs.go.release(2)
    assert runs.previews.wait(LONG)
    assert runs.answers == [] and runs.previews.stopped == 1
    runs.previews.ask(2)
    assert runs.previews.wait(LONG)
    assert runs.answers == [(2, 20)]


def test_a_run_that_holds_the_stop_back_gives_no_answer_either():
    begun, go, answers = threading.Event(), threading.Event(), []

    def run(request, check):
        begun.set()
        assert go.wait(LONG)
        try:
            check()
        except BaseException:
            return "too late"

    previews = Newest(run, lambda *answer: answers.append(answer))
    previews.ask(1)
    assert begun.wait(LONG)
    previews.cancel()
    go.set()
    assert previews.wait(LONG)
    previews.close()
    assert answers == []


def test_an_error_of_who_takes_the_answer_is_printed_and_the_next_request_runs(capsys):
    answers = []

    def done(request, answer):
        if request == 1:
            raise SystemExit("nobody listens")
        answers.append(answer)

    previews = Newest(lambda request, check: request, done)
    for request in (1, 2):
        previews.ask(request)
        assert previews.wait(LONG)
    previews.close()
    assert answers == [2]
    assert "nobody listens" in capsys.readouterr().err


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
