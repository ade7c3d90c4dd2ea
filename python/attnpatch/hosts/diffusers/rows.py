# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which rows of a batch are cond and which uncond, told by the pipeline that is running."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnpatch.hosts.diffusers.running import Running
from attnpatch.hosts.host_call import HostCall, Rows
from attnpatch.patches import COND, UNCOND, Crop

__all__ = ["LAYOUTS", "layout_of", "rows_of"]

Layout = Callable[[Running, HostCall], Rows | None]


def rows_of(running: Running | None, call: HostCall) -> Rows | None:
    """Return what the rows of a call are.

    Parameters
    ----------
    running
        The pipeline that is running; None: none is.
    call
        The call of the UNet.

    Returns
    -------
    Rows or None
        None: nobody tells.
    """
    if running is None:
        return None
    return layout_of(type(running.pipeline))(running, call)


def layout_of(kind: type) -> Layout:
    """Return the layout of the rows that pipelines of a class hand to their UNets.

    A class that brings its own ``__call__`` is of its own; a class of diffusers that is not known
    tells nothing.
    """
    for base in kind.__mro__:
        found = LAYOUTS.get(base.__name__)
        if found is not None and base.__module__.startswith("diffusers."):
            return found if base.__call__ is kind.__call__ else own_layout  # type: ignore
    if kind.__module__.startswith("diffusers."):
        return modular if _is_modular(kind) else unknown
    return modular if _is_modular(kind) else own_layout


def _is_modular(kind: type) -> bool:
    return any(base.__name__ == "ModularPipeline" for base in kind.__mro__)


def _chunks(running: Running, call: HostCall, chunks: tuple[int, ...]) -> Rows | None:
    """Rows in equal chunks, if there are as many latents as that makes."""
    latents = running.latent_rows
    fits = call.batch % len(chunks) == 0 if latents is None else call.batch == latents * len(chunks)
    return Rows.of_chunks(chunks, call.batch) if fits else None


def _guided(running: Running) -> bool | None:
    guided = running.setting("do_classifier_free_guidance")
    return guided if isinstance(guided, bool) else None


def standard(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond], or cond alone without classifier-free guidance."""
    guided = _guided(running)
    if guided is None:
        return None
    return _chunks(running, call, (UNCOND, COND) if guided else (COND,))


def perturbed(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond, perturbed cond], without those that are not asked for."""
    guided = _guided(running)
    if guided is None:
        return None
    chunks: tuple[int, ...] = (UNCOND, COND) if guided else (COND,)
    if running.setting("do_perturbed_attention_guidance") is True:
        chunks = (*chunks, COND)
    return _chunks(running, call, chunks)


def instructed(running: Running, call: HostCall) -> Rows | None:
    """[cond, uncond with the picture, uncond without it], or cond alone."""
    guided = _guided(running)
    if guided is None:
        return None
    return _chunks(running, call, (COND, UNCOND, UNCOND) if guided else (COND,))


def panorama(running: Running, call: HostCall) -> Rows | None:
    """View by view [uncond, cond], or cond alone; views of one panorama."""
    guided, views, latents = _guided(running), running.local("batch_view"), running.local("latents")
    if guided is None or views is None or latents is None or len(latents) != 1:
        return None  # with several prompts the pipeline itself mixes up their text
    kinds = (UNCOND, COND) if guided else (COND,)
    if call.batch != len(views) * len(kinds):
        return None
    canvas = int(latents.shape[2]), int(latents.shape[3])
    crops = [Crop(top, left, canvas) for top, _, left, _ in views]
    return Rows(
        kinds=kinds * len(views),
        slots=tuple(slot for slot in range(len(views)) for _ in kinds),
        samples=(0,) * call.batch,
        crops=tuple(crop for crop in crops for _ in kinds),
    )


def guided_by_itself(running: Running, call: HostCall) -> Rows | None:
    """As `standard`; its own degraded pass of self-attention guidance is uncond where that is."""
    guided, latents = _guided(running), running.latent_rows
    if guided is None:
        return None
    if guided and call.batch == latents:
        return Rows.of_chunks((UNCOND,), call.batch, aside=True)
    return _chunks(running, call, (UNCOND, COND) if guided else (COND,))


def excited(running: Running, call: HostCall) -> Rows | None:
    """As `standard`; the calls that move the latent first are cond alone, one latent each."""
    rows = standard(running, call)
    if rows is None and call.batch == 1:
        return Rows.of_chunks((COND,), 1, aside=True)
    return rows


