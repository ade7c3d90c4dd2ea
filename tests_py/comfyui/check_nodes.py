# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes of the public pack and ours of the same name: the same inputs give the same picture."""

from __future__ import annotations

import pytest
import reference_pack
import torch
from narrow_adapters import make_state
from narrow_models import make_clip_vision, noise
from real_host import relative, sample
from side_by_side import TOLERANCE, model_of, plain_sample, state_of

from attnpatch.nodes import NODE_CLASS_MAPPINGS

pytestmark = reference_pack.needs_pack
CLIP_VISION = make_clip_vision()
WINDOW = {"start_at": 0.0, "end_at": 1.0}
V_ONLY = {"embeds_scaling": "V only"}
WEIGHT_TYPES = NODE_CLASS_MAPPINGS["IPAdapterAdvanced"].INPUT_TYPES()["required"]["weight_type"][0]


def picture(seed, size=(64, 48), count=1):
    """Smooth random colours (count, H, W, 3) of 0 to 1."""
    coarse = noise(count, 3, 6, 5, seed=seed).sigmoid()
    whole = torch.nn.functional.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)
    return whole.movedim(1, -1)


def advanced(weight_type="linear", **more):
    return {
        "image": picture(1),
        "weight": 0.8,
        "weight_type": weight_type,
        "combine_embeds": "concat",
        "clip_vision": CLIP_VISION,
        **WINDOW,
        **V_ONLY,
        **more,
    }


def simple(weight_type):
    return {"image": picture(1), "weight": 0.9, "weight_type": weight_type, **WINDOW}


def without(values, *names):
    return {name: value for name, value in values.items() if name not in names}


MASK = noise(1, 40, 60, seed=30).sigmoid()
CASES = {
    **{f"advanced, {kind}": ("IPAdapterAdvanced", advanced(kind)) for kind in WEIGHT_TYPES},
    "advanced, all at once": (
        "IPAdapterAdvanced",
        advanced(
            "ease out",
            image=picture(1, count=2),
            image_negative=picture(2),
            attn_mask=MASK,
            combine_embeds="average",
            start_at=0.2,
            end_at=0.9,
            embeds_scaling="K+V",
        ),
    ),
    "advanced, norm average": (
        "IPAdapterAdvanced",
        advanced(image=picture(1, count=3), combine_embeds="norm average"),
    ),
    **{
        f"simple, {kind}": ("IPAdapter", simple(kind))
        for kind in ("standard", "prompt is more important", "style transfer")
    },
    "batch": (
        "IPAdapterBatch",
        without(advanced(image=picture(1, count=2), encode_batch_size=1), "combine_embeds"),
    ),
    "style and composition": (
        "IPAdapterStyleComposition",
        without(advanced(), "image", "weight", "weight_type")
        | {
            "image_style": picture(1),
            "image_composition": picture(3),
            "weight_style": 0.7,
            "weight_composition": 0.4,
            "expand_style": False,
        },
    ),
    "strong style and composition": (
        "IPAdapterStyleComposition",
        without(advanced(), "image", "weight", "weight_type")
        | {
            "image_style": picture(1),
            "image_composition": picture(3),
            "weight_style": 0.7,
            "weight_composition": 0.4,
            "expand_style": True,
        },
    ),
    "precise style": (
        "IPAdapterPreciseStyleTransfer",
        without(advanced(style_boost=1.5), "weight_type"),
    ),
    "precise composition": (
        "IPAdapterPreciseComposition",
        without(advanced(composition_boost=0.5), "weight_type"),
    ),
    "mad scientist": (
        "IPAdapterMS",
        advanced(weight_faceidv2=1.0, layer_weights="0:0.5, 3:1.0, 7:-0.4"),
    ),
    "mad scientist, precise": (
        "IPAdapterMS",
        advanced("composition precise", weight_faceidv2=1.0, layer_weights="0:0.5, 3:1.0, 4:0.2"),
    ),
    "tiled": ("IPAdapterTiled", advanced(image=picture(1, size=(96, 150)), sharpening=0.1)),
    "tiled, with a mask": (
        "IPAdapterTiled",
        advanced(image=picture(1, size=(150, 96)), sharpening=0.0, attn_mask=MASK),
    ),
}
SDXL_ONLY = ("style and composition", "strong style and composition")


def run(mappings, name, **values):
    """Run a node as the host does."""
    node = mappings[name]()
    with torch.no_grad():
        result = getattr(node, node.FUNCTION)(**values)
    return result["result"] if isinstance(result, dict) else result


def theirs(name, **values):
    return run(reference_pack.load().NODE_CLASS_MAPPINGS, name, **values)


