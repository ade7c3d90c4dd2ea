# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is attached to one UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attnpatch.engine import IMAGE, TEXT, BoundStack
from attnpatch.hosts.diffusers.call_hooks import CallHooks
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.hosts.diffusers.unet.layers import read_layer_table, spatial_transformers
from attnpatch.hosts.diffusers.unet.patched_layer import (
    CrossLayer,
    FeatureShape,
    PatchedLayer,
    SelfLayer,
)
from attnpatch.hosts.diffusers.unet.processor import is_perturbed, put_originals_back

__all__ = ["PatchedUNet"]


class PatchedUNet(PatchedModel):
    """All that is attached to one UNet."""

    layer_groups: ClassVar[tuple[str, ...]] = ("cross_layers", "self_layers")

    def read_layers(self, model: Any) -> None:
        """Set its table, and its layers over text and over the image itself."""
        self.table = read_layer_table(model)
        blocks = [model.get_submodule(layer.name) for layer in self.table]
        widths = {getattr(block.attn2, "cross_attention_dim", None) for block in blocks}
        self.context_channels = widths.pop() if len(widths) == 1 else None
        self.cross_layers, self.self_layers = (
            tuple(
                layer_type(self, layer, block)
                for layer, block in zip(self.table, blocks, strict=True)
            )
            for layer_type in (CrossLayer, SelfLayer)
        )

    def make_calls(self) -> CallHooks:
        """Return what follows the UNet's calls."""
        return CallHooks(self)

    def wanted(self, run: BoundStack) -> Sequence[PatchedLayer]:
        """Return the layers at which the patches may act."""
        # All of cross-attention: so a compiled UNet stays when weights, windows or layers change.
        wanted: list[PatchedLayer] = list(self.cross_layers) if run.layers_over(TEXT) else []
        return wanted + [self.self_layers[layer.index] for layer in run.layers_over(IMAGE)]

    def more_hooks(self, model: Any) -> tuple[Any, ...]:
        """Note the sizes of features on their way."""
        return tuple(
            module.register_forward_pre_hook(FeatureShape(self, spatial), with_kwargs=True)
            for spatial, module in spatial_transformers(model, self.table).items()
        )

    def clean(self, model: Any) -> None:
        """Put back the originals of processors that the UNet had put away."""
        put_originals_back(getattr(model, "original_attn_processors", None) or {})

    def take_over_perturbed(self) -> tuple[PatchedLayer, ...]:
        """Take over, for one call, what a pipeline perturbs itself: degraded passes must not be."""
        perturbed = [
            layer
            for layer in self.self_layers
            if layer.patched_processor is None
            and is_perturbed(getattr(layer.module, "processor", None))
        ]
        for layer in perturbed:
            layer.take_over()
        return tuple(perturbed)
