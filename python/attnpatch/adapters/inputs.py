# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Tensors that come into an adapter: weights and features."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy
import numpy.typing as npt
import torch

from attnpatch.adapters.encoders import Features
from attnpatch.adapters.layout import Layout

logger = logging.getLogger("attnpatch")

# Features of pictures, or for FaceID plus a pair of face embeddings and hidden states.
Image = Any


class FaceEmbeddings(Protocol):
    """A face of `attnpatch.faces` or of insightface: the form is taken that an adapter wants."""

    @property
    def embedding(self) -> npt.NDArray[Any] | None:
        """As the recogniser gives it, (512,)."""
        ...

    @property
    def normed_embedding(self) -> npt.NDArray[Any] | None:
        """Divided by its length, (512,)."""
        ...


Faces = FaceEmbeddings | Sequence[FaceEmbeddings | None] | torch.Tensor | npt.NDArray[Any]
"""Faces of one person, one or several, or their embeddings (512,) or (faces, 512)."""
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def common_dtype(tensors: list[torch.Tensor]) -> torch.dtype:
    """Find the widest float dtype of the tensors; fp16 for those of eight bits."""
    dtypes = {tensor.dtype for tensor in tensors}
    common = torch.float16
    for index, dtype in enumerate(dtype for dtype in FLOATS if dtype in dtypes):
        common = dtype if index == 0 else torch.promote_types(common, dtype)
    return common


def hash_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes (none on the meta device), in hex."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.device.type != "meta":
            flat = tensor.detach().cpu().contiguous().flatten()
            total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are finite; True where there is no data (the meta device)."""
    if tensor.is_meta or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # no smallest and largest of floats of eight bits
        tensor = tensor.to(torch.float16)
    # NaN is the smallest and the largest of all. Many times faster than to ask every value.
    return bool(torch.stack(torch.aminmax(tensor.detach())).isfinite().all())


def check_weights(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError with the name of the first tensor that is not finite."""
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"{name}: expected finite weights, got NaN or infinity")


def count_rows(name: str, inputs: list[torch.Tensor]) -> int:
    """Count the pictures; an input of one row serves all."""
    rows = [tensor.shape[0] for tensor in inputs]
    if len(set(rows)) > 1 and min(rows) != 1:
        raise ValueError(f"{name}: its parts have {' and '.join(map(str, rows))} pictures")
    return max(rows)


def as_tensor(name: str, value: Image, takes: Features) -> torch.Tensor:
    """Make a float tensor of an array, or of the right part of an encoder's output."""
    if takes.form == "hidden":
        if (states := getattr(value, "hidden_states", None)) is not None:
            value = states[-2]
        elif (states := getattr(value, "penultimate_hidden_states", None)) is not None:
            value = states
    elif takes.form == "pooled" and (embeds := getattr(value, "image_embeds", None)) is not None:
        value = embeds
    if not isinstance(value, torch.Tensor):
        if not hasattr(value, "__array__") or type(value).__module__.startswith("PIL"):
            raise TypeError(f"{name}: expected an array of {takes}, got {type(value).__name__}")
        value = torch.tensor(numpy.asarray(value))
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floating-point values, got {value.dtype}")
    return value


def as_face_embeddings(faces: Faces, takes: Features) -> torch.Tensor:
    """Read the embeddings of faces as float32 (faces, size)."""
    if isinstance(faces, torch.Tensor | numpy.ndarray):
        tensor = torch.as_tensor(faces).cpu().float()
        if tensor.dim() == 3 and tensor.shape[1] == 1:
            tensor = tensor[:, 0]
        return tensor[None] if tensor.dim() == 1 else tensor
    several = faces if isinstance(faces, Sequence) else [faces]
    name = "embedding" if takes.face == "raw" else "normed_embedding"
    embeddings = []
    for face in several:
        value = numpy.zeros(takes.size) if face is None else getattr(face, name, None)
        if value is None:
            raise TypeError(f"faces: expected faces with {name}, got {type(face).__name__}")
        embeddings.append(torch.tensor(numpy.asarray(value, dtype=numpy.float32)))
    if not embeddings:
        raise ValueError("faces: expected at least one, got none")
    return torch.stack(embeddings)


def check_tokens(tokens: torch.Tensor, layout: Layout) -> None:
    """Raise unless an adapter of this layout projects such tokens to keys and values."""
    if not isinstance(tokens, torch.Tensor):
        raise TypeError(f"tokens: expected a tensor, got {type(tokens).__name__}")
    if tokens.dim() == 3 and tokens.shape[2] == layout.context_dim:
        return
    if layout.token_dim != layout.context_dim and tokens.shape[-1:] == (layout.token_dim,):
        raise ValueError(
            "tokens: those of this adapter first go through the projection that the model "
            "has for its text (encoder_hid_proj); use ImageEmbeds.through"
        )
    models = {768: " (SD1.x)", 1024: " (SD2.x)", 2048: " (SDXL)"}
    raise ValueError(
        f"tokens: this {layout.family} adapter takes (R, M, {layout.context_dim})"
        f"{models.get(layout.context_dim, '')}, got {tuple(tokens.shape)}"
        f"{models.get(tokens.shape[-1] if tokens.dim() else 0, '')}"
    )


def check_values(name: str, tensor: torch.Tensor, takes: Features) -> None:
    """Raise on values that are not finite; log a face embedding of an unlikely length.

    Parameters
    ----------
    name : str
        The argument, for the message.
    tensor : torch.Tensor
        (..., size).
    takes : Features
        What it should be.

    Raises
    ------
    ValueError
        Infinite values or NaN.
    """
    if not is_finite(tensor):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if tensor.is_meta or not takes.face:
        return
    norms = torch.linalg.vector_norm(tensor.float(), dim=-1)
    unit = bool(((norms - 1).abs() < 0.05).all())
    if takes.face == "normalised" and not unit and bool((norms > 0).any()):
        logger.warning(
            "%s: this adapter takes face embeddings of length 1 (insightface's normed_embedding); "
            "given lengths up to %.3g",
            name,
            float(norms.max()),
        )
    elif takes.face == "raw" and unit:
        logger.warning(
            "%s: this adapter takes raw face embeddings (insightface's embedding); the ones given "
            "have been normalised to length 1",
            name,
        )


def check_dtype(dtype: torch.dtype | None) -> None:
    """Raise a ValueError for a dtype in which nothing can be computed."""
    if dtype is not None and dtype not in FLOATS:
        raise ValueError(f"dtype: expected a float16, bfloat16, float32 or float64, got {dtype}")


def move_weight(
    name: str,
    tensor: torch.Tensor,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> torch.Tensor:
    """Give a weight on another device or in another dtype; see `ImageAdapter.to`."""
    moved = tensor.to(device=device, dtype=dtype)
    if moved is not tensor and moved.requires_grad:
        raise ValueError(
            f"device, dtype: expected {tensor.device} and {tensor.dtype}, where weights "
            f"are that require a gradient, got {moved.device} and {moved.dtype}; convert "
            "the parameters first, or copy their values in torch.no_grad()"
        )
    if moved.dtype != tensor.dtype and not is_finite(moved):
        raise ValueError(
            f"dtype: expected one with room for the values of {name}, which are up to "
            f"{tensor.detach().abs().max().item():.3g}, got {moved.dtype}"
        )
    return moved