def by_count(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond] where there are twice as many rows as latents, else cond alone."""
    latents = running.latent_rows
    chunks = {latents: (COND,), 2 * latents: (UNCOND, COND)} if latents else {}
    found = chunks.get(call.batch)
    return None if found is None else Rows.of_chunks(found, call.batch)


def cond_alone(running: Running, call: HostCall) -> Rows | None:
    """Cond alone: there is no classifier-free guidance."""
    return Rows.of_chunks((COND,), call.batch)


def modular(running: Running, call: HostCall) -> Rows | None:
    """Each prediction in a call of its own, as the guider asks for it."""
    name = running.guider_identifier
    if name is None:
        return None
    kind = UNCOND if name.startswith("pred_uncond") else COND
    states = running.local("guider_state") or ()
    return Rows.of_chunks((kind,), call.batch, split=len(states) != 1)


def own_layout(running: Running, call: HostCall) -> Rows | None:
    """As `standard`, for pipelines of others, unless their text says otherwise."""
    rows = standard(running, call)
    if rows is None or UNCOND not in rows.kinds:
        return rows
    negative = running.local("negative_prompt_embeds")
    if _first_half_differs(call.encoder_hidden_states, negative):
        return None
    return rows


def unknown(running: Running, call: HostCall) -> Rows | None:
    """Not known."""
    return None


def _first_half_differs(text: Any, negative: Any) -> bool:
    """Whether a batch of text does not begin with the negative text, though it has its shape."""
    if not isinstance(text, Tensor) or not isinstance(negative, Tensor):
        return False
    found = _checked.get(text)
    if found is None:
        found = _checked[text] = _differs(text, negative)
    return found


# Pipelines hand over one tensor of text in all steps: a device is waited for once.
_checked: Any = WeakIdKeyDictionary()


def _differs(text: Tensor, negative: Tensor) -> bool:
    half = text[: len(text) // 2]
    if half.shape[1:] != negative.shape[1:] or len(half) % len(negative):
        return False
    negative = negative.to(half).repeat_interleave(len(half) // len(negative), dim=0)
    return not torch.equal(half, negative)


def _named(layout: Layout, names: str) -> dict[str, Layout]:
    return dict.fromkeys(names.split(), layout)


LAYOUTS: dict[str, Layout] = {
    **_named(
        standard,
        """
        StableDiffusionPipeline StableDiffusionImg2ImgPipeline StableDiffusionInpaintPipeline
        StableDiffusionDepth2ImgPipeline StableDiffusionUpscalePipeline
        StableDiffusionLatentUpscalePipeline StableDiffusionImageVariationPipeline
        StableUnCLIPPipeline StableUnCLIPImg2ImgPipeline
        StableDiffusionXLPipeline StableDiffusionXLImg2ImgPipeline StableDiffusionXLInpaintPipeline
        StableDiffusionControlNetPipeline StableDiffusionControlNetImg2ImgPipeline
        StableDiffusionControlNetInpaintPipeline StableDiffusionXLControlNetPipeline
        StableDiffusionXLControlNetImg2ImgPipeline StableDiffusionXLControlNetInpaintPipeline
        StableDiffusionXLControlNetUnionPipeline StableDiffusionXLControlNetUnionImg2ImgPipeline
        StableDiffusionXLControlNetUnionInpaintPipeline
        StableDiffusionControlNetXSPipeline StableDiffusionXLControlNetXSPipeline
        StableDiffusionAdapterPipeline StableDiffusionXLAdapterPipeline
        KolorsPipeline KolorsImg2ImgPipeline
        LatentConsistencyModelPipeline LatentConsistencyModelImg2ImgPipeline
        AnimateDiffPipeline AnimateDiffControlNetPipeline AnimateDiffSDXLPipeline
        AnimateDiffSparseControlNetPipeline AnimateDiffVideoToVideoPipeline
        AnimateDiffVideoToVideoControlNetPipeline PIAPipeline
        TextToVideoSDPipeline VideoToVideoSDPipeline I2VGenXLPipeline StableVideoDiffusionPipeline
        AltDiffusionPipeline AltDiffusionImg2ImgPipeline StableDiffusionLDM3DPipeline
        StableDiffusionGLIGENPipeline StableDiffusionGLIGENTextImagePipeline
        StableDiffusionInpaintPipelineLegacy StableDiffusionModelEditingPipeline
        PaintByExamplePipeline
        """,
    ),
    **_named(
        perturbed,
        """
        StableDiffusionPAGPipeline StableDiffusionPAGImg2ImgPipeline
        StableDiffusionPAGInpaintPipeline StableDiffusionControlNetPAGPipeline
        StableDiffusionControlNetPAGInpaintPipeline StableDiffusionXLPAGPipeline
        StableDiffusionXLPAGImg2ImgPipeline
        StableDiffusionXLPAGInpaintPipeline StableDiffusionXLControlNetPAGPipeline
        StableDiffusionXLControlNetPAGImg2ImgPipeline KolorsPAGPipeline AnimateDiffPAGPipeline
        """,
    ),
    **_named(
        instructed,
        "StableDiffusionInstructPix2PixPipeline StableDiffusionXLInstructPix2PixPipeline",
    ),
    "StableDiffusionPanoramaPipeline": panorama,
    "StableDiffusionSAGPipeline": guided_by_itself,
    "StableDiffusionAttendAndExcitePipeline": excited,
    "LDMTextToImagePipeline": by_count,
    **_named(
        cond_alone, "MarigoldDepthPipeline MarigoldIntrinsicsPipeline MarigoldNormalsPipeline"
    ),
}
"""For each pipeline of diffusers how its rows are laid out; others are refused."""
