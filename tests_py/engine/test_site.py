# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import copy
import pickle

import pytest

from attnpatch.engine import Call, Crop, SamplingPoint, Site, layer_table


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
        ({"latent": (4, 4), "batch": 3, "chunks": (0, 1)}, r"2 equal parts \(0, 1\), got 3 rows"),
        ({"latent": (4, 4), "batch": 0}, "batch"),
        ({"latent": (4, 4), "chunks": ()}, "batch"),
        ({"latent": (4, 4), "batch": 2, "samples": (0,)}, "samples"),
        ({"latent": (4, 4), "batch": 2, "samples": (0, -1)}, "samples: expected 0 or more, got -1"),
        ({"latent": (4, 4), "batch": 2, "slots": (0,)}, "slots: expected one for each of the 2"),
        ({"latent": (4, 4), "batch": 2, "slots": (0, 2)}, "slots: expected numbers 0, 1, 2"),
        ({"latent": (4, 4), "batch": 2, "progress": (0.1,)}, "progress: expected a number or one"),
        ({"latent": (4, 4), "batch": 2, "crops": (Crop(0, 0, (9, 9)),)}, "crops: expected one"),
    ],
)
def test_call_names_what_does_not_fit(values, message):
    with pytest.raises(ValueError, match=message):
        Call(**values)


def test_rows_of_a_call():
    call = Call(latent=(8, 8), batch=6, chunks=(1, 0, 2), progress=[0.5] * 6, sigma=range(6))
    assert call.roles == (1, 1, 0, 0, 2, 2)
    assert call.row_slots == call.row_samples == (0, 1) * 3 and call.slot_count == 2
    assert call.progress == 0.5 and call.points[3] == SamplingPoint(0.5, 3.0, None)
    assert Call(latent=(8, 8), batch=2, progress=0.5).points == (SamplingPoint(0.5),)
    tiles = Call(latent=(8, 8), batch=4, chunks=(1, 0, 1, 0), slots=(0, 0, 1, 1))
    assert tiles.row_samples == (0, 0, 1, 1) and tiles != Call(latent=(8, 8), batch=4)


def test_site_has_the_grid_of_its_level():
    table = layer_table("sdxl")
    call = Call(latent=(97, 65))
    assert Site.over_text(table[0], call).grid == (49, 33)
    assert Site.over_text(table[-1], call).grid == (25, 17)
    assert Site.over_text(table[0], call, grid=(7, 8)).grid == (7, 8)
    first, other = (Site.over_text(table[i], call) for i in (0, 1))
    assert first == Site.over_text(table[0], call) != other
