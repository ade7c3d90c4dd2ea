# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Graphs that do not look at a call's options are left out where patches are in those."""

import functools
import logging

import pytest
import torch

from attnpatch.hosts.comfyui.compiled import without_blind_graphs


def compiling(**options):
    """Make what the host's node makes: a wrapper that holds what it compiled."""
    modules = {"diffusion_model": torch.compile(torch.nn.Linear(2, 2), backend="eager", **options)}

    def wrapper(executor, *args, **kwargs):
        return modules, executor(*args, **kwargs)

    return wrapper


def blind():
    return compiling(options={"guard_filter_fn": lambda guards: [True for _ in guards]})


def holding(*wrappers):
    return {"wrappers": {"apply_model": {"torch.compile": list(wrappers), "other": [1]}}, "x": 2}


@pytest.mark.parametrize(
    "options",
    [{}, {"wrappers": {}}, holding(), holding(compiling())],
    ids=["nothing", "no wrappers", "an empty list", "all guards"],
)
def test_what_stays(options, caplog):
    assert without_blind_graphs(options) is options
    assert not caplog.records


@pytest.mark.parametrize(
    "wrapper",
    [blind(), functools.partial(print), lambda executor: executor],
    ids=["guards left out", "no function", "nothing known"],
)
def test_blind_graphs_are_left_out_and_told_once(wrapper, caplog):
    sees = compiling()
    options = holding(wrapper, sees)
    with caplog.at_level(logging.WARNING, "attnpatch"):
        found = [without_blind_graphs(options) for _ in range(3)]
    assert found == 3 * [holding(sees)]
    assert options == holding(wrapper, sees), "the host's own are left alone"
    assert [r.message.split(":")[0] for r in caplog.records] == ["torch.compile"]
