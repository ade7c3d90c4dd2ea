# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a family tells of a call: the tokens of its sequence, its text, and the share of noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnpatch.engine import IMAGE, REFERENCE, JointLayer, JointTable, Part, Tokens

__all__ = ["Family", "Sequenced", "joint_table", "parts_of_ids"]


@dataclass(frozen=True)
class Sequenced:
    """The sequence of one call.

    Parameters
    ----------
    batch
        Rows of the batch.
    attentions
        For each attention that the layers compute, what its queries and its keys are; told apart by
        how many there are. Attention of other sizes is the host's own.
    sigma
        The share of noise in the latent, one number or one for each row, as the model is told.
    text
        The text of each row, as the pipeline hands it over: a tensor, or a list of one for each.
    """

    batch: int
    attentions: tuple[tuple[Tokens, Tokens], ...]
    sigma: Any
    text: Any

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the image's tokens."""
        return self.attentions[0][0].grid


class Family(Protocol):
    """What must be known of one family of transformers."""

    spans: tuple[str, ...]
    """The names of the spans that a call of it may have."""
    text_masks: tuple[str, ...]
    """The arguments that say which tokens of the text count; none: all do."""

    def layer_table(self, model: Any) -> JointTable:
        """Return its layers of joint attention, in forward order."""
        ...

    def sequence(self, model: Any, arguments: Mapping[str, Any]) -> Sequenced:
        """Return the sequence of a call by the arguments of the model's forward."""
        ...


def joint_table(model: Any, blocks: Mapping[str, str]) -> JointTable:
    """Return the layers of joint attention of a model.

    Parameters
    ----------
    model
        The transformer.
    blocks
        For each list of blocks, in forward order, what the field calls them, by its attribute.
    """
    layers: list[JointLayer] = []
    for attribute, block in blocks.items():
        path, _, attention = attribute.partition(".")
        for number, module in enumerate(getattr(model, path)):
            attn = getattr(module, attention)
            heads = getattr(attn, "num_heads", None) or attn.heads
            channels = getattr(attn, "hidden_size", None) or attn.inner_dim
            name = f"{path}.{number}.{attention}"
            layers.append(JointLayer(len(layers), name, block, number, int(heads), int(channels)))
    return JointTable(type(model).__name__, layers)


# Pipelines hand over one tensor of positions in all steps: a device is waited for once.
_read_ids: Any = WeakIdKeyDictionary()


def parts_of_ids(ids: Tensor, first: int = 0) -> tuple[Part, ...]:
    """Return the pictures of a sequence by the positions of its tokens.

    Parameters
    ----------
    ids
        (tokens, axes) or (batch, tokens, axes): which picture, 0 being the one that is made; row;
        column; then others. Tokens next to each other of one picture are one part.
    first
        The first token of the pictures.

    Raises
    ------
    ValueError
        Where there is no image that is made, or its tokens are no grid.
    """
    parts = _read_ids.get(ids)
    if parts is None:
        parts = _read_ids[ids] = _read(ids, first)
    return parts


def _read(ids: Tensor, first: int) -> tuple[Part, ...]:
    positions = ids.detach()
    positions = (positions[0] if positions.dim() == 3 else positions)[first:, :3].double().cpu()
    changes = (positions[1:, 0] != positions[:-1, 0]).nonzero().flatten() + 1
    borders = [0, *changes.tolist(), len(positions)]
    pieces = [positions[a:b] for a, b in pairwise(borders) if a < b]
    parts = tuple(
        (IMAGE if piece[0, 0] == 0 else REFERENCE, len(piece), _grid(piece)) for piece in pieces
    )
    images = [grid for name, _, grid in parts if name == IMAGE]
    if len(images) != 1 or images[0] is None:
        raise ValueError(
            "img_ids: expected one image of rows and columns at the first position 0, got "
            f"{len(images)} of {images}"
        )
    return parts


def _grid(positions: Tensor) -> tuple[int, int] | None:
    """Return rows and columns of tokens that run row by row; None: they do not."""
    same = positions[:, 1] == positions[0, 1]
    columns = len(same) if bool(same.all()) else int(same.logical_not().nonzero()[0])
    if len(positions) % columns:
        return None
    across = positions[:, 2].unflatten(0, (-1, columns))
    return (len(across), columns) if bool((across == across[:1]).all()) else None
