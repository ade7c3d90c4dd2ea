# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Narrow random transformers of every family, calls of them, and what their tokens are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers
import torch

GRID = (5, 3)  # rows and columns of the image's tokens
REFERENCES = ((4, 2), (3, 6))
TEXT = 7


@dataclass(frozen=True)
class Case:
    """One family.

    Parameters
    ----------
    make
        Makes a model.
    arguments
        Makes the arguments of a call: rows of the batch, and the grids of references.
    order
        The parts of the sequence: "text", "image", "reference 0", "padding".
    references
        Whether it takes references.
    """

    make: Callable[[], Any]
    arguments: Callable[..., dict[str, Any]]
    order: Callable[..., list[tuple[str, int]]]
    references: bool = True
    shared_sigma: float = field(default=0.25)


def _seeded(function: Callable[[], Any]) -> Callable[[], Any]:
    @functools.wraps(function)
    def made() -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = function().eval().requires_grad_(False)
            for parameter in model.parameters():  # some are initialised to zero
                if not parameter.any() or parameter.dim() > 1:
                    parameter.normal_(0, parameter.shape[-1] ** -0.5)
        return model

    return made


def _rand(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def _ids(which: int, grid: tuple[int, int], axes: int) -> torch.Tensor:
    rows, columns = grid
    ids = torch.zeros(rows, columns, axes)
    ids[..., 0] = which
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)
    return ids.flatten(0, 1)


def _count(grids: tuple[tuple[int, int], ...]) -> int:
    return sum(rows * columns for rows, columns in grids)


def _picture_ids(references: tuple[tuple[int, int], ...], axes: int) -> torch.Tensor:
    return torch.cat([_ids(place, grid, axes) for place, grid in enumerate((GRID, *references))])


@_seeded
def flux() -> Any:
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def flux_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    return {
        "hidden_states": _rand(batch, _count((GRID, *references)), 8),
        "encoder_hidden_states": _rand(batch, TEXT, 12),
        "pooled_projections": _rand(batch, 10),
        "timestep": torch.full((batch,), 0.75),
        "img_ids": _picture_ids(references, 3),
        "txt_ids": torch.zeros(TEXT, 3),
        "guidance": torch.full((batch,), 3.5),
    }


@_seeded
def chroma() -> Any:
    return diffusers.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
        approximator_num_channels=8,
        approximator_hidden_dim=16,
        approximator_layers=1,
    )


def chroma_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    arguments = flux_arguments(batch, references)
    for name in ("pooled_projections", "guidance"):
        del arguments[name]
    mask = torch.ones(batch, TEXT + _count((GRID, *references)), dtype=torch.bool)
    mask[-1, TEXT - 2 : TEXT] = False
    return {**arguments, "attention_mask": mask}


@_seeded
def flux2() -> Any:
    return diffusers.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        timestep_guidance_channels=8,
        axes_dims_rope=(4, 4, 4, 4),
    )


def flux2_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    ids = _picture_ids(references, 4)
    ids[:, 0] *= 10
    text_ids = torch.zeros(TEXT, 4)
    text_ids[:, 3] = torch.arange(TEXT)
    return {
        "hidden_states": _rand(batch, _count((GRID, *references)), 8),
        "encoder_hidden_states": _rand(batch, TEXT, 12),
        "timestep": torch.full((batch,), 0.75),
        "img_ids": ids[None].expand(batch, -1, -1).contiguous(),
        "txt_ids": text_ids[None].expand(batch, -1, -1).contiguous(),
        "guidance": torch.full((batch,), 3.5),
    }


@_seeded
def krea2() -> Any:
    return diffusers.Krea2Transformer2DModel(
        in_channels=8,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=32,
        timestep_embed_dim=16,
        text_hidden_dim=12,
        num_text_layers=2,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )


def krea2_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[-1, TEXT - 2 :] = False
    return {
        "hidden_states": _rand(batch, _count((GRID, *references)), 8),
        "encoder_hidden_states": _rand(batch, TEXT, 2, 12),
        "timestep": torch.full((batch,), 0.75),
        "position_ids": torch.cat([torch.zeros(TEXT, 3), _picture_ids(references, 3)]),
        "encoder_attention_mask": mask,
    }


@_seeded
def qwen_image() -> Any:
    return diffusers.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=8,
        out_channels=2,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        axes_dims_rope=(4, 6, 6),
    )


def qwen_image_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    mask = torch.ones(batch, TEXT, dtype=torch.bool)
    mask[-1, TEXT - 2 :] = False
    return {
        "hidden_states": _rand(batch, _count((GRID, *references)), 8),
        "encoder_hidden_states": _rand(batch, TEXT, 12),
        "encoder_hidden_states_mask": mask,
        "timestep": torch.full((batch,), 0.75),
        "img_shapes": [[(1, *grid) for grid in (GRID, *references)]] * batch,
    }


@_seeded
def sd3() -> Any:
    return diffusers.SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=32,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=24,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )


def sd3_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    return {
        "hidden_states": _rand(batch, 4, 2 * GRID[0], 2 * GRID[1]),
        "encoder_hidden_states": _rand(batch, TEXT, 12),
        "pooled_projections": _rand(batch, 10),
        "timestep": torch.full((batch,), 750.0),
    }


@_seeded
def z_image() -> Any:
    return diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=12,
        axes_dims=[4, 6, 6],
        axes_lens=[128, 64, 64],
    )


def z_image_arguments(batch: int = 1, references: Any = ()) -> dict[str, Any]:
    texts = [_rand(TEXT, 12, seed=row) for row in range(batch)]
    if batch > 1:
        texts[-1] = texts[-1][: TEXT - 2]
    return {
        "x": [_rand(4, 1, 2 * GRID[0], 2 * GRID[1], seed=row) for row in range(batch)],
        "t": torch.full((batch,), 0.25),
        "cap_feats": texts,
    }


def _text_first(references: Any = ()) -> list[tuple[str, int]]:
    counts = [rows * columns for rows, columns in references]
    pictures = [("image", GRID[0] * GRID[1])]
    pictures += [(f"reference {place}", count) for place, count in enumerate(counts)]
    return [("text", TEXT), *pictures]


def _image_first(references: Any = ()) -> list[tuple[str, int]]:
    return [("image", GRID[0] * GRID[1]), ("text", TEXT)]


def _padded(references: Any = ()) -> list[tuple[str, int]]:
    image = GRID[0] * GRID[1]
    return [("image", image), ("padding", 32 - image), ("text", TEXT), ("padding", 32 - TEXT)]


CASES = {
    "ChromaTransformer2DModel": Case(chroma, chroma_arguments, _text_first),
    "Flux2Transformer2DModel": Case(flux2, flux2_arguments, _text_first),
    "FluxTransformer2DModel": Case(flux, flux_arguments, _text_first),
    "Krea2Transformer2DModel": Case(krea2, krea2_arguments, _text_first),
    "QwenImageTransformer2DModel": Case(qwen_image, qwen_image_arguments, _text_first),
    "SD3Transformer2DModel": Case(sd3, sd3_arguments, _image_first, references=False),
    "ZImageTransformer2DModel": Case(z_image, z_image_arguments, _padded, references=False),
}
