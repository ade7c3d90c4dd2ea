# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The adapter's networks under the names and signatures that Fooocus has for them.

They are torch modules that hold the weights; the arithmetic is the adapters' own. Weights stay
where they are: each layer's are brought to the input's device for its one product, so that an
adapter of 700 MB needs no room beside the UNet. Weights start as zeros, without a random generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnpatch._core import LinearProjection, MlpProjection, Resampler
from attnpatch.adapters.checkpoints import read_checkpoint
from attnpatch.adapters.layout import Layout, detect
from attnpatch.engine import layer_table

SD_V12_CHANNELS = [channels for channels in layer_table("sd1").channels for _ in "kv"]
SD_XL_CHANNELS = [channels for channels in layer_table("sdxl").channels for _ in "kv"]

_SDXL_CONTEXT = 2048
_NETWORKS = {"linear": LinearProjection, "token mlp": MlpProjection, "resampler": Resampler}


class _Projection(nn.Module):
    """Weights of an image projection under the checkpoint's names, and the network they make."""

    def __init__(self, network: type, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._network = network
        for name, weight in weights.items():
            self._add(name, weight)

    def _add(self, name: str, weight: Tensor) -> None:
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder._modules[part]
        holder.register_parameter(last, nn.Parameter(weight, requires_grad=False))

    def forward(self, features: Tensor) -> Tensor:
        """Return the image tokens (B, T, context) of features, in their dtype and device."""
        weights = {name: weight.to(features) for name, weight in self.state_dict().items()}
        return self._network(weights)(features).to(features)


class ImageProjModel(_Projection):
    """Linear, reshape to tokens, LayerNorm: (B, clip_embeddings_dim) -> (B, tokens, context)."""

    def __init__(
        self,
        cross_attention_dim: int = 1024,
        clip_embeddings_dim: int = 1024,
        clip_extra_context_tokens: int = 4,
    ) -> None:
        rows = clip_extra_context_tokens * cross_attention_dim
        weights = {
            "proj.weight": torch.zeros(rows, clip_embeddings_dim),
            "proj.bias": torch.zeros(rows),
            "norm.weight": torch.ones(cross_attention_dim),
            "norm.bias": torch.zeros(cross_attention_dim),
        }
        super().__init__(_NETWORKS["linear"], weights)
        self.cross_attention_dim = cross_attention_dim
        self.clip_extra_context_tokens = clip_extra_context_tokens


class _Streamed(nn.Linear):
    """A bias-free linear layer whose weight follows its input."""

    def __init__(self, columns: int, rows: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = columns, rows
        self.weight = nn.Parameter(torch.zeros(rows, columns), requires_grad=False)
        self.register_parameter("bias", None)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.weight.to(tokens))


class To_KV(nn.Module):
    """The projections of image tokens to the keys and values of every layer, k before v.

    Parameters
    ----------
    cross_attention_dim
        Size of an image token; 2048 is SDXL.
    channels
        Channels of each projection, where they are not those of SD1.x or SDXL.
    """

    def __init__(self, cross_attention_dim: int, channels: Sequence[int] | None = None) -> None:
        super().__init__()
        if channels is None:
            sdxl = cross_attention_dim == _SDXL_CONTEXT
            channels = SD_XL_CHANNELS if sdxl else SD_V12_CHANNELS
        self.to_kvs = nn.ModuleList(_Streamed(cross_attention_dim, rows) for rows in channels)

    def load_state_dict_ordered(self, sd: Mapping[str, Tensor]) -> None:
        """Take the weights ``{i}.to_k_ip.weight`` and ``{i}.to_v_ip.weight`` by growing i.

        Raises
        ------
        ValueError
            If they are not as many, or not of the shapes, that this module has.
        """
        weights = _ordered(sd)
        if len(weights) != len(self.to_kvs):
            raise ValueError(
                f"sd: {len(weights)} key and value projections, expected {len(self.to_kvs)}"
            )
        for (name, weight), layer in zip(weights, self.to_kvs, strict=True):
            if weight.shape != layer.weight.shape:
                raise ValueError(
                    f"sd: {name} has shape {tuple(weight.shape)}, "
                    f"expected {tuple(layer.weight.shape)}"
                )
            layer.weight = nn.Parameter(weight, requires_grad=False)


def _ordered(sd: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the projections by number, k before v."""
    parts = []
    for name, weight in sd.items():
        number, _, rest = name.partition(".")
        if rest in ("to_k_ip.weight", "to_v_ip.weight"):
            parts.append((int(number), rest, name, weight))
    return [(name, weight) for _, _, name, weight in sorted(parts, key=lambda item: item[:2])]


class IPAdapterModel(nn.Module):
    """An adapter: its image projection and its key and value projections.

    Parameters
    ----------
    state_dict
        ``{"image_proj": {...}, "ip_adapter": {...}}``.
    plus
        Whether it looks at the image encoder's hidden states instead of its embedding.
    cross_attention_dim, clip_embeddings_dim, clip_extra_context_tokens
        Size of an image token, of the encoder's features, and number of image tokens.
    sdxl_plus
        Accepted for the host's sake; the tensors say it all.

    For all but `state_dict`, None is whatever the tensors say.

    Raises
    ------
    ValueError
        If the tensors say otherwise, do not fit together, or are of an adapter for faces.
    """

    def __init__(
        self,
        state_dict: Mapping[str, object],
        plus: bool | None,
        cross_attention_dim: int | None = 768,
        clip_embeddings_dim: int | None = 1024,
        clip_extra_context_tokens: int | None = 4,
        sdxl_plus: bool | None = False,
    ) -> None:
        super().__init__()
        checkpoint = read_checkpoint(state_dict)
        layout = detect(
            {name: tuple(weight.shape) for name, weight in checkpoint.image_proj.items()},
            [(tuple(key.shape), tuple(value.shape)) for key, value in checkpoint.sites],
        )
        if layout.structure not in _NETWORKS or layout.takes[0].form == "face":
            raise ValueError(
                f"state_dict: an adapter of kind {layout.kind} takes {layout.takes[0]}, "
                "but the host has features of CLIP vision only"
            )
        takes = layout.takes[0]
        for name, told, held in (
            ("plus", plus, takes.form == "hidden"),
            ("cross_attention_dim", cross_attention_dim, layout.context_dim),
            ("clip_embeddings_dim", clip_embeddings_dim, takes.size),
            ("clip_extra_context_tokens", clip_extra_context_tokens, layout.tokens),
        ):
            if told is not None and told != held:
                raise ValueError(f"{name}: given {told}, but the tensors of state_dict say {held}")
        self.plus = takes.form == "hidden"
        self.sdxl_plus = sdxl_plus
        self.context_dim = layout.context_dim
        self.tokens = layout.tokens
        self.embed_dim = takes.size
        self.image_proj_model = _make_projection(layout, checkpoint.image_proj)
        with torch.device("meta"):  # no room for weights that are replaced at once
            self.ip_layers = To_KV(layout.context_dim, [c for c in layout.channels for _ in "kv"])
        weights = [weight for pair in checkpoint.sites for weight in pair]
        for layer, weight in zip(self.ip_layers.to_kvs, weights, strict=True):
            layer.weight = nn.Parameter(weight, requires_grad=False)


def _make_projection(layout: Layout, weights: Mapping[str, Tensor]) -> _Projection:
    if layout.structure != "linear":
        return _Projection(_NETWORKS[layout.structure], weights)
    module = ImageProjModel(layout.context_dim, layout.takes[0].size, layout.tokens)
    module.load_state_dict(weights, assign=True)
    return module.requires_grad_(False)
