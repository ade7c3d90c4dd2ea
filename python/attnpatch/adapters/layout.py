# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What an adapter is, told from the shapes of its tensors, and whether they are all there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from attnpatch.adapters.encoders import FACE_SIZE, Features

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

HEAD_SIZE = 64
KOLORS_TEXT = 4096  # values of a token of Kolors' text encoder

# Each structure of `image_proj`, and the kinds of adapters that have it.
KINDS = {
    "linear": ("linear",),
    "token mlp": ("full_face",),
    "mlp": ("faceid", "faceid_portrait"),
    "resampler": ("plus", "instantid", "portrait_unnorm"),
    "face perceiver": ("faceid_plus", "faceid_plus_v2"),
}

# Channels of the patched layers in checkpoint order: input, output, middle blocks.
_SD = (320,) * 2 + (640,) * 2 + (1280,) * 2 + (1280,) * 3 + (640,) * 3 + (320,) * 3 + (1280,)
_SDXL = (640,) * 4 + (1280,) * 20 + (1280,) * 30 + (640,) * 6 + (1280,) * 10
FAMILIES = {"sd1": (768, _SD), "sd2": (1024, _SD), "sdxl": (2048, _SDXL)}


@dataclass(frozen=True)
class Layout:
    """What an adapter is.

    Parameters
    ----------
    kind, structure, family : str
        A row of the checkpoint table; the form of its projection network; the models it fits
        ("sd1", "sd2", "sdxl", "kolors", or "custom").
    context_dim, tokens : int
        Size and number of the image tokens that one picture becomes.
    takes : tuple of Features
        Each input of the projection.
    channels : tuple of int
        Channels of every patched layer, in checkpoint order.
    dim, depth, heads : int
        Of the perceiver; 0 where there is none.
    note : str
        Why this kind, where shapes alone can not tell; otherwise empty.
    token_dim : int
        Size of the tokens as the projection makes them. Kolors' FaceID plus makes those of Kolors'
        text encoder, which the model's own projection takes to `context_dim`; else that itself.
    """

    kind: str
    structure: str
    family: str
    context_dim: int
    tokens: int
    takes: tuple[Features, ...]
    channels: tuple[int, ...]
    dim: int = 0
    depth: int = 0
    heads: int = 0
    note: str = field(default="", compare=False)  # the same adapter, whatever told its kind
    token_dim: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_dim", self.token_dim or self.context_dim)


def _listed(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _need(shapes: Shapes, name: str, dims: int) -> Shape:
    if name not in shapes:
        raise ValueError(f"image_proj: the tensor {name} is missing")
    shape = shapes[name]
    if len(shape) != dims:
        raise ValueError(f"image_proj: {name} must have {dims} dimensions, has shape {shape}")
    return shape


def _check_all(expected: Shapes, shapes: Shapes) -> None:
    wrong = [
        f"{name} must be {shape}, is {shapes[name]}"
        for name, shape in expected.items()
        if name in shapes and shapes[name] != shape
    ]
    missing = [name for name in expected if name not in shapes]
    extra = [name for name in shapes if name not in expected]
    problems = []
    if missing:
        problems.append(f"missing {_listed(missing)}")
    if extra:
        problems.append(f"unexpected {_listed(extra)}")
    if wrong:
        problems.append(_listed(wrong))
    if problems:
        raise ValueError(f"image_proj does not fit together: {'; '.join(problems)}")


def _linear_shapes(rows: int, columns: int, name: str, bias: bool = True) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (rows, columns)}
    if bias:
        shapes[f"{name}.bias"] = (rows,)
    return shapes


