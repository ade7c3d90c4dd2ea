# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Self-attention guidance (Hong et al. 2023, arXiv 2210.00939), without the attention map."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from attnpatch._core import LayerTable, token_grid
from attnpatch.engine.edits import Edits, Inner
from attnpatch.engine.site import UNCOND, Call, Site
from attnpatch.engine.weights import number
from attnpatch.ops import attention_column_mean, blur_and_blend
from attnpatch.patches.guidance.guidance import BoundGuidance, Guidance
from attnpatch.patches.guidance.scale import Scale

__all__ = ["SelfAttentionGuidance", "sag_blur"]

# Latents of this side or less are left alone: as the field's node does.
_SMALLEST_SIDE = 4


@dataclass(frozen=True, repr=False)
class SelfAttentionGuidance(Guidance):
    """Self-attention guidance: away from a picture that is blurred where the model looks.

    The uncond prediction is blurred where tokens get more than their share of self-attention, noise
    is put back, and the UNet runs on that with the uncond conditioning. Latents with a side of 4 or
    less are not guided. It needs the uncond prediction, even at a guidance scale of 1.

    Parameters
    ----------
    scale
        How strong; the field uses −2 to 5. A number; a tensor of one for each sample; or a
        ``Weight`` with a curve over progress, samples, or both.
    blur_sigma
        Of the Gaussian, in pixels of the latent; 0: no blur.
    threshold
        Tokens with more attention than this are blurred; 1 is the mean of all tokens.
    blocks
        Where attention is recorded, as "m0.0"; several are averaged.
    start, end
        The part of sampling in which it is active, 0 to 1.
    rescale, rescale_mode
        Against too much contrast: 0 none, 1 all; "full", "partial" or "snf". See ``rescaled``.

    Raises
    ------
    TypeError, ValueError
        For numbers that make no sense, naming them.
    """

    scale: Scale = 0.5
    blur_sigma: float = 2.0
    threshold: float = 1.0
    blocks: str = "m0.0"
    start: float = 0.0
    end: float = 1.0
    rescale: float = 0.0
    rescale_mode: str = "full"

    type_name: ClassVar[str] = "self_attention_guidance"
    degrades: ClassVar[int] = UNCOND
    records: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("blur_sigma", "threshold"):
            value = number(name, getattr(self, name))
            if value < 0:
                raise ValueError(f"{name}: expected at least 0, got {value}")
            object.__setattr__(self, name, value)

    def acts(self, latent: tuple[int, int], progress: float | None) -> bool:
        """Whether it guides a latent of this height and width at this progress."""
        return min(latent) > _SMALLEST_SIDE and super().acts(latent, progress)

    def degrade(self, x0: Tensor, saliency: Tensor | None) -> Tensor:
        """Blur the prediction where attention is; see ``Guidance.degrade``."""
        if saliency is None:
            raise ValueError("saliency: self-attention guidance needs what was recorded, got None")
        return blur_and_blend(x0, saliency.float(), self.blur_sigma, self.threshold)

    def bind(self, table: LayerTable, index: int = 0) -> BoundSelfAttentionGuidance:
        """Fit it to a UNet; see ``Patch.bind``."""
        return BoundSelfAttentionGuidance(self, table, index)