def ours(name, **values):
    declared = NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
    quirks = {"reference_quirks": True} if "reference_quirks" in declared["optional"] else {}
    return run(NODE_CLASS_MAPPINGS, name, **values, **quirks)


def pipeline(family, state=None):
    """What a unified loader gives, in the form that both packs read."""
    return {
        "ipadapter": {"file": None, "model": state or state_of(family)},
        "clipvision": {"file": None, "model": CLIP_VISION},
        "insightface": {"provider": None, "model": None},
    }


@pytest.fixture(params=["sd1", "sdxl"])
def family(request):
    return request.param


def compare(family, mine, reference, **options):
    expected = sample(reference, **options)
    assert relative(expected, plain_sample(family, **options)) > 1e-3, "it has no effect"
    difference = relative(sample(mine, **options), expected)
    print(f"largest difference {difference:.1e}")
    assert difference < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_apply(family, case):
    name, values = CASES[case]
    if case in SDXL_ONLY and family != "sdxl":
        pytest.skip("their node is for SDXL")
    values = values | {"model": model_of(family), "ipadapter": pipeline(family)}
    batch = {"batch": 2, "steps": 3} if case == "batch" else {"steps": 3}
    compare(family, ours(name, **values)[0], theirs(name, **values)[0], **batch)


@pytest.mark.parametrize(
    "name, more",
    [
        ("IPAdapterAdvanced", {}),
        # For base adapters their node pools the embedding as if it were a square picture.
        ("IPAdapterClipVisionEnhancer", {"enhance_tiles": 2, "enhance_ratio": 0.6}),
    ],
    ids=["advanced", "enhanced"],
)
def test_plus_adapters(family, name, more):
    """They take hidden states, and those of a black picture as the negative."""
    state = make_state(family, kind="plus")
    values = advanced("ease in", **more)
    values |= {"model": model_of(family), "ipadapter": pipeline(family, state)}
    compare(family, ours(name, **values)[0], theirs(name, **values)[0])


@pytest.mark.parametrize("method", ["concat", "add", "subtract", "average", "max", "min"])
def test_embeds(family, method):
    def made(node):
        parts = [
            node(
                "IPAdapterEncoder",
                ipadapter=pipeline(family),
                image=picture(seed),
                weight=weight,
                clip_vision=CLIP_VISION,
            )
            for seed, weight in ((1, 1.0), (2, 0.6))
        ]
        pos, neg = (
            node("IPAdapterCombineEmbeds", embed1=a, embed2=b, method=method)[0]
            for a, b in zip(*parts, strict=True)
        )
        return node(
            "IPAdapterEmbeds",
            model=model_of(family),
            ipadapter=pipeline(family),
            pos_embed=pos,
            neg_embed=neg,
            weight=0.8,
            weight_type="linear",
            clip_vision=CLIP_VISION,
            **WINDOW,
            **V_ONLY,
        )[0]

    compare(family, made(ours), made(theirs))


def test_regions(family):
    left = torch.zeros(1, 32, 48)
    left[..., :24] = 1

    def made(node):
        params = [
            node(
                "IPAdapterRegionalConditioning",
                image=picture(seed),
                image_weight=weight,
                prompt_weight=1.0,
                weight_type="linear",
                mask=mask,
                **WINDOW,
            )[0]
            for seed, weight, mask in ((1, 0.7, left), (2, 0.9, 1 - left))
        ]
        both = node("IPAdapterCombineParams", params_1=params[0], params_2=params[1])[0]
        return node(
            "IPAdapterFromParams",
            model=model_of(family),
            ipadapter=pipeline(family),
            ipadapter_params=both,
            combine_embeds="concat",
            clip_vision=CLIP_VISION,
            **V_ONLY,
        )[0]

    compare(family, made(ours), made(theirs))


def test_the_same_inputs_by_name_range_and_place():
    """Workflows saved with the public pack store widgets by place, links by name."""
    known = reference_pack.load().NODE_CLASS_MAPPINGS
    missing = {name for name in known if name not in NODE_CLASS_MAPPINGS}
    assert not missing
    for name in known.keys() & NODE_CLASS_MAPPINGS.keys():
        old, new = known[name], NODE_CLASS_MAPPINGS[name]
        assert new.RETURN_TYPES[: len(old.RETURN_TYPES)] == old.RETURN_TYPES, name
        for group in ("required", "optional"):
            before, after = (node.INPUT_TYPES().get(group, {}) for node in (old, new))
            assert [key for key in after if key in before] == list(before), name
            for key, (kind, *options) in before.items():
                assert isinstance(after[key][0], list) or after[key][0] == kind, (name, key)
                for field in ("default", "min", "max", "step"):
                    if options and field in options[0]:
                        assert after[key][1][field] == options[0][field], (name, key, field)
