# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""BoundStack Fooocus' own image prompts beside ours, on one model with random weights.

::

    python tests_py/hosts/compare_with_fooocus.py PATH_TO_FOOOCUS

Prints one line of JSON with the largest relative differences. It needs what Fooocus imports
(torchsde, einops, scipy, omegaconf, torchvision, opencv); everything runs on the CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import protocol_host
import torch
from fooocus_oracle import joint_attention, make_task

CHANNELS, HEAD_CHANNELS, CONTEXT = 32, 16, 2048
DIM, EMBED = 1280, 1280  # the host's own file takes no others for this kind of adapter
TOKENS = 4


def start_host(checkout):
    """Import Fooocus with its own patches of the sampler and the UNet, on the CPU."""
    sys.argv = [str(checkout)]
    sys.path.insert(0, str(checkout))
    os.chdir(tempfile.mkdtemp())
    import ldm_patched.modules.args_parser as parser

    parser.args.always_cpu = torch.get_num_threads()
    import extras.ip_adapter as theirs
    import modules.patch as patch

    patch.patch_all()
    patch.patch_settings[os.getpid()] = patch.PatchSettings()
    return theirs


def public_names(module):
    """Return what a module defines itself, imports left out."""

    def is_own(value):
        return getattr(value, "__module__", module.__name__) == module.__name__

    held = vars(module).items()
    return [n for n, v in held if n[0] != "_" and not isinstance(v, ModuleType) and is_own(v)]


def relative(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())


def noise(*shape, seed, scale=1.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def random_weights(shapes, seed):
    weights = {}
    for place, (name, shape) in enumerate(shapes.items()):
        scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
        weights[name] = noise(*shape, seed=1000 * seed + place, scale=scale)
        if "norm" in name and name.endswith("weight"):
            weights[name] += 1
    return weights


def write_adapter(path, channels, *, seed):
    """Write a "plus" adapter of the host's sizes, but narrow in its sites."""
    shapes = {
        "latents": (1, TOKENS, DIM),
        "proj_in.weight": (DIM, EMBED),
        "proj_in.bias": (DIM,),
        "proj_out.weight": (CONTEXT, DIM),
        "proj_out.bias": (CONTEXT,),
        "norm_out.weight": (CONTEXT,),
        "norm_out.bias": (CONTEXT,),
    }
    for d in range(4):
        for name in ("norm1", "norm2"):
            shapes[f"layers.{d}.0.{name}.weight"] = (DIM,)
            shapes[f"layers.{d}.0.{name}.bias"] = (DIM,)
        shapes[f"layers.{d}.0.to_q.weight"] = (DIM, DIM)
        shapes[f"layers.{d}.0.to_kv.weight"] = (2 * DIM, DIM)
        shapes[f"layers.{d}.0.to_out.weight"] = (DIM, DIM)
        shapes[f"layers.{d}.1.0.weight"] = (DIM,)
        shapes[f"layers.{d}.1.0.bias"] = (DIM,)
        shapes[f"layers.{d}.1.1.weight"] = (4 * DIM, DIM)
        shapes[f"layers.{d}.1.3.weight"] = (DIM, 4 * DIM)
    sites = {
        f"{2 * site + 1}.to_{name}_ip.weight": (size, CONTEXT)
        for site, size in enumerate(channels[::2])
        for name in "kv"
    }
    content = {
        "image_proj": random_weights(shapes, seed),
        "ip_adapter": random_weights(sites, seed + 1),
    }
    torch.save(content, path)


def make_clip_vision():
    """Make what the host's ClipVisionModel is to an adapter, around a small CLIP tower."""
    from ldm_patched.modules.model_patcher import ModelPatcher
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=EMBED,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=16,
        patch_size=56,
        projection_dim=1024,
    )
    torch.manual_seed(3)

    class ClipVision:
        model = CLIPVisionModelWithProjection(config).eval()
        load_device = torch.device("cpu")
        patcher = ModelPatcher(model, load_device=load_device, offload_device=load_device)

    return ClipVision()


SDXL = {
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
SD15 = {
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
}


def make_model(family, structure):
    """Make one of the host's models with narrow layers and random weights."""
    from ldm_patched.modules import supported_models
    from ldm_patched.modules.model_patcher import ModelPatcher

    config = getattr(supported_models, family)(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": CHANNELS,
            "num_res_blocks": [2] * len(structure["channel_mult"]),
            "context_dim": CONTEXT,
            "use_spatial_transformer": True,
            "use_checkpoint": False,
            "legacy": False,
            "dtype": torch.float32,
            **structure,
        }
    )
    config.unet_config |= {"num_head_channels": HEAD_CHANNELS, "num_heads": -1}
    model = config.get_model({}, "")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.diffusion_model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.copy_(noise * fan_in**-0.5)
            else:
                parameter.copy_(0.1 * noise + (name.endswith("weight")))
    cpu = torch.device("cpu")
    return ModelPatcher(model.eval().requires_grad_(False), load_device=cpu, offload_device=cpu)


def sample(model, *, size=(16, 24), steps=4, sampler="euler"):
    """Sample as the host does, from one noise and one prompt."""
    from ldm_patched.modules.sample import sample as host_sample
    from modules.patch import BrownianTreeNoiseSamplerPatched

    latent = noise(1, 4, *size, seed=5)
    BrownianTreeNoiseSamplerPatched.global_init(latent, 0.03, 14.7, seed=10, cpu=True)

    def prompt(seed):
        pooled = {"pooled_output": noise(1, 1280, seed=seed + 1)}
        return [[noise(1, 77, CONTEXT, seed=seed), pooled]]

    with torch.inference_mode():
        return host_sample(
            model,
            latent,
            steps,
            4.0,
            sampler,
            "karras",
            prompt(6),
            prompt(8),
            torch.zeros(1, 4, *size),
            disable_pbar=True,
            seed=9,
        )


