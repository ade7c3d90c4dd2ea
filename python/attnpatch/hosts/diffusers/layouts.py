# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""How pipelines lay out the rows of their batches; the first line of each says it to readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from attnpatch.engine import COND, UNCOND, Crop
from attnpatch.hosts.diffusers.row_texts import has_own_text, rows_by_text
from attnpatch.hosts.diffusers.running import Running
from attnpatch.hosts.host_call import HostCall, Rows

Layout = Callable[[Running, HostCall], Rows | None]
"""What tells the rows of a call that a running pipeline makes; None: they can not be told."""


def standard(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond], or cond alone without classifier-free guidance."""
    return _chunks(running, call, (UNCOND, COND), (COND,))


def perturbed(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond, perturbed cond], without those that are not asked for."""
    more = (COND,) if running.setting("do_perturbed_attention_guidance") is True else ()
    return _chunks(running, call, (UNCOND, COND, *more), (COND, *more))


def instructed(running: Running, call: HostCall) -> Rows | None:
    """[cond, uncond with the picture, uncond without it], or cond alone."""
    return _chunks(running, call, (COND, UNCOND, UNCOND), (COND,))


def panorama(running: Running, call: HostCall) -> Rows | None:
    """View by view [uncond, cond], or cond alone; the views are parts of one picture."""
    guided, views, latents = guidance_of(running), running.local("batch_view"), _latents(running)
    if guided is None or views is None or latents is None or len(latents) != 1:
        return None  # with several prompts the pipeline itself mixes up their text
    roles = (UNCOND, COND) if guided else (COND,)
    if call.batch != len(views) * len(roles) or not has_own_text(running, call):
        return None
    canvas = int(latents.shape[2]), int(latents.shape[3])
    crops = [Crop(top, left, canvas) for top, _, left, _ in views]
    return Rows(
        roles=roles * len(views),
        slots=tuple(slot for slot in range(len(views)) for _ in roles),
        samples=(0,) * call.batch,
        crops=tuple(crop for crop in crops for _ in roles),
    )


def guided_by_itself(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond], or cond alone; then a degraded pass, uncond where there is uncond."""
    if call.sample is not running.local("degraded_latents"):
        rows = standard(running, call)
        reads = running.local("do_self_attention_guidance") is True
        return replace(rows, read=True) if rows and reads else rows
    guided = guidance_of(running)
    if guided is None or call.batch != running.latent_rows:
        return None
    return Rows.of_chunks((UNCOND if guided else COND,), call.batch, aside=True)


def excited(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond], or cond alone; before that cond alone, one latent a call, to move it."""
    moved = running.local("updated_latents")
    text = running.local("text_embedding")
    if text is None or call.encoder_hidden_states is not text or call.batch != 1:
        return standard(running, call)
    every = running.outer_local("latents")
    return Rows((COND,), (0,), samples=(len(moved),), latents=len(every), aside=True)


def by_count(running: Running, call: HostCall) -> Rows | None:
    """[uncond, cond] where there are twice as many rows as latents, else cond alone."""
    latents = running.latent_rows
    chunks = {latents: (COND,), 2 * latents: (UNCOND, COND)} if latents else {}
    roles = chunks.get(call.batch)
    if roles is None or not has_own_text(running, call):
        return None
    return Rows.of_chunks(roles, call.batch)


def cond_alone(running: Running, call: HostCall) -> Rows | None:
    """Cond alone, a row for each prediction of a picture: there is no text."""
    first, each = running.local("i"), running.local("ensemble_size")
    if not isinstance(first, int) or not isinstance(each, int):
        return None
    rows = tuple(range(call.batch))
    samples = tuple((first + row) // each for row in rows)
    return Rows((COND,) * call.batch, rows, samples=samples)


def modular(running: Running, call: HostCall) -> Rows | None:
    """Each prediction in a call of its own, as the guider asks for it; without one all is cond."""
    state, text = running.local("block_state"), call.encoder_hidden_states
    cond, uncond = (getattr(state, f"{sign}prompt_embeds", None) for sign in ("", "negative_"))
    name = running.guider_identifier
    if name is None:
        unguided = getattr(running.pipeline, "guider", None) is None and _are_alike(text, cond)
        return Rows.of_chunks((COND,), call.batch) if unguided else None
    role = UNCOND if name.startswith("pred_uncond") else COND
    # Some guiders give the negative text to what they call cond.
    given = vars(running.local("guider_state_batch")).values()
    held = [any(value is own for value in given) for own in (cond, uncond)]
    if cond is not uncond and any(held):
        role = COND if held[0] else UNCOND
        if text is not None and not _are_alike(text, (cond, uncond)[role]):
            return None  # another one's call
    states = running.local("guider_state") or ()
    return Rows.of_chunks((role,), call.batch, split=len(states) != 1)


def _are_alike(text: Any, own: Any) -> bool:
    """Whether a text is one that a pipeline has, which it may have brought to another dtype."""
    if isinstance(own, Sequence) and isinstance(text, Sequence):
        return len(text) == len(own) and all(map(_are_alike, text, own))
    if text is own or not isinstance(text, Tensor) or not isinstance(own, Tensor):
        return text is own
    return text.shape == own.shape and torch.equal(text, own.to(text))


def told_by_text(running: Running, call: HostCall) -> Rows | None:
    """By the texts of the rows, where the pipeline has them under names that tell."""
    guided = guidance_of(running)
    rows = rows_by_text(running, call, guided)
    if rows is None and guided is False and call.batch == running.latent_rows:
        return Rows.of_chunks((COND,), call.batch)
    return rows


def unknown(running: Running, call: HostCall) -> Rows | None:
    """Not known."""
    return None


def guidance_of(running: Running) -> bool | None:
    """Return whether a pipeline applies classifier-free guidance; None: it does not say."""
    guided = running.setting("do_classifier_free_guidance")
    return guided if isinstance(guided, bool) else None


def _chunks(
    running: Running, call: HostCall, guided: tuple[int, ...], unguided: tuple[int, ...]
) -> Rows | None:
    """Rows in equal chunks, if there are as many latents as that makes."""
    does = guidance_of(running)
    if does is None:
        return None
    if not has_own_text(running, call):
        return rows_by_text(running, call, does)
    chunks, latents = guided if does else unguided, running.latent_rows
    if call.batch != len(chunks) * (call.batch // len(chunks) if latents is None else latents):
        return None
    return Rows.of_chunks(chunks, call.batch)


def _latents(running: Running) -> Tensor | None:
    latents = running.local("latents")
    return latents if isinstance(latents, Tensor) and latents.dim() == 4 else None