def _norm_shapes(size: int, name: str) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _perceiver_shapes(shapes: Shapes, prefix: str) -> tuple[dict[str, Shape], int, int, int]:
    """List the expected tensors of a perceiver; with its dim, depth and number of heads."""
    dim, embed = _need(shapes, f"{prefix}proj_in.weight", 2)
    output = _need(shapes, f"{prefix}proj_out.weight", 2)[0]
    inner = _need(shapes, f"{prefix}layers.0.0.to_q.weight", 2)[0]
    hidden = _need(shapes, f"{prefix}layers.0.1.1.weight", 2)[0]
    if inner % HEAD_SIZE:
        raise ValueError(
            f"image_proj: {prefix}layers.0.0.to_q.weight has {inner} rows, which is no multiple "
            f"of the head size {HEAD_SIZE}"
        )
    numbers = [re.match(rf"{re.escape(prefix)}layers\.(\d+)\.", name) for name in shapes]
    depth = 1 + max(int(match[1]) for match in numbers if match)
    expected = _linear_shapes(dim, embed, f"{prefix}proj_in")
    expected |= _linear_shapes(output, dim, f"{prefix}proj_out")
    expected |= _norm_shapes(output, f"{prefix}norm_out")
    for d in range(depth):
        attention, feed_forward = f"{prefix}layers.{d}.0", f"{prefix}layers.{d}.1"
        expected |= _norm_shapes(dim, f"{attention}.norm1")
        expected |= _norm_shapes(dim, f"{attention}.norm2")
        expected |= _linear_shapes(inner, dim, f"{attention}.to_q", bias=False)
        expected |= _linear_shapes(2 * inner, dim, f"{attention}.to_kv", bias=False)
        expected |= _linear_shapes(dim, inner, f"{attention}.to_out", bias=False)
        expected |= _norm_shapes(dim, f"{feed_forward}.0")
        expected |= _linear_shapes(hidden, dim, f"{feed_forward}.1", bias=False)
        expected |= _linear_shapes(dim, hidden, f"{feed_forward}.3", bias=False)
    return expected, dim, depth, inner // HEAD_SIZE


def _structure(shapes: Shapes) -> str:
    if any(name.startswith("perceiver_resampler.") for name in shapes):
        return "face perceiver"
    if "latents" in shapes:
        return "resampler"
    if "proj.weight" in shapes:
        return "linear"
    if "proj.0.weight" in shapes:
        return "token mlp" if "proj.3.weight" in shapes else "mlp"
    raise ValueError(
        "image_proj is of no known structure: it has none of latents, proj.weight, proj.0.weight "
        f"and perceiver_resampler.*, but {_listed(sorted(shapes)) or 'nothing at all'}"
    )


def _is_kolors_plus(shapes: Shapes) -> bool:
    """Whether an adapter plus is Kolors', whose UNet is SDXL's: its Resampler is wider."""
    return shapes.get("layers.0.0.to_out.weight", (0,))[0] == 2048


def _tokens(rows: int, context: int, name: str) -> int:
    if rows % context or rows == 0:
        raise ValueError(
            f"image_proj and ip_adapter do not belong together: {name} has {rows} rows, which is "
            f"no multiple of the {context} columns of ip_adapter's keys and values"
        )
    return rows // context


def _name_kind(
    structure: str, family: str, tokens: int, size: int, lora: bool, name: str
) -> tuple[str, str]:
    """Find the kind, and a note where shapes can not tell it."""
    if structure == "linear":
        return "linear", ""
    if structure == "token mlp":
        return "full_face", ""
    if structure == "face perceiver" and family == "kolors":
        return "faceid_plus_v2", ""
    if structure == "mlp":
        return ("faceid" if lora or tokens == 4 else "faceid_portrait"), ""
    name = name.lower()
    if structure == "resampler":
        if size != FACE_SIZE:
            return "plus", ""
        if "unnorm" in name:
            return "portrait_unnorm", "by the file's name"
        if "instant" in name or family == "sdxl":
            note = (
                "by the file's name" if "instant" in name else "portrait_unnorm has this form too"
            )
            return "instantid", note
        return "portrait_unnorm", "InstantID exists for SDXL only"
    if re.search(r"plus[-_ ]?v2", name):
        return "faceid_plus_v2", "by the file's name"
    if "plus" in name:
        return "faceid_plus", "by the file's name"
    if family == "sdxl":
        return "faceid_plus_v2", "the first version exists for SD1.5 only"
    return "faceid_plus", "assumed: version 2 has this form too; pass shortcut=True for it"


def _choose_kind(
    structure: str, detected: str, note: str, kind: str | None, shortcut: bool | None
) -> tuple[str, str]:
    """Let the caller's `kind` and `shortcut` settle what shapes can not."""
    allowed = KINDS[structure]
    if kind is not None and kind not in allowed:
        known = [k for kinds in KINDS.values() for k in kinds]
        if kind not in known:
            raise ValueError(f"kind: expected one of {', '.join(known)}, got {kind!r}")
        raise ValueError(
            f"kind: given {kind!r}, but the tensors are those of {' or '.join(allowed)}"
        )
    if shortcut is None:
        return (kind, "as asked for") if kind else (detected, note)
    if structure != "face perceiver":
        raise ValueError(f"shortcut: only FaceID plus has one; this is {detected}")
    wanted = "faceid_plus_v2" if shortcut else "faceid_plus"
    if kind not in (None, wanted):
        raise ValueError(f"shortcut={shortcut} contradicts kind={kind!r}")
    return wanted, "as asked for"