def compare_sites(theirs, ours, model, tasks):
    """Compare every site in every kind of call that the host's file can take; worst difference."""
    worst = 0.0
    slots = ("transformer_options", "patches_replace", "attn2")
    patched = [module.patch_model(model, tasks).model_options for module in (theirs, ours)]
    for key in slots:
        patched = [options[key] for options in patched]
    assert list(patched[0]) == list(patched[1]) and len(patched[0]) == 70
    for place, key in enumerate(patched[0]):
        channels = tasks[0][0][0][2 * place].shape[-1]
        for chunks in ([0], [1], [1, 0], [0, 1], [1, 1, 0, 0]):
            rows, seed = len(chunks), 100 * place
            q = noise(rows, 24, channels, seed=seed)
            k, v = (noise(rows, 77, channels, seed=seed + i) for i in (1, 2))
            for step in (0.0, 0.5, 0.95):
                model.model.diffusion_model.current_step = torch.full((rows,), step)
                options = {
                    "n_heads": channels // HEAD_CHANNELS,
                    "cond_or_uncond": chunks,
                    "sigmas": torch.full((1,), 7.0),
                    "original_shape": [rows, 4, 16, 24],
                }
                pair = [slots[key](q, k, v, options) for slots in patched]
                worst = max(worst, relative(*reversed(pair)))
    return worst


def compare_sd15(ours):
    """Compare an SD1.5 model of the host, which its own file can not patch, with the formula."""
    model = make_model("SD15", SD15)
    tasks = [make_task(protocol_host.SD1, CHANNELS, weight=12.0, stop=0.8)]
    by_formula = model.clone()
    for number, (key, _, _) in enumerate(protocol_host.SD1.sites()):

        def attend(q, k, v, options, number=number):
            progress = float(model.model.diffusion_model.current_step[0])
            chunks, heads = options["cond_or_uncond"], options["n_heads"]
            return joint_attention(
                q, k, v, heads, tasks=tasks, number=number, chunks=chunks, progress=progress
            )

        by_formula.set_model_attn2_replace(attend, *key)
    patched, expected = sample(ours.patch_model(model, tasks)), sample(by_formula)
    assert relative(patched, sample(model)) > 0.01, "the picture has no effect"
    return relative(patched, expected)


def main(checkout):
    theirs = start_host(Path(checkout).resolve())
    from attnpatch.hosts.fooocus import ip_adapter as ours

    widths = [CHANNELS * m // 10 for m in (10, 20, 40)]
    channels = [widths[1]] * 8 + [widths[2]] * 100 + [widths[1]] * 12 + [widths[2]] * 20
    assert [c // 32 * 320 for c in channels] == theirs.SD_XL_CHANNELS == ours.SD_XL_CHANNELS
    assert theirs.SD_V12_CHANNELS == ours.SD_V12_CHANNELS
    theirs.SD_XL_CHANNELS = channels

    missing = [name for name in public_names(theirs) if not hasattr(ours, name)]
    assert not missing, f"names that the host's file has and ours has not: {missing}"

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/plus.bin", f"{folder}/face.bin"]
        for seed, path in enumerate(paths):
            write_adapter(path, channels, seed=10 * seed + 20)
        clip_vision, negative = make_clip_vision(), noise(1, TOKENS, CONTEXT, seed=11)
        for module in (theirs, ours):
            module.clip_vision, module.ip_negative = clip_vision, negative
            for path in paths:
                module.load_ip_adapter(None, None, path)
        picture = torch.randint(
            0, 256, (224, 224, 3), generator=torch.Generator().manual_seed(12)
        ).to(torch.uint8)
        made = [[m.preprocess(picture.numpy(), path) for path in paths] for m in (theirs, ours)]
    figures["keys and values"] = max(
        relative(o, t)
        for ours_of, theirs_of in zip(made[1], made[0], strict=True)
        for os_, ts in zip(ours_of, theirs_of, strict=True)
        for o, t in zip(os_, ts, strict=True)
    )

    model = make_model("SDXL", SDXL)
    tasks = [[made[0][0], 0.5, 0.6 * 1280 / 64], [made[0][1], 0.9, 0.75 * 1280 / 64]]
    figures["sites"] = compare_sites(theirs, ours, model, tasks)
    plain = sample(model)
    for sampler in ("euler", "dpmpp_2m_sde"):
        pair = [sample(m.patch_model(model, tasks), sampler=sampler) for m in (ours, theirs)]
        figures[f"samples, {sampler}"] = relative(*pair)
    from modules.core import apply_freeu

    freeu = [
        apply_freeu(m.patch_model(model, tasks), 1.01, 1.02, 0.99, 0.95) for m in (ours, theirs)
    ]
    figures["samples, through FreeU"] = relative(*map(sample, freeu))
    figures["effect of the prompt"] = relative(sample(ours.patch_model(model, tasks)), plain)
    assert torch.equal(sample(model), plain), "the model itself was changed"
    figures["samples, SD1.5 against the formula"] = compare_sd15(ours)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
