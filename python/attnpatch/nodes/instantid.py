# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Nodes for InstantID (arXiv 2401.07519): faces found, identities in models, and its ControlNet."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

import attnpatch
from attnpatch.adapters import ImageEmbeds, as_identity_adapter, get_identity_embeds
from attnpatch.adapters.compat import Compat
from attnpatch.faces import (
    FaceNotFoundError,
    as_face_analysis,
    draw_keypoints,
    pick_faces,
)
from attnpatch.nodes import comfy
from attnpatch.nodes import inputs as common
from attnpatch.nodes.identity_control import add_control
from attnpatch.nodes.ipadapter.faces import load_analyser
from attnpatch.nodes.ipadapter.sockets import load_adapter
from attnpatch.nodes.spec import Input, NodeSpec, Output
from attnpatch.patches import Identity

__all__ = ["NODES"]

logger = logging.getLogger("attnpatch")

_PROVIDERS = ("CPU", "CUDA", "ROCM", "CoreML")
_CATEGORY = "InstantID"
_NOISE = 0.35  # of the node that has no input for it
_ROLES = {2: "cond"}  # the third is the picture's own with two guidance scales, if none is named


def _files() -> list[str]:
    comfy.register_folder("instantid")
    return comfy.files_in("instantid")


def _load(*, instantid_file: str) -> tuple[Any]:
    path = comfy.path_of("instantid", instantid_file, "instantid_file")
    return (load_adapter(path, "instantid"),)


def _analyse(*, provider: str) -> tuple[Any]:
    return (load_analyser("antelopev2"),)


def _preprocess(*, faceanalysis: Any, image: Tensor) -> tuple[Tensor]:
    drawn = _draw(faceanalysis, image)
    if drawn is None:
        logger.warning("image: no face detected, the keypoints' picture is black")
        drawn = torch.zeros_like(image)
    return (drawn,)


def _draw(analysis: Any, image: Tensor) -> Tensor | None:
    """Draw the keypoints of each picture's largest face, (faces, H, W, 3); None: there is none."""
    height, width = image.shape[1:3]
    try:
        faces = pick_faces(
            as_face_analysis(analysis), image[..., :3], on_no_face="skip", embeddings=False
        )
    except FaceNotFoundError:
        return None
    pictures = [torch.from_numpy(draw_keypoints(face, height, width)) for face in faces]
    return torch.stack(pictures).float() / 255


def _embed(
    model: Any,
    instantid: Any,
    insightface: Any,
    image: Tensor,
    *,
    noise: float,
    combine: str = "average",
    compat: Compat | None = None,
) -> tuple[Any, ImageEmbeds]:
    """Return the adapter where the host computes, and the tokens of the faces in the pictures."""
    try:
        faces = pick_faces(as_face_analysis(insightface), image[..., :3], on_no_face="skip")
    except FaceNotFoundError as error:
        raise FaceNotFoundError(f"Reference Image: {error}") from None
    adapter = getattr(instantid, "adapter", None) or as_identity_adapter(instantid)
    adapter = adapter.to(comfy.compute_device(), comfy.compute_dtype(model))
    embeds = get_identity_embeds(adapter, faces, noise=noise, combine=combine, compat=compat)
    return adapter, embeds


def _patch(
    model: Any,
    adapter: Any,
    embeds: ImageEmbeds,
    weight: float,
    window: tuple[float, float],
    mask: Tensor | None,
    compat: Compat | None = None,
) -> Any:
    identity = Identity(
        adapter,
        embeds,
        weight,
        start=window[0],
        end=window[1],
        mask=mask,
        roles=_ROLES,
        repeat_last=True,
        compat=compat,
    )
    return attnpatch.patch_model(model, [identity])


def _patch_attention(
    *,
    instantid: Any,
    insightface: Any,
    image: Tensor,
    model: Any,
    weight: float,
    start_at: float,
    end_at: float,
    noise: float,
    mask: Tensor | None,
) -> tuple[Any, dict[str, Tensor]]:
    adapter, embeds = _embed(model, instantid, insightface, image, noise=noise)
    tokens = {"cond": embeds.cond, "uncond": embeds.uncond}
    if weight == 0:
        return model, tokens
    return _patch(model, adapter, embeds, weight, (start_at, end_at), mask), tokens


