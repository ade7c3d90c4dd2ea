# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Runs in several threads, and after one that was cancelled, do not disturb each other."""

import threading

import pytest
import torch


class Cancelled(BaseException):
    """As when a person stops a run."""


def assert_undisturbed(call, jobs, sizes, middle, rounds=2):
    """Every job, call(job, size), gives in a thread of its own what it gives alone.

    `middle` is the first job's block at which a run is cancelled before.
    """
    expected = [[call(job, size) for size in sizes] for job in range(jobs)]

    def cancel(*_):
        raise Cancelled

    hook = middle.register_forward_pre_hook(cancel)
    with pytest.raises(Cancelled):
        call(0, (40, 40))
    hook.remove()
    found = [[] for _ in expected]

    def work(job):
        for _ in range(rounds):
            for size, wanted in zip(sizes, expected[job], strict=True):
                found[job].append(torch.equal(call(job, size), wanted))

    threads = [threading.Thread(target=work, args=(job,)) for job in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[True] * rounds * len(sizes)] * jobs
