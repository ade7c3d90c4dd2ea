# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts: IP-Adapter (arXiv 2308.06721) and its relatives."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor

from attnpatch._core import LayerTable, Window
from attnpatch.adapters.adapter import ImageAdapter
from attnpatch.adapters.compat import Compat
from attnpatch.adapters.encode import Crop, Negative, PictureEncoder
from attnpatch.adapters.inputs import Faces
from attnpatch.engine.masks import MASK_RESIZE_MODES, check_joint, to_mask
from attnpatch.engine.patch import Patch
from attnpatch.engine.weights import Weight, WeightLike
from attnpatch.engine.window import check_window
from attnpatch.patches.image_prompt.bound import BoundImagePrompt
from attnpatch.patches.image_prompt.keys_values import (
    SCALINGS,
    Embeds,
    KeysValues,
    SiteProjections,
    check_adapter,
    family_of,
)
from attnpatch.patches.image_prompt.options import (
    checked_compat,
    default_scaling,
    one_of,
    read_masks,
    read_roles,
    short_repr,
    source_of,
    with_names_of_today,
)
from attnpatch.patches.image_prompt.parts import parts_from_state, parts_state
from attnpatch.pictures import Pictures

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ImagePrompt"]


@dataclass(frozen=True, init=False, repr=False, eq=False)
class ImagePrompt(Patch):
    """A picture that a UNet attends to beside its text.

    Keys and values of every layer are projected once, here; the adapter can then be dropped. Where
    tokens or the adapter's weights require a gradient they are projected at each call instead; see
    the notes.

    Parameters
    ----------
    adapter
        What ``load_image_adapter`` gives.
    embeds
        What ``adapter.get_image_embeds`` gives, or a pair of tensors (cond, uncond) of shapes
        (pictures, tokens, context) and (1 or pictures, tokens, context); of these each may have its
        own number of tokens. Several pictures: one for each sample of the batch. uncond may be
        None: nothing is added to uncond then.
    weight
        A number, or anything of the grammar of ``Weight``.
    mask
        Where it acts: (H, W), or (samples, H, W), one for each sample of the batch. It covers the
        whole picture, is resized to each layer's token grid, and multiplies the branch's output (in
        a shared softmax the image's share).
    start, end
        The part of sampling in which it is active, 0 to 1: start <= progress <= end. A start of 0
        is the very beginning, an end of 1 the very end. A start of 1 or an end of 0 is no time.
    scaling
        How the weight acts, with w the weight and C the layer's channels: "V only" (the branch's
        output times w; the default), "K+V" (keys and values times w), "K+V w/ C penalty" (times
        w·C/1280), "K+mean(V) w/ C penalty" (keys times w' = w·C/1280, values
        (v − mean) + mean·w'; the default of a shared softmax).
    shared_softmax
        One softmax over the text's and the image's tokens, as Fooocus does, instead of one each.
        The author of its formula remarks that it may raise intellectual-property issues in
        commercial use.
    roles
        What rows of other roles than 0 (cond) and 1 (uncond) get: {role: "cond", "uncond" or
        "off"}; uncond unless named here. Kinds 0 and 1 may be named as well.
    end_exclusive
        Active while progress < end, whatever the end: as Fooocus' ``stop``.
    mask_resize
        "bilinear", "area", "bicubic" or "nearest".
    repeat_last
        A batch may have more or fewer pictures than embeds, weight and mask have: the last of each
        serves the pictures after it. Otherwise that is an error.
    compat
        A program to imitate where it errs, so that its old results come out again:
        "comfyui_ipadapter_plus" and "comfyui_instantid" miss the middle block; "fooocus", with its
        shared softmax alone, computes the branch even at weight 0.

    Raises
    ------
    ValueError
        For what does not fit together, naming both sides.

    Notes
    -----
    Gradients reach image tokens, the adapter's weights of keys and values, and the mask, where
    these require one when the prompt is made. Each call then reads them anew, so that it sees an
    optimiser's steps. What parameters are first computed into (tokens by ``get_image_embeds``, a
    mask by a sigmoid) belongs to one graph: make the prompt anew for each step. Files, pickles and
    ``state`` hold the values of their moment, which require no gradient; so does a prompt that is
    made of them. Weights are numbers; to learn one, multiply a mask by it.
    """

    keys_values: KeysValues
    weight: Weight
    mask: Tensor | None
    trained_mask: Tensor | None
    """The mask itself as it was given, where it requires a gradient; ``mask`` is a view of it."""
    start: float
    end: float
    scaling: str
    shared_softmax: bool
    roles: tuple[tuple[int, str], ...]
    end_exclusive: bool
    mask_resize: str
    repeat_last: bool
    compat: Compat | None
    source: str

    type_name: ClassVar[str] = "image_prompt"

    def __init__(
        self,
        adapter: SiteProjections,
        embeds: Embeds,
        weight: WeightLike = 1.0,
        *,
        mask: npt.ArrayLike | Tensor | None = None,
        start: float = 0.0,
        end: float = 1.0,
        scaling: str | None = None,
        shared_softmax: bool = False,
        roles: Mapping[int, str] | Sequence[tuple[int, str]] = (),
        end_exclusive: bool = False,
        mask_resize: str = "bilinear",
        repeat_last: bool = False,
        compat: Compat | None = None,
    ) -> None:
        self._set(
            KeysValues.project(adapter, embeds),
            source=source_of(adapter),
            weight=weight,
            mask=mask,
            start=start,
            end=end,
            scaling=scaling,
            shared_softmax=shared_softmax,
            roles=roles,
            end_exclusive=end_exclusive,
            mask_resize=mask_resize,
            repeat_last=repeat_last,
            compat=compat,
        )

    @classmethod
    def from_pictures(
        cls,
        adapter: ImageAdapter,
        pictures: Pictures,
        encoder: PictureEncoder,
        weight: WeightLike = 1.0,
        *,
        negative: Negative = "zeros",
        faces: Faces | None = None,
        combine: str | None = "concat",
        crop: Crop = "center",
        **options: Any,
    ) -> Self:
        """Make an image prompt of pictures.

        Parameters
        ----------
        adapter : ImageAdapter
            What ``load_image_adapter`` gives.
        pictures : picture, or list or tuple of pictures
            Files, pictures of Pillow, arrays or tensors.
        encoder : callable
            The CLIP vision model that the adapter was trained with.
        weight : float or weights
            As above.
        negative, faces, combine, crop
            As for ``ImageAdapter.encode``.
        **options
            The keyword arguments of ``ImagePrompt``.
        """
        check_adapter(adapter)
        embeds = adapter.encode(
            pictures, encoder, negative=negative, faces=faces, combine=combine, crop=crop
        )
        self = cls.__new__(cls)
        keys_values = KeysValues.project(adapter, embeds)
        self._set(keys_values, source=source_of(adapter), weight=weight, **options)
        return self

    @classmethod
    def from_keys_values(
        cls,
        cond: Sequence[tuple[Tensor, Tensor]],
        uncond: Sequence[tuple[Tensor, Tensor]] | None = None,
        weight: WeightLike = 1.0,
        *,
        source: str = "",
        **options: Any,
    ) -> Self:
        """Make an image prompt from ready keys and values.

        Parameters
        ----------
        cond, uncond
            For each layer, in checkpoint order, keys and values of shape (pictures, tokens,
            channels). uncond has 1 picture or as many as cond; None: nothing is added to uncond.
        weight
            As above.
        source
            What ``repr`` shows for where they came from.
        **options
            The keyword arguments of ``ImagePrompt``.
        """
        self = cls.__new__(cls)
        self._set(KeysValues.from_lists(cond, uncond), source=source, weight=weight, **options)
        return self

    def replace(self, **changes: Any) -> Self:
        """Make one with other options (``weight=…``, ``mask=…``) that shares the tensors."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "trained_mask"}
        options["mask"] = self.mask if self.trained_mask is None else self.trained_mask
        unknown = changes.keys() - (options.keys() - {"keys_values"})
        if unknown:
            raise TypeError(
                f"replace: {type(self).__name__} has no option {', '.join(sorted(unknown))}"
            )
        new = type(self).__new__(type(self))
        new._set(**{**options, **changes})
        if "mask" not in changes:
            object.__setattr__(new, "mask", self.mask)
        return new

    def with_keys_values(self, keys_values: KeysValues) -> Self:
        """Make one of the same options with other keys and values."""
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "trained_mask"}
        options["keys_values"] = keys_values
        new = type(self).__new__(type(self))
        new._set(**options)
        return new

    def _set(self, keys_values: KeysValues, *, source: str, **options: Any) -> None:
        unknown = options.keys() - _DEFAULTS.keys()
        if unknown:
            raise TypeError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
        options = {**_DEFAULTS, **options}
        shared_softmax, scaling = bool(options["shared_softmax"]), options["scaling"]
        start, end = check_window(options["start"], options["end"])
        if scaling is None:
            scaling = default_scaling(shared_softmax)
        values = {
            "keys_values": keys_values,
            "source": source,
            "weight": Weight.of(options["weight"]),
            **read_masks(options["mask"]),
            "start": start,
            "end": end,
            "scaling": one_of("scaling", scaling, tuple(SCALINGS)),
            "shared_softmax": shared_softmax,
            "roles": read_roles(options["roles"]),
            "end_exclusive": bool(options["end_exclusive"]),
            "mask_resize": one_of("mask_resize", options["mask_resize"], MASK_RESIZE_MODES),
            "repeat_last": bool(options["repeat_last"]),
            "compat": checked_compat(options["compat"], shared_softmax),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if shared_softmax and self.mask is not None:
            check_joint(self.mask)
        self.samples  # noqa: B018 (says what does not fit together)

    @property
    def samples(self) -> int:
        """How many samples of a batch it tells apart; 1: all get the same.

        Raises
        ------
        ValueError
            Where embeds, mask and weight are for different numbers of samples.
        """
        counts = {
            "embeds": self.keys_values.pictures,
            "mask": 1 if self.mask is None else len(self.mask),
            "weight": max(1, len(self.weight.samples)),
        }
        several = {name: count for name, count in counts.items() if count > 1}
        if len(set(several.values())) > 1 and not self.repeat_last:
            listed = ", ".join(f"{count} in {name}" for name, count in several.items())
            raise ValueError(f"image prompt: expected 1 picture or equally many, got {listed}")
        return max(counts.values())

    @property
    def requires_grad(self) -> bool:
        """Whether tokens, the adapter's weights or the mask do: see the notes."""
        return self.trained_mask is not None or self.keys_values.requires_grad

    @property
    def window(self) -> Window:
        """The part of sampling in which it is active."""
        return Window(self.start, self.end, self.end_exclusive)

    @property
    def digest(self) -> str:
        """The SHA-256 of all that it is, tensors included."""
        values, tensors = self.state()
        sha = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        for name in sorted(tensors):
            tensor = tensors[name].detach().cpu().contiguous()
            sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()

    def bind(self, table: LayerTable, index: int = 0) -> BoundImagePrompt:
        """Fit it to a UNet; see ``Patch.bind``."""
        return BoundImagePrompt(self, table)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Everything it is: plain values for JSON, and tensors."""
        values: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_PLAIN
        }
        values["weight"] = self.weight.to_json()
        values["pictures"] = self.keys_values.pictures
        values["negatives"] = self.keys_values.negatives
        values["own_tokens"] = self.keys_values.own_tokens
        values["parts"], tensors = parts_state(self.keys_values.parts)
        mask = self.mask if self.trained_mask is None else to_mask(self.trained_mask)
        return values, tensors if mask is None else {"mask": mask, **tensors}

    @classmethod
    def from_state(cls, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make it again from what ``state`` gave."""
        options = with_names_of_today(values)
        parts = parts_from_state(options.pop("parts"), tensors)
        counts = options.pop("pictures"), options.pop("negatives")
        keys_values = KeysValues(*counts, parts, options.pop("own_tokens", 0))
        options["weight"] = Weight.from_json(options["weight"])
        self = cls.__new__(cls)
        self._set(keys_values, mask=tensors.get("mask"), **options)
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ImagePrompt) or other.type_name != self.type_name:
            return NotImplemented
        if self is other:
            return True
        names = [f.name for f in fields(self) if f.name not in ("mask", "trained_mask")]
        if any(getattr(self, name) != getattr(other, name) for name in names):
            return False
        if self.mask is None or other.mask is None:
            return self.mask is other.mask
        mine, theirs = (to_mask(prompt.mask) for prompt in (self, other))
        return mine.shape == theirs.shape and torch.equal(mine, theirs)

    def __hash__(self) -> int:
        return hash((self.keys_values, self.weight, self.start, self.end, self.scaling))

    def __repr__(self) -> str:
        kv = self.keys_values
        rows = f"{kv.pictures}+{kv.negatives} × {kv.tokens} tokens"
        dtype = str(kv.dtype).removeprefix("torch.")
        parts = [
            f"<{self.source or 'keys and values'}>",
            f"<{rows}, {len(kv.channels)} layers ({family_of(kv.channels)}), {dtype}>",
            short_repr(self.weight),
        ]
        if self.mask is not None:
            parts.append(f"mask=<{' × '.join(map(str, self.mask.shape))}>")
        defaults = {**_DEFAULTS, "scaling": default_scaling(self.shared_softmax)}
        del defaults["weight"], defaults["mask"]
        for name, default in defaults.items():
            value = getattr(self, name)
            if value != default:
                parts.append(f"{name}={dict(value) if name == 'roles' else value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"


_NOT_PLAIN = ("keys_values", "mask", "trained_mask")

# What every option is where it is not given: the constructor's own signature says it.
_DEFAULTS: dict[str, Any] = {
    name: parameter.default
    for name, parameter in inspect.signature(ImagePrompt.__init__).parameters.items()
    if parameter.default is not parameter.empty
}
