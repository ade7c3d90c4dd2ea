# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What must be known of the host's transformers: their layers, and the tokens of a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from attnpatch.engine import (
    IMAGE,
    PADDING,
    REFERENCE,
    TEXT,
    JointLayer,
    JointTable,
    Part,
    Tokens,
    joined,
)
from attnpatch.hosts.comfyui.transformer.left_behind import LeftBehind, Parts

__all__ = ["FAMILIES", "Family", "Sequence", "family_of", "layer_table"]


@dataclass(frozen=True)
class Sequence:
    """The sequence of one call.

    Parameters
    ----------
    queries, keys
        What they are at the layers of the table.
    prompt
        Where the text of the call begins: texts of references may come before it.
    refined
        How many tokens attend to each other in layers that refine the text.
    """

    queries: Tokens
    keys: Tokens
    prompt: int = 0
    refined: int = 0


@dataclass(frozen=True)
class Family:
    """One family of transformers.

    Parameters
    ----------
    blocks
        For each list of blocks, in forward order, what the host calls them in ``block_type``, by
        its attribute; the attribute of a block that attends follows after a dot.
    spans
        The names of the spans that a call may have.
    sequence
        Gives the sequence of a call by the model and the arguments of its forward.
    place
        Where the host lets wrappers stand around a call.
    text
        The name of the text among its arguments.
    over_text
        Whether the image attends to the text in layers of their own.
    refiners
        The attribute with blocks in which the text attends to itself, before all layers.
    own_text
        Gives the arguments of a call without tokens of the text that a mask takes out.
    least_text
        Gives to how many tokens the host pads a text with zeros in front.
    left_behind
        Where the image's positions follow those of the text: gives what stays behind in a sequence
        whose text has become longer by so many tokens. None: they do not follow.
    """

    blocks: Mapping[str, str]
    spans: tuple[str, ...]
    sequence: Callable[[Any, Mapping[str, Any]], Sequence]
    place: str = "diffusion_model"
    text: str = "context"
    over_text: bool = False
    refiners: str | None = None
    own_text: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = lambda model, given: given
    least_text: Callable[[Any], int] = lambda model: 0
    left_behind: Callable[[Any, Sequence, int], LeftBehind | None] | None = None

    @property
    def follows_text(self) -> bool:
        """Whether the image's positions follow those of the text."""
        return self.left_behind is not None

    def count_refiners(self, model: Any) -> int:
        """Return in how many layers the text attends to itself, before all others."""
        return 0 if self.refiners is None else len(attrgetter(self.refiners)(model))


def family_of(model: Any) -> Family | None:
    """Return the family of a network; None: it is not known."""
    for base in type(model).__mro__:
        family = FAMILIES.get((base.__module__.rpartition("comfy.ldm.")[2], base.__name__))
        if family is not None:
            return family
    return None


def layer_table(model: Any, family: Family) -> JointTable:
    """Return the layers of a network in forward order."""
    layers: list[JointLayer] = []
    for attribute, block in family.blocks.items():
        path, _, attention = attribute.partition(".")
        for number, module in enumerate(getattr(model, path)):
            attn = attrgetter(attention)(module) if attention else module
            name = f"{path}.{number}.{attention}" if attention else f"{path}.{number}"
            heads = _heads(attn)
            layers.append(JointLayer(len(layers), name, block, number, heads, 0))
    return JointTable(type(model).__name__, layers, over_text=family.over_text)


def _heads(attn: Any) -> int:
    names = ("num_heads", "heads", "n_heads", "n_local_heads")
    return int(next((getattr(attn, name) for name in names if hasattr(attn, name)), 1))


