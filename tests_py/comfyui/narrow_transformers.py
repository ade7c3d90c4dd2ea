# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Small transformers with random weights for the real ComfyUI, of every family that it has.

Nothing here imports ComfyUI before it is asked for a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from narrow_models import fill, noise

TEXT = 7
GRID = (5, 3)
_CPU = torch.device("cpu")
_FLUX = {
    "image_model": "flux",
    "guidance_embed": True,
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 12,
    "context_in_dim": 24,
    "hidden_size": 32,
    "mlp_ratio": 2.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "txt_ids_dims": [],
}


@dataclass(frozen=True)
class Case:
    """One family.

    Parameters
    ----------
    model
        The host's name of it.
    config
        What the host finds out of a checkpoint, narrow.
    context
        Channels of its text.
    layers
        How many layers take patches.
    references
        Whether it takes references.
    channels
        Of its latent.
    frames
        Whether its latent has a dimension for them.
    padded
        To which multiple of tokens text and image are padded.
    over_text
        Whether the image attends to the text apart.
    patch
        Rows and columns of the latent in a token.
    least_text
        To how many tokens the host pads a text in front.
    references_first
        Whether references stand before the image.
    """

    model: str
    config: dict[str, Any]
    context: int
    layers: int
    references: bool = True
    channels: int = 16
    frames: bool = False
    padded: int = 1
    over_text: bool = False
    patch: int = 2
    least_text: int = 0
    references_first: bool = False

    @property
    def text(self):
        """How many tokens the model is given for a text of ``TEXT``."""
        return max(TEXT, self.least_text)

    @property
    def words(self):
        """Two of the tokens that a text of ``TEXT`` has of its own."""
        return self.text - TEXT + 1, self.text - TEXT + 3

    def order(self, grid, references=()):
        """The parts of the sequence in order: names and numbers of tokens."""
        pictures = [(f"reference {i}", h * w) for i, (h, w) in enumerate(references)]
        own = ("image", grid[0] * grid[1])
        pictures = [*pictures, own] if self.references_first else [own, *pictures]
        # Where they come first, each reference has a text before the prompt, here padding alone.
        parts = [("padding", self.padded)] * (len(references) if self.references_first else 0)
        for part in (("text", self.text), *pictures):
            parts += [part, ("padding", -part[1] % self.padded)]
        return parts


CASES = {
    "flux": Case("Flux", _FLUX, 24, 4),
    "klein": Case(
        "Flux2",
        {
            **_FLUX,
            "image_model": "flux2",
            "guidance_embed": False,
            "in_channels": 128,
            "out_channels": 128,
            "axes_dim": [4, 4, 4, 4],
            "patch_size": 1,
            "qkv_bias": False,
            "txt_ids_dims": [3],
            "vec_in_dim": None,
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
            "default_ref_method": "index",
            "ref_index_scale": 10.0,
        },
        24,
        4,
        channels=128,
        patch=1,
        least_text=512,
    ),
    "sd3": Case(
        "SD3",
        {
            "in_channels": 16,
            "patch_size": 2,
            "input_size": None,
            "depth": 2,
            "num_patches": 64 * 64,
            "pos_embed_max_size": 64,
            "adm_in_channels": 12,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 24, "out_features": 128},
            },
            "qk_norm": "rms",
            "x_block_self_attn_layers": [0],
        },
        24,
        2,
        references=False,
    ),
    "chroma": Case(
        "Chroma",
        {
            **{k: v for k, v in _FLUX.items() if k != "guidance_embed"},
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 32,
            "hidden_dim": 16,
            "n_layers": 1,
        },
        24,
        4,
        references=False,
    ),
    "qwen": Case(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "in_channels": 64,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 24,
            "axes_dims_rope": [4, 6, 6],
        },
        24,
        2,
        frames=True,
    ),
    "krea2": Case(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 64,
            "tdim": 16,
            "txtdim": 12,
            "heads": 4,
            "kvheads": 2,
            "multiplier": 2,
            "layers": 2,
            "txtlayers": 2,
            "txtheads": 2,
            "txtkvheads": 2,
            "default_ref_method": "index",
        },
        24,
        2,
        frames=True,
    ),
    "lumina2": Case(
        "Lumina2",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 16,
            "n_kv_heads": 16,
            "multiple_of": 32,
            "qk_norm": True,
            "cap_feat_dim": 24,
            "axes_dims": [4, 6, 6],
            "axes_lens": [64, 64, 64],
        },
        24,
        2,
        references=False,
    ),
    "z_image": Case(
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 256,
            "n_layers": 2,
            "n_refiner_layers": 1,
            "n_heads": 16,
            "n_kv_heads": 16,
            "multiple_of": 32,
            "qk_norm": True,
            "cap_feat_dim": 24,
            "axes_dims": [4, 6, 6],
            "axes_lens": [64, 64, 64],
            "z_image_modulation": True,
            "pad_tokens_multiple": 32,
            "time_scale": 1000.0,
        },
        24,
        2,
        padded=32,
        references_first=True,
    ),
    "anima": Case(
        "Anima",
        {
            "image_model": "anima",
            "max_img_h": 64,
            "max_img_w": 64,
            "max_frames": 8,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "concat_padding_mask": True,
            "model_channels": 32,
            "num_blocks": 2,
            "num_heads": 2,
            "mlp_ratio": 2.0,
            "crossattn_emb_channels": 24,
            "pos_emb_cls": "rope3d",
            "use_adaln_lora": True,
            "adaln_lora_dim": 8,
            "extra_per_block_abs_pos_emb": False,
        },
        24,
        2,
        references=False,
        frames=True,
        over_text=True,
    ),
}


