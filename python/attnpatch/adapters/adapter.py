# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image adapters: from pictures, or their features, to tokens, and to keys and values."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from types import MappingProxyType

import torch

from attnpatch import _core
from attnpatch.adapters.compat import Compat, check_compat
from attnpatch.adapters.embeds import ImageEmbeds
from attnpatch.adapters.encode import (
    Negative,
    PictureEncoder,
    check_negative,
    check_takes_pictures,
    encode_nothing,
    encode_pictures,
    preprocess,
)
from attnpatch.adapters.encoders import Features, check_features
from attnpatch.adapters.inputs import (
    Faces,
    Image,
    as_face_embeddings,
    check_dtype,
    check_tokens,
    hash_tensors,
    move_weight,
)
from attnpatch.adapters.layout import Layout
from attnpatch.adapters.state_dicts import Tensors
from attnpatch.adapters.tokens import TokenOptions, TokenProjection, check_combine
from attnpatch.pictures import WHITE, Colour, Pictures
from attnpatch.shown import Shown
from attnpatch.vision import Crop


class ImageAdapter(Shown):
    """An image adapter: a projection network, and weights of keys and values for every layer.

    Made by `load_image_adapter`. Immutable: copies share it, and `to` makes a new one. It pickles
    with all its weights.

    It holds the tensors that it was made of, not copies: parameters can be trained, and are read
    whenever something is projected. Files, pickles and `digest` have values alone.

    Attributes
    ----------
    lora : mapping of str to torch.Tensor
        LoRA tensors that came along (FaceID), by their names in the checkpoint. They are kept for
        you to apply to the model; nothing here uses them.
    """

    __slots__ = ("_digest", "_image_proj", "_layout", "_project", "_sites", "_tokens", "lora")
    _shown_by = "adapter"
    lora: Mapping[str, torch.Tensor]
    _image_proj: Tensors
    _sites: list[tuple[torch.Tensor, torch.Tensor]]
    _layout: Layout
    _digest: str
    _project: _core.SiteProjections
    _tokens: TokenProjection

    def __init__(
        self,
        image_proj: Tensors,
        sites: Iterable[tuple[torch.Tensor, torch.Tensor]],
        lora: Tensors,
        layout: Layout,
        digest: str = "",
    ) -> None:
        weights, pairs = dict(image_proj), list(sites)
        values = {
            "lora": MappingProxyType(dict(lora)),
            "_image_proj": weights,
            "_sites": pairs,
            "_layout": layout,
            "_digest": digest,
            "_project": _core.SiteProjections(pairs),
            "_tokens": TokenProjection.of(layout, weights, pairs[0][0].device),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def layout(self) -> Layout:
        """Everything that was detected."""
        return self._layout

    @property
    def kind(self) -> str:
        """The row of the checkpoint table: "linear", "plus", "full_face", "faceid" and so on."""
        return self._layout.kind

    @property
    def family(self) -> str:
        """The models it fits: "sd1", "sd2", "sdxl", "kolors" or "custom"."""
        return self._layout.family

    @property
    def context_dim(self) -> int:
        """Values of an image token, as keys and values are projected from it."""
        return self._layout.context_dim

    @property
    def token_dim(self) -> int:
        """Values of a token of `get_image_embeds`; where it differs, see `ImageEmbeds.through`."""
        return self._layout.token_dim

    @property
    def tokens(self) -> int:
        """Tokens that one picture becomes (full_face: for pictures of 224 pixels)."""
        return self._layout.tokens

    @property
    def takes(self) -> tuple[Features, ...]:
        """What `get_image_embeds` wants, one entry for each input."""
        return self._layout.takes

    @property
    def embed_dim(self) -> int:
        """Values of one feature of the (first) input."""
        return self._layout.takes[0].size

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels of every patched layer, in checkpoint order."""
        return self._layout.channels

    @property
    def site_count(self) -> int:
        """Number of patched layers."""
        return len(self._layout.channels)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._sites[0][0].device

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype, which tokens, keys and values get too."""
        return self._sites[0][0].dtype

    @property
    def digest(self) -> str:
        """SHA-256 of the tensors as they were read: the same from `.bin` and `.safetensors`."""
        if not self._digest:
            object.__setattr__(self, "_digest", hash_tensors(self._all_tensors()))
        return self._digest

    preprocess = staticmethod(preprocess)

    def encode(
        self,
        pictures: Pictures,
        encoder: PictureEncoder,
        *,
        negative: Negative = "zeros",
        faces: Faces | None = None,
        crop: Crop = "center",
        background: Colour = WHITE,
        combine: str | None = "concat",
        shortcut_scale: float = 1.0,
        compat: Compat | None = None,
    ) -> ImageEmbeds:
        """Make image tokens of pictures.

        Parameters
        ----------
        pictures : picture, or list or tuple of pictures
            Files, pictures of Pillow, arrays or tensors, as for `attnpatch.vision.clip_preprocess`.
        encoder : callable
            The CLIP vision model that the adapter was trained with (`takes` says which): a
            ``CLIPVisionModelWithProjection`` of transformers, whose config says the pictures' size,
            or any function of float32 (B, 3, 224, 224) that gives an object with ``image_embeds``
            or ``hidden_states``, whichever the adapter takes. It runs without gradients, on its
            device and in its dtype.
        negative : {"zeros", "black"}
            What the negative prompt of an adapter of hidden states is encoded from: zeros after
            normalisation, as adapters are trained and as diffusers does, or a black picture before
            it, as ComfyUI's node packs do. Of pooled and face embeddings it is zeros in any case.
        faces : optional
            For FaceID plus alone, which needs them beside the pictures: faces of
            `attnpatch.faces`, or their embeddings (512,) or (P, 512); one, or one a picture.
        crop : {"center", "top", "bottom", "left", "right", "pad"}
            Which square of a picture to keep.
        background : (int, int, int)
            What lies behind transparent pixels.
        combine, shortcut_scale, compat
            As for `get_image_embeds`.

        Returns
        -------
        ImageEmbeds
            As `get_image_embeds` gives them.

        Raises
        ------
        ValueError
            The adapter takes faces alone, `faces` is missing or too much, another `negative`, or
            what `get_image_embeds` and the reader of pictures refuse.
        TypeError
            An encoder that is none, or whose output lacks what the adapter takes.
        """
        check_takes_pictures(self.takes, self.kind, faces)
        check_negative(negative)
        takes = self.takes[-1]
        features = encode_pictures(pictures, encoder, takes.form, crop=crop, background=background)
        check_features("encoder", features.shape, takes, self.kind)
        hidden = takes.form == "hidden"
        return self.get_image_embeds(
            features if faces is None else (as_face_embeddings(faces, self.takes[0]), features),
            encode_nothing(encoder, takes.form, negative) if hidden else None,
            combine=combine,
            shortcut_scale=shortcut_scale,
            compat=compat,
        )

    def get_image_embeds(
        self,
        image: Image,
        negative: Image | None = None,
        *,
        combine: str | None = "concat",
        shortcut_scale: float = 1.0,
        compat: Compat | None = None,
    ) -> ImageEmbeds:
        """Make image tokens of an encoder's features.

        Parameters
        ----------
        image : array
            What `takes` says: pooled CLIP embeddings (P, size), CLIP hidden states (P, L, size), or
            face embeddings (P, 512). Kinds "faceid_plus" and "faceid_plus_v2": a pair of face
            embeddings and hidden states. Tensors of any float dtype, numpy arrays, or the output of
            a CLIP vision model of transformers or ComfyUI, of which the right part is taken.
        negative : array, optional
            The same for the negative prompt, one row or P. Default: zeros, as linear and FaceID
            adapters are trained with. For "plus", "full_face" and FaceID plus the negative should
            be the hidden states of an empty picture, which only the encoder can tell (`encode` asks
            it); zeros then stand in for them and a warning is logged. FaceID plus: a pair, in which
            the first may be None, or the hidden states alone.
        combine : str or None
            What several pictures become. "concat": one prompt with the tokens of all. "add",
            "subtract" (the mean of the others from the first), "average", "norm average" (each
            feature divided by its own norm first), "max", "min": one picture's worth of features,
            combined before the projection. "batch" or None: kept apart, one row each, for a batch
            of pictures with an image prompt each.
        shortcut_scale : float
            Weight of the hidden states' part in "faceid_plus_v2"; no other kind has one.
        compat : str, optional
            A program to imitate where it errs. "comfyui_ipadapter_plus", "comfyui_instantid":
            "norm average" divides by the norm over the pictures, and of the negatives only the
            first counts, as it is. "fooocus": nothing differs here.

        Returns
        -------
        ImageEmbeds
            Tokens in the adapter's dtype on its device: cond (P or 1, T, context) and uncond.

        Raises
        ------
        ValueError
            Features of another encoder (both sizes and what would fit), non-finite values, an
            unknown mode.
        TypeError
            Not an array.
        """
        combine = check_combine(combine)
        options = TokenOptions(combine, shortcut_scale, check_compat(compat))
        cond, uncond, pictures = self._tokens.make(image, negative, options)
        metadata = {
            "kind": self.kind,
            "family": self.family,
            "context_dim": self.token_dim,
            "tokens": self.tokens,
            "pictures": pictures,
            "combine": combine,
            "uncond": "zeros" if negative is None else "given",
            "digest": self.digest,
        }
        return ImageEmbeds(cond, uncond, {key: str(value) for key, value in metadata.items()})

    def project_sites(self, tokens: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of image tokens for every layer, in checkpoint order.

        Parameters
        ----------
        tokens : torch.Tensor
            (R, M, context), any float dtype.

        Returns
        -------
        list of (k, v)
            (R, M, channels of the layer) each, in the adapter's dtype on its device.

        Raises
        ------
        ValueError
            Tokens of another size than the adapter's.
        """
        check_tokens(tokens, self._layout)
        return self._project(tokens.to(self.device))

    def project_site(self, site: int, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of image tokens for one layer, as `project_sites` gives them.

        Parameters
        ----------
        site : int
            Which layer, in checkpoint order.
        tokens : torch.Tensor
            (R, M, context), any float dtype.
        """
        check_tokens(tokens, self._layout)
        return _core.SiteProjections([self._sites[site]])(tokens.to(self.device))[0]

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> ImageAdapter:
        """Give the same adapter on another device or in another dtype; the digest stays.

        Raises
        ------
        ValueError
            A dtype in which nothing can be computed, or that has no room for some weight; or
            weights that require a gradient would have to be copied, while gradients are enabled:
            the copies would not follow an optimiser.
        """
        check_dtype(dtype)
        move = functools.partial(move_weight, device=device, dtype=dtype)
        digest = self._digest_now()
        return ImageAdapter(
            {name: move(f"image_proj.{name}", t) for name, t in self._image_proj.items()},
            [
                (move(f"layer {index}'s keys", key), move(f"layer {index}'s values", value))
                for index, (key, value) in enumerate(self._sites)
            ],
            {name: move(name, tensor) for name, tensor in self.lora.items()},
            self._layout,
            digest,
        )

    def state_dict(self) -> dict[str, Tensors]:
        """Give all tensors as published checkpoints have them: `image_proj` and `ip_adapter`."""
        sites = {
            f"{2 * index + 1}.to_{letter}_ip.weight": weight
            for index, pair in enumerate(self._sites)
            for letter, weight in zip("kv", pair, strict=True)
        }
        return {"image_proj": dict(self._image_proj), "ip_adapter": sites | dict(self.lora)}

    def _all_tensors(self) -> Tensors:
        tensors = {f"image_proj.{name}": tensor for name, tensor in self._image_proj.items()}
        for index, (key, value) in enumerate(self._sites):
            tensors[f"ip_adapter.{index:03}.k"] = key
            tensors[f"ip_adapter.{index:03}.v"] = value
        return tensors | {f"lora.{name}": tensor for name, tensor in self.lora.items()}

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, ImageAdapter):
            return self is other or NotImplemented
        mine, theirs = ((a._layout, a.dtype, a.device) for a in (self, other))
        return mine == theirs and self._digest_now() == other._digest_now()

    def _digest_now(self) -> str:
        """Hash the tensors as they are now, where they may change."""
        tensors = self._all_tensors()
        trained = any(tensor.requires_grad for tensor in tensors.values())
        return hash_tensors(tensors) if trained else self.digest

    def __hash__(self) -> int:
        return hash((self._layout, self.dtype, self.device))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an ImageAdapter is immutable: {name} can not be set")

    def __deepcopy__(self, memo: object) -> ImageAdapter:
        return self

    def __copy__(self) -> ImageAdapter:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        image_proj = {name: tensor.detach() for name, tensor in self._image_proj.items()}
        sites = [(key.detach(), value.detach()) for key, value in self._sites]
        lora = {name: tensor.detach() for name, tensor in self.lora.items()}
        return ImageAdapter, (image_proj, sites, lora, self._layout, self._digest_now())

    def __repr__(self) -> str:
        return (
            f"ImageAdapter({self.kind}, {self.family}: {self.site_count} layers, {self.tokens} "
            f"tokens of {self.context_dim}, takes {' and '.join(map(str, self.takes))}, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device})"
        )
