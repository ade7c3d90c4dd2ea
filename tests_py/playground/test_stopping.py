# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""One visitor's picture is stopped, and nobody else's."""

from dataclasses import replace

import pytest

from attnpatch.playground.compare import Playground
from attnpatch.playground.settings import PromptSettings
from attnpatch.playground.stopping import Stopped, Stops


def test_only_the_one_who_asks_is_stopped_and_only_this_time():
    stops = Stops()
    assert not stops.stop("a"), "nothing is being made"
    with stops.serving("a") as a, stops.serving("b") as b:
        assert stops.stop("a")
        b()
        with pytest.raises(Stopped):
            a()
    assert not stops.stop("a")
    with stops.serving("a") as again:
        again()


def test_who_leaves_the_queue_is_not_served_and_may_come_again():
    stops = Stops()
    stops.wait("a")
    assert stops.stop("a")
    with stops.serving("a") as left, pytest.raises(Stopped):
        left()
    assert not stops.stop("a")
    stops.wait("a")
    stops.stop("a")
    stops.wait("a")
    with stops.serving("a") as again:
        again()


def test_a_stopped_picture_ends_at_its_next_step_and_the_model_serves_the_next(model, references):
    playground, stops, steps = Playground(model), Stops(), []
    settings = replace(model.defaults, steps=20, prompts=(PromptSettings(references[0]),))

    with stops.serving("a") as check:

        def tell(share, what):
            check()
            steps.append(what)
            if what == "patched, step 3":
                stops.stop("a")

        with pytest.raises(Stopped):
            list(playground.run(settings, tell))
    assert steps[-1] == "patched, step 3"
    (_, result) = playground.run(settings)
    assert result.patched is not None