def _apply(
    *,
    instantid: Any,
    insightface: Any,
    control_net: Any,
    image: Tensor,
    model: Any,
    positive: Any,
    negative: Any,
    start_at: float,
    end_at: float,
    weight: float = 0.8,
    ip_weight: float | None = None,
    cn_strength: float | None = None,
    noise: float = _NOISE,
    combine_embeds: str = "average",
    image_kps: Tensor | None,
    mask: Tensor | None,
    reference_quirks: bool,
) -> tuple[Any, Any, Any]:
    compat: Compat | None = "comfyui_instantid" if reference_quirks else None
    adapter, embeds = _embed(
        model, instantid, insightface, image,
        noise=noise, combine=combine_embeds, compat=compat,
    )  # fmt: skip
    hint = _draw(insightface, image[:1] if image_kps is None else image_kps)
    if hint is None:
        # A picture of keypoints shows no face to a detector: it is taken as it is.
        what = "image: no face for the keypoints" if image_kps is None else "image_kps: no face"
        logger.warning("%s detected", what)
        hint = torch.zeros_like(image[:1]) if image_kps is None else image_kps
    window = (start_at, end_at)
    strength = weight if ip_weight is None else ip_weight
    if strength != 0:
        model = _patch(model, adapter, embeds, strength, window, mask, compat)
    strength = weight if cn_strength is None else cn_strength
    positive, negative = add_control(
        control_net,
        hint,
        (positive, negative),
        (embeds.cond, embeds.uncond),
        strength,
        window,
        mask,
    )
    return model, positive, negative


def _apply_control(
    *,
    face_embeds: dict[str, Tensor],
    control_net: Any,
    image_kps: Tensor,
    positive: Any,
    negative: Any,
    strength: float,
    start_at: float,
    end_at: float,
    mask: Tensor | None,
) -> tuple[Any, Any]:
    if strength == 0:
        return positive, negative
    tokens = (face_embeds["cond"], face_embeds["uncond"])
    window = (start_at, end_at)
    return add_control(control_net, image_kps, (positive, negative), tokens, strength, window, mask)


_INSTANTID = Input(
    id="instantid",
    type="INSTANTID",
    tooltip="InstantID's adapter from its loader, ours or another pack's.",
)
_INSIGHTFACE = Input(
    id="insightface",
    type="FACEANALYSIS",
    tooltip="Finds and recognises faces: ours, or another pack's InsightFace.",
)
_CONTROL_NET = Input(id="control_net", type="CONTROL_NET", tooltip="InstantID's own ControlNet.")
_IMAGE = common.image(what="Pictures of one person's face; of several the largest face counts.")
_POSITIVE = Input(id="positive", type="CONDITIONING", tooltip="What the picture is to show.")
_NEGATIVE = Input(id="negative", type="CONDITIONING", tooltip="What it is not to show.")
_MASK = Input(id="mask", type="MASK", tooltip="Where in the result the person is.", optional=True)
_IMAGE_KPS = Input(
    id="image_kps",
    type="IMAGE",
    tooltip="Where the face is to be: a picture that shows one there, or one of keypoints. Without "
    "it: where the first reference picture has it.",
    optional=True,
)
_QUIRKS = Input(
    id="reference_quirks",
    type="BOOLEAN",
    default=False,
    tooltip="Do as ComfyUI_InstantID where it errs: leave the middle block alone, take norms over "
    "pictures in 'norm average'.",
    optional=True,
)
_WHAT_WEIGHT = "How strongly the face is kept; 0: not at all, below 0: its opposite."
_MODEL_OUT = Output("MODEL", "MODEL", "The model that keeps the face.")
_POSITIVE_OUT = Output("CONDITIONING", "positive", "What the picture shows, with the ControlNet.")
_NEGATIVE_OUT = Output("CONDITIONING", "negative", "What it does not show, with the ControlNet.")


def _strength(name: str, default: float, maximum: float, what: str) -> Input:
    return common.weight(name, default=default, minimum=0.0, maximum=maximum, step=0.01, what=what)


def _noise(default: float) -> Input:
    return Input(
        id="noise",
        type="FLOAT",
        default=default,
        minimum=0.0,
        maximum=1.0,
        step=0.1,
        tooltip="Noise in the negative's face, against results that look burnt.",
    )


_SOURCES = (_INSTANTID, _INSIGHTFACE, _CONTROL_NET, _IMAGE, common.MODEL, _POSITIVE, _NEGATIVE)
_WINDOW = (common.START_AT, common.END_AT)

