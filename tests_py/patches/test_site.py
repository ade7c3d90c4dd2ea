# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import pytest

from attnpatch.patches import Call, Site, layer_table


def test_call_is_a_value_that_prints_as_made():
    call = Call(latent=[64, 48], batch=4, chunks=[1, 0], progress=1, samples=[0, 0])
    assert call == Call(latent=(64, 48), batch=4, chunks=(1, 0), progress=1.0, samples=(0, 0))
    assert eval(repr(call), {"Call": Call}) == call
    again = pickle.loads(pickle.dumps(call))
    assert again == call and hash(again) == hash(call) and copy.deepcopy(call) == call
    assert call != Call(latent=(64, 48), batch=4, chunks=(1, 0), progress=1.0)
    assert call.chunk_size == 2
    with pytest.raises(AttributeError):
        call.batch = 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent": (0, 4)}, "latent"),
        ({"latent": (4, 4), "batch": 3, "chunks": (0, 1)}, "3 rows for 2 chunks"),
        ({"latent": (4, 4), "batch": 0}, "batch"),
        ({"latent": (4, 4), "chunks": ()}, "batch"),
        ({"latent": (4, 4), "batch": 2, "samples": (0,)}, "samples"),
    ],
)
def test_call_names_what_does_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        Call(**values)


def test_site_has_the_grid_of_its_level():
    table = layer_table("sdxl")
    call = Call(latent=(97, 65))
    assert Site(table[0], call).grid == (49, 33)
    assert Site(table[-1], call).grid == (25, 17)
    assert Site(table[0], call, grid=(7, 8)).grid == (7, 8)
    assert Site(table[0], call) == Site(table[0], call) != Site(table[1], call)