def _picture(name: str, latent: Any, patch: int) -> Part:
    """Return the tokens of a latent (…, h, w), padded to whole patches."""
    grid = -(-latent.shape[-2] // patch), -(-latent.shape[-1] // patch)
    frames = latent.shape[2] if latent.ndim == 5 else 1
    return name, frames * grid[0] * grid[1], grid if frames == 1 else None


def _pictures(given: Mapping[str, Any], patch: int) -> list[Part]:
    references = given.get("ref_latents") or ()
    return [
        _picture(IMAGE, given["x"], patch),
        *(_picture(REFERENCE, latent, patch) for latent in references),
    ]


def _text(given: Mapping[str, Any]) -> Part:
    return TEXT, given["context"].shape[1], None


def _text_first(model: Any, given: Mapping[str, Any]) -> Sequence:
    tokens = joined([_text(given), *_pictures(given, model.patch_size)])
    return Sequence(tokens, tokens)


def _krea2(model: Any, given: Mapping[str, Any]) -> Sequence:
    if given.get("ref_latents_method", model.default_ref_method) is None:
        given = {**given, "ref_latents": None}
    tokens = joined([_text(given), *_pictures(given, model.patch)])
    return Sequence(tokens, tokens, refined=given["context"].shape[1])


def _lumina(model: Any, given: Mapping[str, Any]) -> Sequence:
    multiple = getattr(model, "pad_tokens_multiple", None) or 1
    given = _without_mask(model, given)
    references = given.get("ref_latents") or ()
    of_references = given.get("ref_contexts") or ()

    def padded(name: str, count: int, grid: tuple[int, int] | None = None) -> list[Part]:
        return [(name, count, grid), (PADDING, -count % multiple, None)]

    # What stands around the pictures in the template is no text of the prompt: words are counted
    # from the prompt's first.
    parts: list[Part] = []
    for index in range(len(references)):
        told = index < len(of_references)
        parts += padded(PADDING, of_references[index].shape[1] if told else multiple)
    prompt = _count(parts)
    parts += padded(*_text(given))
    for text in of_references[len(references) :]:
        parts += padded(PADDING, text.shape[1])
    refined = _count(parts)
    if references and getattr(model, "siglip_embedder", None) is not None:
        features = list(given.get("siglip_feats") or ())[: len(references)]
        for count in (feature.shape[1] * feature.shape[2] for feature in features):
            parts += padded(PADDING, count)
        parts += [(PADDING, multiple, None)] * (len(references) + 1 - len(features))
    for latent in references:
        parts += padded(*_picture(REFERENCE, latent, model.patch_size))
    parts += padded(*_picture(IMAGE, given["x"], model.patch_size))
    tokens = joined(parts)
    return Sequence(tokens, tokens, prompt, refined)


def _lumina_left_behind(model: Any, sequence: Sequence, distance: int) -> LeftBehind | None:
    """Return what stays: references with their texts and features, and padding of pictures."""
    tokens, prompt, refined = sequence.keys, sequence.prompt, sequence.refined
    image, reference = tokens.find(IMAGE), tokens.find(REFERENCE)
    assert image is not None
    pictures = (reference or image).start
    moved = (prompt, refined), (image.start, image.stop or 0)

    def attention(start: int, stop: int) -> tuple[int, Parts]:
        return stop - start, _beside(moved, start, stop)

    count = tokens.count or 0
    whole = attention(0, count)
    if not whole[1]:
        return None
    features = getattr(model, "siglip_refiner", None) or ()
    rope = model.rope_embedder
    return LeftBehind(
        distance,
        theta=rope.theta,
        size=rope.axes_dim[0],
        first=[
            *(attention(0, refined) for _ in model.context_refiner),
            *((pictures - refined, ()) for _ in features if pictures > refined),
        ],
        # Control nets attend to the image and its padding alone.
        others=[attention(image.start, count), attention(pictures, count), whole],
    )


def _beside(moved: Parts, start: int, stop: int) -> Parts:
    """Return the tokens of a part that are none of these, which are in order, from its start."""
    parts: list[tuple[int, int]] = []
    place = start
    for first, last in (*moved, (stop, stop)):
        if place < min(first, stop):
            parts.append((place - start, min(first, stop) - start))
        place = max(place, last)
    return tuple(parts)


def _count(parts: list[Part]) -> int:
    return sum(count for _, count, _ in parts)


def _without_mask(model: Any, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a call without tokens of the text that a mask takes out.

    Hosts before Z-Image cut each row's text to its own tokens by the mask; later ones do not.
    """
    mask = given.get("attention_mask")
    if mask is None or hasattr(model, "pad_tokens_multiple"):
        return given
    lengths = mask.sum(dim=1).tolist()
    if len(set(lengths)) > 1:
        raise ValueError(
            f"context: expected texts of one length in a call of {type(model).__name__} where "
            f"patches act, got {lengths} tokens"
        )
    return {**given, "context": given["context"][:, : int(lengths[0])], "attention_mask": None}


def _sd3(model: Any, given: Mapping[str, Any]) -> Sequence:
    text = TEXT, model.register_length + given["c_crossattn"].shape[1], None
    tokens = joined([text, _picture(IMAGE, given["x"], model.patch_size)])
    return Sequence(tokens, tokens)


def _over_text(model: Any, given: Mapping[str, Any]) -> Sequence:
    """Return those of models whose image attends to the text in layers of their own."""
    image = _picture(IMAGE, given["x"], model.patch_spatial)
    return Sequence(joined([image]), joined([_text(given)]))


def _flux_text(model: Any) -> int:
    """Return to how many tokens the host pads texts of Flux.2, whose tokens have positions."""
    params = getattr(model, "params", None)
    return 512 if getattr(params, "txt_ids_dims", None) else 0


_FLUX = {"double_blocks.img_attn": "double", "single_blocks": "single"}
_REFERENCED = (TEXT, IMAGE, REFERENCE)

FAMILIES: dict[tuple[str, str], Family] = {
    ("flux.model", "Flux"): Family(_FLUX, _REFERENCED, _text_first, least_text=_flux_text),
    ("chroma.model", "Chroma"): Family(_FLUX, _REFERENCED, _text_first),
    ("krea2.model", "SingleStreamDiT"): Family(
        {"blocks.attn": "single"}, _REFERENCED, _krea2, refiners="txtfusion.refiner_blocks"
    ),
    ("qwen_image.model", "QwenImageTransformer2DModel"): Family(
        {"transformer_blocks.attn": "double"}, _REFERENCED, _text_first
    ),
    ("lumina.model", "NextDiT"): Family(
        {"layers.attention": "double"},
        (TEXT, IMAGE, REFERENCE, PADDING),
        _lumina,
        refiners="context_refiner",
        own_text=_without_mask,
        left_behind=_lumina_left_behind,
    ),
    ("modules.diffusionmodules.mmdit", "MMDiT"): Family(
        {"joint_blocks.x_block.attn": "double"},
        (TEXT, IMAGE),
        _sd3,
        place="apply_model",
        text="c_crossattn",
    ),
    ("anima.model", "Anima"): Family(
        {"blocks.cross_attn": ""}, (IMAGE, TEXT), _over_text, over_text=True
    ),
    ("cosmos.predict2", "MiniTrainDIT"): Family(
        {"blocks.cross_attn": ""}, (IMAGE, TEXT), _over_text, over_text=True
    ),
}
"""By the module in ``comfy.ldm``, and the class."""