NODES = (
    NodeSpec(
        id="InstantIDModelLoader",
        title="Load InstantID Model",
        category=_CATEGORY,
        description="Loads InstantID's adapter for SDXL.",
        inputs=(
            Input(
                id="instantid_file",
                type="COMBO",
                choices=_files,
                tooltip="A file in models/instantid.",
            ),
        ),
        outputs=(Output("INSTANTID", "INSTANTID", "The adapter."),),
        run=_load,
        function="load_model",
    ),
    NodeSpec(
        id="InstantIDFaceAnalysis",
        title="InstantID Face Analysis",
        category=_CATEGORY,
        description="Loads the networks that find and recognise faces, insightface's antelopev2, "
        "which may be used for research only. Needs neither insightface nor onnxruntime.",
        inputs=(
            Input(
                id="provider",
                type="COMBO",
                choices=_PROVIDERS,
                tooltip="Kept for older workflows: the networks run on the CPU.",
            ),
        ),
        outputs=(Output("FACEANALYSIS", "FACEANALYSIS", "Finds and recognises faces."),),
        run=_analyse,
        function="load_insight_face",
    ),
    NodeSpec(
        id="FaceKeypointsPreprocessor",
        title="Face Keypoints Preprocessor",
        category=_CATEGORY,
        description="Draws the five keypoints of each picture's largest face.",
        inputs=(
            Input(id="faceanalysis", type="FACEANALYSIS", tooltip=_INSIGHTFACE.tooltip),
            common.image(what="Pictures that show a face."),
        ),
        outputs=(Output("IMAGE", "IMAGE", "The keypoints, on black."),),
        run=_preprocess,
        function="preprocess_image",
    ),
    NodeSpec(
        id="ApplyInstantID",
        title="Apply InstantID",
        category=_CATEGORY,
        description="Keeps the face of a picture, by attention and by a ControlNet.",
        inputs=(
            *_SOURCES,
            _strength("weight", 0.8, 5.0, _WHAT_WEIGHT),
            *_WINDOW,
            _IMAGE_KPS,
            _MASK,
            _QUIRKS,
        ),
        outputs=(_MODEL_OUT, _POSITIVE_OUT, _NEGATIVE_OUT),
        run=_apply,
        function="apply_instantid",
    ),
    NodeSpec(
        id="ApplyInstantIDAdvanced",
        title="Apply InstantID Advanced",
        category=_CATEGORY,
        description="Keeps the face of a picture, with a weight for attention and one for the "
        "ControlNet.",
        inputs=(
            *_SOURCES,
            _strength("ip_weight", 0.8, 3.0, _WHAT_WEIGHT),
            _strength("cn_strength", 0.8, 10.0, "How strong the ControlNet is."),
            *_WINDOW,
            _noise(0.0),
            Input(
                id="combine_embeds",
                type="COMBO",
                choices=("average", "norm average", "concat"),
                default="average",
                tooltip="What several pictures of one face become: a mean, a mean after each is "
                "divided by its length, or the tokens of all.",
            ),
            _IMAGE_KPS,
            _MASK,
            _QUIRKS,
        ),
        outputs=(_MODEL_OUT, _POSITIVE_OUT, _NEGATIVE_OUT),
        run=_apply,
        function="apply_instantid",
    ),
    NodeSpec(
        id="InstantIDAttentionPatch",
        title="InstantID Patch Attention",
        category=_CATEGORY,
        description="Keeps the face of a picture by attention alone.",
        inputs=(
            _INSTANTID,
            _INSIGHTFACE,
            _IMAGE,
            common.MODEL,
            common.weight(default=1.0, minimum=-1.0, maximum=3.0, step=0.01, what=_WHAT_WEIGHT),
            *_WINDOW,
            _noise(0.0),
            _MASK,
        ),
        outputs=(
            _MODEL_OUT,
            Output("FACE_EMBEDS", "FACE_EMBEDS", "The face's tokens, for its ControlNet."),
        ),
        run=_patch_attention,
        function="patch_attention",
    ),
    NodeSpec(
        id="ApplyInstantIDControlNet",
        title="InstantID Apply ControlNet",
        category=_CATEGORY,
        description="Keeps a face in its place by InstantID's ControlNet.",
        inputs=(
            Input(id="face_embeds", type="FACE_EMBEDS", tooltip="From InstantID Patch Attention."),
            _CONTROL_NET,
            common.image("image_kps", "The picture of keypoints."),
            _POSITIVE,
            _NEGATIVE,
            _strength("strength", 1.0, 10.0, "How strong the ControlNet is."),
            *_WINDOW,
            _MASK,
        ),
        outputs=(_POSITIVE_OUT, _NEGATIVE_OUT),
        run=_apply_control,
        function="apply_controlnet",
    ),
)