def make_transformer(case, seed=4):
    """Make a ModelPatcher around a network with narrow layers and random weights."""
    import comfy.model_patcher
    import comfy.supported_models

    kind = getattr(comfy.supported_models, case.model)
    config = kind({**_known(case), "dtype": torch.float32})
    model = config.get_model({}, "", device=_CPU)
    fill(model.diffusion_model, seed)
    positions = dict(model.diffusion_model.named_buffers()).get("pos_embed")
    if positions is not None:  # of SD3: a checkpoint brings them
        positions.copy_(noise(*positions.shape, seed=seed))
    model.eval().requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, load_device=_CPU, offload_device=_CPU)


def _known(case):
    """The part of a case's config that this host knows: it grows with its versions."""
    import comfy.ldm.chroma.model
    import comfy.ldm.flux.model

    of = {
        "Flux": comfy.ldm.flux.model.FluxParams,
        "Flux2": comfy.ldm.flux.model.FluxParams,
        "Chroma": comfy.ldm.chroma.model.ChromaParams,
    }.get(case.model)
    if of is None:
        return dict(case.config)
    names = {"image_model", *of.__dataclass_fields__}
    return {name: value for name, value in case.config.items() if name in names}


def conditioning(case, seed, references=()):
    """Make one conditioning entry."""
    options = {"pooled_output": noise(1, 12, seed=seed), "guidance": 3.5}
    if case.model == "Lumina2":
        options["attention_mask"] = torch.ones(1, TEXT, dtype=torch.int64)
    if references:
        options["reference_latents"] = [latent(case, grid, seed=9) for grid in references]
    return [noise(1, TEXT, case.context, seed=seed), options]


def latent(case, grid, seed, batch=1):
    """Make a latent of so many rows and columns of tokens."""
    shape = (batch, case.channels, *([1] if case.frames else []), *(case.patch * n for n in grid))
    return noise(*shape, seed=seed)


def sample_transformer(
    model, case, *, grid=GRID, cfg=3.0, batch=1, references=(), steps=2, positive=None
):
    """Sample as the KSampler node does, from one noise."""
    import comfy.sample

    shape = latent(case, grid, seed=5, batch=batch).shape
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise(*shape, seed=5),
            steps,
            cfg,
            "euler",
            "simple",
            [conditioning(case, 6, references) if positive is None else positive],
            [conditioning(case, 8, references)],
            torch.zeros(shape),
            disable_pbar=True,
            seed=9,
        ).clone()
