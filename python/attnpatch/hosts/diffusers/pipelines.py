# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""For each pipeline of diffusers that has a UNet: how its rows are laid out, or why it is refused.

``docs/pipelines.md`` is made from these tables.
"""

from __future__ import annotations

from attnpatch.hosts.diffusers.layouts import (
    Layout,
    by_count,
    cond_alone,
    excited,
    guided_by_itself,
    instructed,
    modular,
    panorama,
    perturbed,
    standard,
)

__all__ = ["LAYOUTS", "UNKNOWN_ROWS", "UNPATCHED"]


def _named(layout: Layout, names: str) -> dict[str, Layout]:
    return dict.fromkeys(names.split(), layout)


LAYOUTS: dict[str, Layout] = {
    **_named(
        standard,
        """
        StableDiffusionPipeline StableDiffusionImg2ImgPipeline StableDiffusionInpaintPipeline
        StableDiffusionDepth2ImgPipeline StableDiffusionUpscalePipeline
        StableDiffusionImageVariationPipeline
        StableUnCLIPPipeline StableUnCLIPImg2ImgPipeline
        StableDiffusionXLPipeline StableDiffusionXLImg2ImgPipeline StableDiffusionXLInpaintPipeline
        StableDiffusionControlNetPipeline StableDiffusionControlNetImg2ImgPipeline
        StableDiffusionControlNetInpaintPipeline StableDiffusionXLControlNetPipeline
        StableDiffusionXLControlNetImg2ImgPipeline StableDiffusionXLControlNetInpaintPipeline
        StableDiffusionXLControlNetUnionPipeline StableDiffusionXLControlNetUnionImg2ImgPipeline
        StableDiffusionXLControlNetUnionInpaintPipeline
        StableDiffusionAdapterPipeline StableDiffusionXLAdapterPipeline
        KolorsPipeline KolorsImg2ImgPipeline
        LatentConsistencyModelPipeline LatentConsistencyModelImg2ImgPipeline
        AnimateDiffPipeline AnimateDiffControlNetPipeline AnimateDiffSDXLPipeline
        AnimateDiffSparseControlNetPipeline AnimateDiffVideoToVideoPipeline
        AnimateDiffVideoToVideoControlNetPipeline PIAPipeline
        TextToVideoSDPipeline VideoToVideoSDPipeline I2VGenXLPipeline
        AltDiffusionPipeline AltDiffusionImg2ImgPipeline StableDiffusionLDM3DPipeline
        StableDiffusionGLIGENPipeline StableDiffusionGLIGENTextImagePipeline
        StableDiffusionInpaintPipelineLegacy StableDiffusionModelEditingPipeline
        PaintByExamplePipeline BlipDiffusionPipeline BlipDiffusionControlNetPipeline
        """,
    ),
    **_named(
        perturbed,
        """
        StableDiffusionPAGPipeline StableDiffusionPAGImg2ImgPipeline
        StableDiffusionPAGInpaintPipeline StableDiffusionControlNetPAGPipeline
        StableDiffusionControlNetPAGInpaintPipeline StableDiffusionXLPAGPipeline
        StableDiffusionXLPAGImg2ImgPipeline StableDiffusionXLPAGInpaintPipeline
        StableDiffusionXLControlNetPAGPipeline StableDiffusionXLControlNetPAGImg2ImgPipeline
        KolorsPAGPipeline AnimateDiffPAGPipeline
        """,
    ),
    **_named(
        instructed,
        "StableDiffusionInstructPix2PixPipeline StableDiffusionXLInstructPix2PixPipeline",
    ),
    "StableDiffusionPanoramaPipeline": panorama,
    "StableDiffusionSAGPipeline": guided_by_itself,
    "StableDiffusionAttendAndExcitePipeline": excited,
    "LDMTextToImagePipeline": by_count,
    **_named(
        cond_alone, "MarigoldDepthPipeline MarigoldIntrinsicsPipeline MarigoldNormalsPipeline"
    ),
    "StableDiffusionXLModularPipeline": modular,
}
"""How the rows of a pipeline's batches are laid out, by the name of its class."""


