# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Identities: a person's face that pictures keep, as InstantID does (arXiv 2401.07519)."""

from __future__ import annotations

from typing import Any, ClassVar, TypeGuard, cast

from attnpatch.adapters.embeds import ImageEmbeds
from attnpatch.adapters.identity import IdentityModel, as_identity_adapter, get_identity_embeds
from attnpatch.adapters.inputs import Faces
from attnpatch.engine.weights import WeightLike
from attnpatch.patches.image_prompt.keys_values import ImageTokens
from attnpatch.patches.image_prompt.prompt import ImagePrompt

__all__ = ["Identity"]


class Identity(ImagePrompt):
    """A person whose face a UNet attends to beside its text: InstantID, or a FaceID adapter.

    The same at work as an `ImagePrompt`, made of faces; both stand in one model together. InstantID
    has 70 layers, those of SDXL, and wants its ControlNet beside it: see `draw_keypoints` and the
    hosts' own helpers.

    Parameters
    ----------
    adapter
        What ``load_image_adapter`` gives, or any form that ``as_identity_adapter`` reads.
    face
        A face of ``attnpatch.faces``, or several of one person; embeddings (512,) or (faces, 512);
        or ready tokens, as ``get_identity_embeds`` makes and ``load_embeds`` reads them.
    weight
        A number (usual are -1 to 3), or anything of the grammar of ``Weight``. 0: nothing is done.
    noise, combine
        Of ``get_identity_embeds``; they have no meaning for ready tokens.
    **options
        mask, start, end and the other options of ``ImagePrompt``.

    Raises
    ------
    ValueError
        For what does not fit together, naming both sides.

    Examples
    --------
    >>> from attnpatch.faces import FaceAnalysis
    >>> face = FaceAnalysis("antelopev2").pick(photograph)[0]
    >>> patched = patch_model(pipeline, [Identity(adapter, face, 0.8, noise=0.35)])
    """

    type_name: ClassVar[str] = "identity"

    def __init__(
        self,
        adapter: IdentityModel,
        face: Faces | ImageTokens,
        weight: WeightLike = 0.8,
        *,
        noise: float = 0.0,
        combine: str = "average",
        **options: Any,
    ) -> None:
        adapter = as_identity_adapter(adapter)
        if not _is_tokens(face):
            compat = options.get("compat")
            face = get_identity_embeds(
                adapter, cast("Faces", face), noise=noise, combine=combine, compat=compat
            )
        elif noise != 0.0 or combine != "average":
            raise ValueError("noise, combine: ready tokens have theirs already")
        super().__init__(adapter, face, weight, **options)


def _is_tokens(face: Faces | ImageTokens) -> TypeGuard[ImageTokens]:
    """Whether it is image tokens already, no face or picture."""
    return isinstance(face, ImageEmbeds) or (hasattr(face, "cond") and hasattr(face, "uncond"))
