# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Usual workflows, as ours and as the public packs' and core's nodes patch ComfyUI's UNets."""

from __future__ import annotations

import copy
import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from wide_models import CONTEXT, WIDTH, apply_node, comfyui_model, load_slothful

import attnpatch as ap

EMBED = 1024  # a square: IPAdapter_plus pools tiles of embeddings as if they were pictures
PERCENT = 0.5
SCALE = 5.0

Patching = Callable[["Bench", Any], Any]


@dataclass(frozen=True)
class Workflow:
    """One of them: how each side patches a ModelPatcher."""

    ours: Patching
    theirs: Patching
    same: bool = True
    """Whether both should give the same picture."""
    pixels: tuple[int, ...] = (1024,)
    """Its sizes, where none are asked for."""
    families: tuple[str, ...] = ("sd1", "sdxl")
    """Where theirs go together."""


class Bench:
    """A UNet, adapters for it, and how a step is made."""

    def __init__(self, family: str, width: int) -> None:
        self.family = family
        self.width = width
        self.patcher = comfyui_model(family, width=width)

    def _state(self, seed: int, projection: Callable[[Any], dict[str, Tensor]]) -> dict[str, Any]:
        from fake_adapters import FAMILIES, Maker

        maker, context = Maker(seed=seed), CONTEXT[self.family]
        channels = [size * self.width // WIDTH for size in FAMILIES[context][1]]
        return {"image_proj": projection(maker), "ip_adapter": maker.sites(channels, context)}

    @cached_property
    def picture_state(self) -> dict[str, Any]:
        """A base adapter: four tokens."""
        context = CONTEXT[self.family]
        return self._state(1, lambda maker: maker.image_projection(EMBED, context))

    @cached_property
    def face_state(self) -> dict[str, Any]:
        """InstantID's resampler for SDXL, a "plus" adapter for SD1.5: sixteen tokens."""
        context = CONTEXT[self.family]
        if self.family == "sdxl":
            return self._state(2, lambda m: m.resampler(512, output=context, dim=1280, heads=20))
        return self._state(2, lambda m: m.resampler(EMBED, output=context, dim=768, heads=12))

    @cached_property
    def features(self) -> list[tuple[Tensor, Tensor]]:
        """What an image encoder gives of two pictures, and of the negative one."""
        return [(noise(1, EMBED, seed=20 + i), torch.zeros(1, EMBED)) for i in range(2)]

    @cached_property
    def masks(self) -> list[Tensor]:
        """Two halves of a picture, with a soft border."""
        left = torch.linspace(6, -6, 512).sigmoid().expand(1, 512, 512).contiguous()
        return [left, 1 - left]

    def step(self, side: int) -> Callable[[Any], Tensor]:
        """Return what makes a step of a ModelPatcher, of a picture of side x side latents."""
        import comfy.sampler_helpers
        import comfy.samplers
        from narrow_models import prompt

        shape = 1, 4, side, side
        sampling = self.patcher.model.model_sampling
        sigma = torch.tensor([sampling.percent_to_sigma(PERCENT)])
        sigmas = torch.stack([sigma[0], sigma[0] * 0.9])
        x = noise(*shape, seed=5) * sigma

        def step(patcher: Any) -> Tensor:
            # A model of its own, whose weights all share: no lane sees who samples in another.
            model = copy.copy(self.patcher.model)
            patcher = patcher.clone()
            patcher.model = model
            model.current_patcher = patcher
            conds = {
                kind: comfy.sampler_helpers.convert_cond([prompt(patcher, seed)])
                for kind, seed in (("positive", 6), ("negative", 8))
            }
            conds = comfy.samplers.process_conds(model, x, conds, x.device, torch.zeros(shape))
            options = patcher.model_options | {
                "transformer_options": patcher.model_options["transformer_options"]
                | {"sample_sigmas": sigmas}
            }
            return comfy.samplers.sampling_function(
                model, x, sigma, conds["negative"], conds["positive"], SCALE, options, seed=3
            )

        return step


def noise(*shape: int, seed: int) -> Tensor:
    """Make normal random numbers of a generator of their own."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def our_prompt(bench: Bench, picture: int, **options: Any) -> ap.ImagePrompt:
    """Make an image prompt of one of the two pictures."""
    adapter = ap.load_image_adapter(bench.picture_state)
    return ap.ImagePrompt(adapter, adapter.get_image_embeds(*bench.features[picture]), **options)


def their_prompt(bench: Bench, model: Any, picture: int, **options: Any) -> Any:
    """Apply IPAdapter_plus."""
    import reference_pack

    return reference_pack.apply(model, bench.picture_state, bench.features[picture], **options)


def our_masked(bench: Bench) -> list[Any]:
    """Make prompts of two pictures, each in its half."""
    return [our_prompt(bench, i, weight=0.8, mask=bench.masks[i]) for i in range(2)]


def their_masked(bench: Bench, model: Any) -> Any:
    """Apply IPAdapter_plus twice."""
    for i in range(2):
        model = their_prompt(bench, model, i, weight=0.8, attn_mask=bench.masks[i])
    return model


def our_face(bench: Bench) -> Any:
    """Make a person's patch: InstantID in SDXL, a picture of the face in SD1.5."""
    adapter = ap.load_image_adapter(bench.face_state)
    if bench.family == "sdxl":
        return ap.Identity(adapter, noise(512, seed=30), 0.8)
    positive, negative = noise(1, 257, EMBED, seed=30), noise(1, 257, EMBED, seed=31)
    return ap.ImagePrompt(adapter, adapter.get_image_embeds(positive, negative), weight=0.8)


def their_face(bench: Bench, model: Any) -> Any:
    """Apply ComfyUI_InstantID, or IPAdapter_plus."""
    import reference_instantid
    import reference_pack

    if bench.family == "sd1":
        features = noise(1, 257, EMBED, seed=30), noise(1, 257, EMBED, seed=31)
        return reference_pack.apply(model, bench.face_state, features, weight=0.8)
    face = {"bbox": [0, 0, 9, 9], "embedding": noise(512, seed=30).numpy()}
    analysis = SimpleNamespace(det_model=SimpleNamespace(), get=lambda picture: [face])
    with reference_instantid.middle_block():
        return reference_instantid.run(
            "InstantIDAttentionPatch",
            instantid=reference_instantid.make_model(bench.face_state),
            insightface=analysis,
            image=torch.zeros(1, 64, 64, 3),
            model=model,
            weight=0.8,
            start_at=0.0,
            end_at=1.0,
        )[0]


def our_face_and_style(bench: Bench) -> list[Any]:
    """Make patches of a person and of the style of a picture."""
    return [our_face(bench), our_prompt(bench, 0, weight="style transfer")]


def their_face_and_style(bench: Bench, model: Any) -> Any:
    """Apply the packs, one after the other."""
    return their_prompt(bench, their_face(bench, model), 0, weight_type="style transfer")


def core(module: str, node: str) -> Callable[..., Any]:
    """Return what applies one of core's nodes."""

    def apply(model: Any, *values: float) -> Any:
        kind = getattr(importlib.import_module(f"comfy_extras.{module}"), node)
        return kind.execute(model, *values).result[0]

    return apply


core_sag = core("nodes_sag", "SelfAttentionGuidance")
core_pag = core("nodes_pag", "PerturbedAttentionGuidance")


def their_near_sighted(bench: Bench, model: Any) -> Any:
    """Apply comfyui_slothful_attention."""
    nodes = load_slothful(Path(os.environ["ATTNPATCH_SLOTHFUL"]))
    return apply_node(nodes["NearSightedAttention"], model, {})


def our_packs(bench: Bench) -> list[Any]:
    """Make patches of a person, a style and fewer tokens."""
    return [*our_face_and_style(bench), ap.NearSightedAttention()]


def their_packs(bench: Bench, model: Any) -> Any:
    """Apply the packs, one after the other."""
    return their_near_sighted(bench, their_face_and_style(bench, model))


def our_all(bench: Bench) -> list[Any]:
    """Make patches of a person, a style, fewer tokens and guidance."""
    return [*our_packs(bench), ap.PerturbedAttentionGuidance(3.0)]


def their_all(bench: Bench, model: Any) -> Any:
    """Apply the packs and core's node, one after the other."""
    return core_pag(their_packs(bench, model), 3.0)


def patched(make: Callable[[Bench], Any]) -> Patching:
    """Return what applies our patches."""
    return lambda bench, model: ap.patch_model(model, make(bench))


WORKFLOWS = {
    "two masked image prompts": Workflow(patched(our_masked), their_masked),
    "a face and a style": Workflow(patched(our_face_and_style), their_face_and_style),
    "image prompt, PAG": Workflow(
        patched(lambda b: [our_prompt(b, 0, weight=0.8), ap.PerturbedAttentionGuidance(3.0)]),
        lambda b, model: core_pag(their_prompt(b, model, 0, weight=0.8), 3.0),
    ),
    "SAG": Workflow(
        patched(lambda b: ap.SelfAttentionGuidance(0.5, blur_sigma=2.0)),
        lambda b, model: core_sag(model, 0.5, 2.0),
    ),
    "near-sighted": Workflow(
        patched(lambda b: ap.NearSightedAttention()),
        their_near_sighted,
        same=False,
        pixels=(1024, 1536),
    ),
    "all but guidance": Workflow(patched(our_packs), their_packs, same=False),
    # In SDXL the pack takes tokens of the middle block away, and core's PAG gives as many back.
    "all together": Workflow(patched(our_all), their_all, same=False, families=("sd1",)),
}