def _because(reason: str, names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


UNKNOWN_ROWS: dict[str, str] = {
    **_because(
        "its batches have rows for each concept that it edits",
        "SemanticStableDiffusionPipeline LEditsPPPipelineStableDiffusion "
        "LEditsPPPipelineStableDiffusionXL",
    ),
    "StableDiffusionPipelineSafe": "its batches have rows for a concept that is to be avoided",
    "StableDiffusionDiffEditPipeline": "it finds a mask by batches of two texts",
    "StableDiffusionPix2PixZeroPipeline": "it inverts pictures, and moves latents by attention",
    "CycleDiffusionPipeline": "its batches have rows for a source and a target",
    "StableDiffusionParadigmsPipeline": "its batches have rows for several steps",
    **_because(
        "its frames attend to each other's rows, in the order of the batch",
        "TextToVideoZeroPipeline TextToVideoZeroSDXLPipeline",
    ),
    **_because(
        "it makes sound, and its layers attend to other things than one text",
        "AudioLDMPipeline MusicLDMPipeline",
    ),
}
"""Why nobody tells what the rows of a pipeline's batches are.

Patches that tell cond and uncond apart are refused there when the pipeline runs, unless
``cond_or_uncond`` tells; others work.
"""

UNPATCHED: dict[str, str] = {
    **_because(
        "its UNet has other blocks of attention",
        """
        IFPipeline IFImg2ImgPipeline IFImg2ImgSuperResolutionPipeline IFInpaintingPipeline
        IFInpaintingSuperResolutionPipeline IFSuperResolutionPipeline
        KandinskyPipeline KandinskyImg2ImgPipeline KandinskyInpaintPipeline
        KandinskyV22Pipeline KandinskyV22Img2ImgPipeline KandinskyV22InpaintPipeline
        KandinskyV22ControlnetPipeline KandinskyV22ControlnetImg2ImgPipeline
        Kandinsky3Pipeline Kandinsky3Img2ImgPipeline StableDiffusionLatentUpscalePipeline
        StableCascadeDecoderPipeline StableCascadePriorPipeline
        DreamLitePipeline DreamLiteMobilePipeline
        StableDiffusionControlNetXSPipeline StableDiffusionXLControlNetXSPipeline
        StableVideoDiffusionPipeline AudioLDM2Pipeline UniDiffuserPipeline
        """,
    ),
    **_because(
        "its UNet attends to no text or image",
        """
        ConsistencyModelPipeline DDIMPipeline DDPMPipeline AudioDiffusionPipeline
        DanceDiffusionPipeline LDMPipeline LDMSuperResolutionPipeline PNDMPipeline RePaintPipeline
        ScoreSdeVePipeline KarrasVePipeline
        """,
    ),
    **_because(
        "it has several UNets, none of them named unet",
        """
        UnCLIPPipeline UnCLIPImageVariationPipeline
        VersatileDiffusionPipeline VersatileDiffusionDualGuidedPipeline
        VersatileDiffusionImageVariationPipeline VersatileDiffusionTextToImagePipeline
        """,
    ),
    **_because(
        "it is made of pipelines that take no patches",
        """
        KandinskyCombinedPipeline KandinskyImg2ImgCombinedPipeline KandinskyInpaintCombinedPipeline
        KandinskyV22CombinedPipeline KandinskyV22Img2ImgCombinedPipeline
        KandinskyV22InpaintCombinedPipeline StableCascadeCombinedPipeline
        """,
    ),
    **_because(
        "it runs in ONNX Runtime",
        """
        OnnxStableDiffusionPipeline StableDiffusionOnnxPipeline OnnxStableDiffusionImg2ImgPipeline
        OnnxStableDiffusionInpaintPipeline OnnxStableDiffusionInpaintPipelineLegacy
        OnnxStableDiffusionUpscalePipeline
        """,
    ),
}
"""Why a pipeline takes no patches at all: `attach` refuses it."""
