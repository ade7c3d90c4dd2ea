# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is attached to one transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from attnpatch.engine import BoundStack
from attnpatch.hosts.diffusers.patched_model import PatchedModel
from attnpatch.hosts.diffusers.transformer.calls import TransformerCalls
from attnpatch.hosts.diffusers.transformer.families import FAMILIES
from attnpatch.hosts.diffusers.transformer.patched_layer import PatchedJointLayer
from attnpatch.hosts.diffusers.transformer.sequence import Family

__all__ = ["PatchedTransformer"]


class PatchedTransformer(PatchedModel):
    """All that is attached to one transformer."""

    layer_groups: ClassVar[tuple[str, ...]] = ("joint_layers",)
    shared_softmax = trained = reduces = False

    def read_layers(self, model: Any) -> None:
        """Set its family, its table and its layers of joint attention."""
        self.family_name = next(
            base.__name__ for base in type(model).__mro__ if base.__name__ in FAMILIES
        )
        self.table = self.family.layer_table(model)
        self.spans = self.family.spans
        self.joint_layers = tuple(
            PatchedJointLayer(self, layer, model.get_submodule(layer.name)) for layer in self.table
        )

    @property
    def family(self) -> Family:
        """What is known of such transformers."""
        return FAMILIES[self.family_name]

    def make_calls(self) -> TransformerCalls:
        """Return what follows the transformer's calls."""
        return TransformerCalls(self)

    def check(self, run: BoundStack) -> None:
        """Raise TypeError where a processor does not call attention as those of diffusers do."""
        for layer in self.wanted(run):
            layer.check()

    def wanted(self, run: BoundStack) -> Sequence[PatchedJointLayer]:
        """Return the layers at which the patches may act."""
        # All of them: so a compiled transformer stays when weights, windows or layers change.
        return self.joint_layers if run.layers else ()