class BoundSelfAttentionGuidance(BoundGuidance):
    """Records the self-attention of ordinary rows; in its own degraded pass it does nothing."""

    def time_key(self, call: Call) -> Hashable | None:
        """Give the role of rows that is recorded, and at which points; None: nothing now."""
        if call.record is None:
            return None
        acts = tuple(self.guidance.acts(call.latent, point.progress) for point in call.points)
        return (int(call.record.role), acts, call.record.rows) if any(acts) else None

    def edits(self, call: Call, time_key: Any) -> Edits:
        """Record the ordinary rows of one role."""
        recorded, acts, wanted = time_key
        acts = acts * (call.batch // len(acts))
        degraded = call.by_row(call.degraded or (-1,) * len(call.chunks))
        rows = [
            row
            for row, (role, guidance, on) in enumerate(zip(call.roles, degraded, acts, strict=True))
            if role == recorded and guidance < 0 and on and (wanted is None or row in wanted)
        ]
        return self.at_its_layers(RecordWrapper(rows) if rows else None)


class RecordWrapper:
    """Attention as it is, and the column means of some rows to the call's record."""

    reduces = False
    needs_all_tokens = True  # the map is over all tokens
    needs_grid = True

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = list(rows)

    def prepare(self, site: Site, dtype: torch.dtype, device: torch.device) -> None:
        """Keep nothing."""

    def reduce(self, site: Site, k_input: Tensor, v_input: Tensor) -> tuple[Tensor, Tensor]:
        """Change nothing."""
        return k_input, v_input

    def attend(self, site: Site, q: Tensor, k: Tensor, v: Tensor, inner: Inner) -> Tensor:
        """See ``AttentionWrapper.attend``."""
        site.check_rows(len(q))
        if inner.is_softmax:
            out, means = attention_column_mean(q, k, v, self._rows)
        else:
            out = inner(q, k, v)
            q_rows, k_rows = q[self._rows], k[self._rows]
            means = attention_column_mean(q_rows, k_rows, k_rows)[1]
        site.call.record.add(site, self._rows, means)
        return out


def sag_blur(
    x0: Tensor,
    attention: Tensor,
    sigma: float = 2.0,
    threshold: float = 1.0,
    token_grid: tuple[int, int] | None = None,
) -> Tensor:
    """Blur a prediction where tokens get more than their share of self-attention.

    m = attention > threshold on the token grid, brought to the latent by nearest neighbours;
    the result is blurred · m + x0 · (1 − m), with a 9×9 Gaussian and reflected borders.

    Parameters
    ----------
    x0
        (B, C, H, W), any floating dtype.
    attention
        The column means (B, N), as ``ops.attention_column_mean`` gives them; or a whole map
        (B · heads, N, N) or (B, heads, N, N) of softmaxed rows.
    sigma
        Of the Gaussian, in pixels; 0: no blur.
    threshold
        Tokens with more attention than this are blurred; a uniform map gives 1 everywhere.
    token_grid
        Rows and columns of the N tokens. None: the latent's own, or that of the first halving
        (rounded up) which has N.

    Returns
    -------
    Tensor
        As x0.

    Raises
    ------
    ValueError
        Where shapes do not fit, naming them.

    Notes
    -----
    Hong et al. 2023 (arXiv 2210.00939), equations 17 to 19.
    """
    if x0.dim() != 4:
        raise ValueError(f"x0: expected (B, C, H, W), got shape {tuple(x0.shape)}")
    means = _column_means(attention, x0.shape[0])
    height, width = token_grid or _grid_of(means.shape[1], *x0.shape[2:])
    if means.shape[0] != x0.shape[0] or height * width != means.shape[1]:
        raise ValueError(
            f"attention: {means.shape[0]} rows of {means.shape[1]} tokens, but x0 has "
            f"{x0.shape[0]} rows and the token grid is {height}×{width}"
        )
    return blur_and_blend(x0, means.unflatten(1, (height, width)), sigma, threshold)


def _column_means(attention: Tensor, batch: int) -> Tensor:
    """Float32 (B, N) of column means or whole maps."""
    if attention.dim() == 2:
        return attention.float()
    if attention.dim() == 3 and attention.shape[0] % batch == 0:
        attention = attention.unflatten(0, (batch, -1))
    if attention.dim() != 4 or attention.shape[2] != attention.shape[3]:
        raise ValueError(
            "attention: expected column means (B, N) or a map (B·heads, N, N) or (B, heads, N, N), "
            f"got shape {tuple(attention.shape)} for {batch} rows"
        )
    return attention.sum(2, dtype=torch.float32).mean(1)


def _grid_of(tokens: int, height: int, width: int) -> tuple[int, int]:
    for level in range(max(height, width).bit_length() + 1):
        grid = token_grid(height, width, level)
        if grid[0] * grid[1] == tokens:
            return grid
    raise ValueError(
        f"token_grid: {tokens} tokens are no halving of a {height}×{width} latent; give the grid"
    )
