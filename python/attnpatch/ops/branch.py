# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Text attention plus image branches, each branch a value of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnpatch.ops.branch_attention import branch_attention_flat

__all__ = ["Branch", "branch_attention"]


@dataclass(frozen=True, eq=False)
class Branch:
    """Keys and values that queries attend to beside the text.

    Parameters
    ----------
    k, v : torch.Tensor
        (rows, heads, tokens, head size), in the dtype of the queries.
    weight : float, sequence of float or torch.Tensor
        One number, or (batch,). Where it is 0 nothing of the branch arrives.
    rows : sequence of int or torch.Tensor, optional
        (batch,): which row of k and v serves each row of the batch; below 0 the branch is off for
        it. By default k and v have one row, which serves all, or one for each row of the batch.
    mask : torch.Tensor, optional
        (queries,), or (1 or batch, queries): it multiplies what arrives at each query.
    shared_softmax : bool
        Whether the branch enters the text's softmax, with its exponentials times weight and mask,
        instead of having one of its own.
    """

    k: Tensor
    v: Tensor
    weight: float | Sequence[float] | Tensor = 1.0
    rows: Sequence[int] | Tensor | None = None
    mask: Tensor | None = None
    shared_softmax: bool = False


def branch_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    branches: Sequence[Branch] = (),
    *,
    scale: float | None = None,
) -> Tensor:
    """Attend to the text and to image branches in one pass over the queries.

    Computes, with the rows of keys and values that serve row b of the batch, ::

        softmax(scale * q k) v + sum_i weight_i[b] * mask_i[b, n] * softmax(scale * q k_i) v_i

    Parameters
    ----------
    q : torch.Tensor
        Queries (batch, heads, queries, head size); float32, float16 or bfloat16, any strides.
    k, v : torch.Tensor
        The text's keys and values (batch, heads, tokens, head size). No tokens: no text term. Of as
        many heads as q, or of a divisor of them.
    branches : sequence of Branch
        None of them: the text alone.
    scale : float, optional
        Finite; 1 / sqrt(head size) by default.

    Returns
    -------
    torch.Tensor
        (batch, heads, queries, head size) in q's dtype, laid out in memory as (batch, queries,
        heads, head size), so that joining the heads is a view.

    Raises
    ------
    TypeError, ValueError
        Something stands where a tensor should, or what stands in a branch does not fit; the message
        names it.
    RuntimeError
        Shapes, dtypes or devices of q, k and v do not fit; the message names the argument.

    Notes
    -----
    Decoupled cross-attention: Ye et al. 2023, arXiv 2308.06721, equation 5. The operator beneath is
    ``torch.ops.attnpatch.branch_attention``.

    Examples
    --------
    Two pictures of a batch attend to one reference at half strength, the second not at all:

    >>> import torch
    >>> from attnpatch.ops import Branch, branch_attention
    >>> q = torch.randn(2, 8, 64, 40)  # batch, heads, queries, head size
    >>> text, image = torch.randn(2, 8, 77, 40), torch.randn(1, 8, 4, 40)
    >>> out = branch_attention(q, text, text, [Branch(image, image, weight=[0.5, 0.0])])
    >>> out.shape
    torch.Size([2, 8, 64, 40])
    >>> torch.equal(out[1:], branch_attention(q[1:], text[1:], text[1:]))
    True
    """
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        _check_rank(name, tensor)
    if isinstance(branches, Branch):
        raise TypeError("branches: expected a list of Branch, got one without a list")
    for index, branch in enumerate(branches):
        _check(f"branches[{index}]", branch, q, k)
    order = sorted(range(len(branches)), key=lambda index: not branches[index].shared_softmax)
    named = [(f"branches[{index}]", branches[index]) for index in order]
    weights = [_weight(name, branch, q) for name, branch in named]
    return branch_attention_flat(
        q,
        k,
        v,
        [branch.k for _, branch in named],
        [branch.v for _, branch in named],
        [_rows(name, branch, q) for name, branch in named],
        torch.stack(weights) if weights else torch.empty(0, len(q), device=q.device),
        _masks(named, q),
        sum(branch.shared_softmax for branch in branches),
        scale,
    )


def _check_rank(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if tensor.dim() != 4:
        raise RuntimeError(
            f"{name}: expected (batch, heads, tokens, head size), got {tuple(tensor.shape)}"
        )


def _check(name: str, branch: Branch, q: Tensor, k: Tensor) -> None:
    if not isinstance(branch, Branch):
        raise TypeError(f"{name}: expected a Branch, got {type(branch).__name__}")
    for part, tensor in (("k", branch.k), ("v", branch.v)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}.{part}: expected a tensor, got {type(tensor).__name__}")
    heads, size = k.shape[1], q.shape[3]
    shape = tuple(branch.k.shape)
    if len(shape) != 4 or shape[1::2] != (heads, size):
        raise ValueError(f"{name}.k: expected (rows, {heads}, tokens, {size}), got {shape}")
    if tuple(branch.v.shape) != shape:
        raise ValueError(f"{name}.v: expected {shape} as k, got {tuple(branch.v.shape)}")


def _weight(name: str, branch: Branch, q: Tensor) -> Tensor:
    weight = torch.as_tensor(branch.weight, dtype=torch.float32, device=q.device)
    if weight.dim() > 1 or (weight.dim() == 1 and len(weight) != len(q)):
        raise ValueError(
            f"{name}.weight: expected a number or ({len(q)},), got {tuple(weight.shape)}"
        )
    return weight.expand(len(q))


def _rows(name: str, branch: Branch, q: Tensor) -> Tensor:
    count, batch = len(branch.k), len(q)
    if branch.rows is None:
        if count == 1:
            return torch.zeros(batch, dtype=torch.int64, device=q.device)
        if count == batch:
            return torch.arange(batch, device=q.device)
        raise ValueError(
            f"{name}.rows: expected a row for each of the batch's {batch}, since k has {count}, "
            "got None"
        )
    rows = torch.as_tensor(branch.rows, device=q.device)
    if rows.shape != (batch,) or rows.is_floating_point() or rows.dtype == torch.bool:
        raise ValueError(
            f"{name}.rows: expected integers ({batch},), got {tuple(rows.shape)} {rows.dtype}"
        )
    return rows.long()


def _masks(named: Sequence[tuple[str, Branch]], q: Tensor) -> Tensor | None:
    """Stack the masks; ones where there is none."""
    batch, queries = len(q), q.shape[2]
    masks = []
    for name, branch in named:
        if branch.mask is None:
            mask = torch.ones(1, queries, device=q.device)
        else:
            mask = torch.as_tensor(branch.mask, dtype=torch.float32, device=q.device)
        shape = tuple(mask.shape)
        if shape not in ((queries,), (1, queries), (batch, queries)):
            raise ValueError(
                f"{name}.mask: expected ({queries},) or (1 or {batch}, {queries}), got {shape}"
            )
        masks.append(mask.reshape(-1, queries))
    if all(branch.mask is None for _, branch in named):
        return None
    rows = max(len(mask) for mask in masks)
    return torch.stack([mask.expand(rows, -1) for mask in masks])
