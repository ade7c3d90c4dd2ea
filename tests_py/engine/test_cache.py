# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import threading
import time

import torch

from attnpatch.engine.cache import Cache
from attnpatch.patches.image_prompt.keys_values import move


def test_keeps_the_latest():
    cache = Cache(size=2)
    made = []

    def get(key):
        return cache.get(key, lambda: made.append(key) or key)

    assert [get(key) for key in "aabbca"] == list("aabbca")
    assert made == ["a", "b", "c", "a"]


def test_none_is_a_value():
    cache = Cache(size=1)
    assert cache.get("a", lambda: None) is None
    assert cache.get("a", lambda: 1) is None


def test_threads_make_a_value_once():
    cache, made = Cache(size=4), []

    def make():
        time.sleep(0.02)
        made.append(1)
        return len(made)

    found = []
    threads = [
        threading.Thread(target=lambda: found.append(cache.get("a", make))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8


def test_an_error_leaves_nothing_behind():
    cache = Cache(size=1)
    for _ in range(2):
        try:
            cache.get("a", lambda: 1 / 0)
        except ZeroDivisionError:
            continue
        raise AssertionError("the error was swallowed")
    assert cache.get("a", lambda: 3) == 3


def test_move_packs_tensors_of_any_size():
    """Another device gets one buffer; each tensor in it has its own shape and values back."""
    generator = torch.Generator().manual_seed(0)
    layers = tuple(
        (torch.randn(2, 3, c, generator=generator), torch.randn(2, 3, c, generator=generator))
        for c in (5, 64, 7)
    )
    moved = move(layers, torch.float16, torch.device("meta"))
    assert [(k.shape, v.shape) for k, v in moved] == [(k.shape, v.shape) for k, v in layers]
    assert {t.dtype for pair in moved for t in pair} == {torch.float16}
    assert all(t.storage_offset() % 64 == 0 for pair in moved for t in pair)
    assert len({t.untyped_storage()._cdata for pair in moved for t in pair}) == 1
    here = move(layers, torch.float32, torch.device("cpu"))
    assert all(a is b for x, y in zip(here, layers, strict=True) for a, b in zip(x, y, strict=True))