def _find_family(context: int, channels: tuple[int, ...]) -> str:
    for family, (size, table) in FAMILIES.items():
        if size != context:
            continue
        if channels == table:
            return family
        if channels == table[: len(channels)]:
            raise ValueError(
                f"ip_adapter: {len(channels)} of the {len(table)} layers of {family} are there; "
                "the file is incomplete"
            )
    return "custom"


def detect(
    image_proj: Shapes,
    sites: list[tuple[Shape, Shape]],
    *,
    lora: bool = False,
    kind: str | None = None,
    shortcut: bool | None = None,
    name: str = "",
) -> Layout:
    """Tell what an adapter is and check that its tensors fit together.

    Parameters
    ----------
    image_proj : mapping of str to shape
        The projection's tensors.
    sites : list of (shape, shape)
        (channels, context) of each layer's weights of keys and of values, in order.
    lora : bool
        Whether LoRA tensors accompany the keys and values.
    kind, shortcut, name : optional
        What the caller says, and the file's name; used only where shapes leave a choice.

    Raises
    ------
    ValueError
        Missing, extra or misshapen tensors, or an adapter of another model family.
    """
    structure = _structure(image_proj)
    context = token_dim = sites[0][0][1]
    channels = tuple(key[0] for key, _ in sites)
    family = _find_family(context, channels)
    if structure == "face perceiver" and image_proj.get("norm.weight") == (KOLORS_TEXT,):
        family, token_dim = "kolors", KOLORS_TEXT
    elif family == "sdxl" and _is_kolors_plus(image_proj):
        family = "kolors"
    dim = depth = heads = 0

    if structure == "linear":
        rows, size = _need(image_proj, "proj.weight", 2)
        tokens = _tokens(rows, context, "proj.weight")
        expected = _linear_shapes(rows, size, "proj") | _norm_shapes(context, "norm")
    elif structure == "resampler":
        queries, width = _need(image_proj, "latents", 3)[1:]
        expected, dim, depth, heads = _perceiver_shapes(image_proj, "")
        tokens, size = queries, image_proj["proj_in.weight"][1]
        expected |= {"latents": (1, queries, width)}
    else:
        middle, size = _need(image_proj, "proj.0.weight", 2)
        rows = _need(image_proj, "proj.2.weight", 2)[0]
        tokens = _tokens(rows, token_dim, "proj.2.weight")
        norm = "proj.3" if structure == "token mlp" else "norm"
        expected = _linear_shapes(middle, size, "proj.0") | _linear_shapes(rows, middle, "proj.2")
        expected |= _norm_shapes(token_dim, norm)
        if structure == "face perceiver":
            more, dim, depth, heads = _perceiver_shapes(image_proj, "perceiver_resampler.")
            expected |= more
    _check_all(expected, image_proj)
    _check_output(image_proj, structure, token_dim, dim)

    detected, note = _name_kind(structure, family, tokens, size, lora, name)
    kind, note = _choose_kind(structure, detected, note, kind, shortcut)
    takes = _takes(kind, size, image_proj)
    if kind == "full_face":
        tokens = 257  # one for each token of CLIP ViT-H/14, class token included
    return Layout(
        kind,
        structure,
        family,
        context,
        tokens,
        takes,
        channels,
        dim,
        depth,
        heads,
        note,
        token_dim,
    )


def _check_output(shapes: Shapes, structure: str, context: int, dim: int) -> None:
    prefix = "perceiver_resampler." if structure == "face perceiver" else ""
    if structure == "resampler" and shapes["latents"][2] != dim:
        raise ValueError(
            f"image_proj: latents have {shapes['latents'][2]} values, proj_in makes {dim}"
        )
    if structure == "face perceiver" and dim != context:
        raise ValueError(
            f"image_proj: face tokens have {context} values, the perceiver works on {dim}"
        )
    if structure in ("resampler", "face perceiver"):
        output = shapes[f"{prefix}proj_out.weight"][0]
        if output != context:
            raise ValueError(
                "image_proj and ip_adapter do not belong together: the projection makes tokens of "
                f"{output} values, the keys and values take {context}"
            )


def _takes(kind: str, size: int, shapes: Shapes) -> tuple[Features, ...]:
    if kind == "linear":
        return (Features(size, "pooled"),)
    if kind in ("plus", "full_face"):
        return (Features(size, "hidden"),)
    if kind in ("instantid", "portrait_unnorm"):
        return (Features(size, "face", "raw"),)
    face = Features(size, "face", "normalised")
    if kind in ("faceid_plus", "faceid_plus_v2"):
        return face, Features(shapes["perceiver_resampler.proj_in.weight"][1], "hidden")
    return (face,)
