# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import torch
from protocol_transformer import make_transformer
from running import run

import attnpatch as ap

NODE = "AttentionPatchesReferenceStrength"


def test_the_node_gives_the_patch_of_its_widgets():
    model = make_transformer()
    mask, part = torch.ones(1, 4, 4), torch.ones(1, 2, 2)
    (patched,) = run(NODE, model=model, strength=1.5, reference=1, end_at=0.5, mask=mask,
                     reference_mask=part)  # fmt: skip
    expected = ap.reference_strength(1.5, 1, part=part, mask=mask, end=0.5)
    assert ap.attached(patched) == ap.PatchStack(expected)
    assert len(ap.attached(model)) == 0


def test_all_references_and_no_change():
    (patched,) = run(NODE, model=make_transformer(), strength=2.0, reference=-1)
    assert ap.attached(patched) == ap.PatchStack(ap.reference_strength(2.0, None))
    (same,) = run(NODE, model=make_transformer())
    assert len(ap.attached(same)) == 0  # a strength of 1 changes nothing
