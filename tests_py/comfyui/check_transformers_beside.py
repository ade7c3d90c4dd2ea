# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Transformers in the real ComfyUI: beside its LoRA, ControlNets and compilation, in all dtypes."""

from __future__ import annotations

import importlib

import pytest
import torch
from check_transformer_guidance import GRID as GUIDED
from check_transformer_guidance import negative_of, patch, plainly
from check_transformers import dense
from narrow_models import noise
from narrow_transformers import conditioning, make_transformer, sample_transformer
from real_host import comfy, relative

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

GAIN = 4.0


def gains_of(case):
    def give(factors, spans, cond):
        if cond:
            for word in case.words:
                factors[spans["image"], spans["text"].start + word] = GAIN

    return give


def words(case):
    return KeyGain(TextKeys(case.words), GAIN)


def with_lora(model, strength=1.0):
    """The host's own patcher, with a LoRA on all weights of attention."""
    lora = {}
    for name, weight in model.model.state_dict().items():
        inside = name.startswith("diffusion_model.") and weight.ndim == 2
        if inside and name.endswith(".weight") and ("attn" in name or "attention" in name):
            key = name.removesuffix(".weight")
            lora[f"{key}.lora_up.weight"] = noise(weight.shape[0], 2, seed=len(lora), scale=0.3)
            lora[f"{key}.lora_down.weight"] = noise(2, weight.shape[1], seed=len(lora), scale=0.3)
            lora[f"{key}.alpha"] = torch.tensor(2.0)
    assert lora
    sd = importlib.import_module("comfy.sd")
    return sd.load_lora_for_models(model, None, lora, strength, 0.0)[0]


def test_lora(case, model):
    changed = with_lora(make_transformer(case))
    plain = sample_transformer(changed, case)
    assert relative(plain, sample_transformer(model, case)) > 1e-3
    right = sample_transformer(dense(changed, case, gains_of(case)), case)
    assert relative(right, plain) > 1e-3
    found = sample_transformer(ap.patch_model(changed, words(case)), case)
    assert relative(found, right) < 1e-5
    after = with_lora(ap.patch_model(make_transformer(case), words(case)))
    assert relative(sample_transformer(after, case), right) < 1e-5
    negative = negative_of(case)
    right = sample_transformer(plainly(changed, case, negative), case, grid=GUIDED)
    found = sample_transformer(ap.patch_model(changed, patch(negative)), case, grid=GUIDED)
    assert relative(found, right) < 1e-5


class Control(comfy.controlnet.ControlBase):
    """A ControlNet of the host whose network is not there: random residuals for its place."""

    def __init__(self, name, hidden, layers):
        super().__init__()
        self.name, self.hidden, self.layers = name, hidden, layers

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        tokens = x_noisy.shape[-2] // 2 * (x_noisy.shape[-1] // 2)
        made = [noise(1, tokens, self.hidden, seed=i) for i in range(self.layers)]
        made = [one.expand(len(x_noisy), -1, -1).to(x_noisy) for one in made]
        return {"input": [], "output": []} | {self.name: made}

    def copy(self):
        made = Control(self.name, self.hidden, self.layers)
        self.copy_to(made)
        return made


# What the host adds a ControlNet's residuals by, the width of its blocks, and how many there are.
CONTROLS = {"Flux": ("input", 32, 2), "Chroma": ("input", 32, 2), "QwenImage": ("input", 32, 2)}
CONTROLS |= {"SD3": ("output", 128, 2)}


def test_a_controlnet(case, model):
    if case.model not in CONTROLS:
        pytest.skip("this model takes no ControlNet here")
    text = conditioning(case, 6)
    control = Control(*CONTROLS[case.model])
    controlled = [text[0], text[1] | {"control": control, "control_apply_to_uncond": True}]

    def run(model, positive, **options):
        return sample_transformer(model, case, positive=positive, **options)

    plain = run(model, controlled)
    assert relative(plain, run(model, text)) > 1e-3
    right = run(dense(model, case, gains_of(case)), controlled)
    assert relative(right, plain) > 1e-3
    assert relative(run(ap.patch_model(model, words(case)), controlled), right) < 1e-5
    negative = negative_of(case)
    right = run(plainly(model, case, negative), controlled, grid=GUIDED)
    found = run(ap.patch_model(model, patch(negative)), controlled, grid=GUIDED)
    assert relative(found, right) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(case, dtype):
    """As near to what float32 gives as the host itself is."""
    exact, model = make_transformer(case), make_transformer(case)
    for one in (exact, model):  # the same weights
        one.model.diffusion_model.to(dtype)
    exact.model.diffusion_model.float()
    model.model.manual_cast_dtype = None
    model.model.model_config.set_inference_dtype(dtype, None)
    model.model.diffusion_model.dtype = dtype
    plain, wanted = (sample_transformer(m, case).float() for m in (model, exact))
    host = relative(plain, wanted)
    for one in (words(case), patch(negative_of(case))):
        right = sample_transformer(ap.patch_model(exact, one), case)
        found = sample_transformer(ap.patch_model(model, one), case).float()
        assert found.isfinite().all() and relative(found, plain) > 1e-3
        assert relative(found, right) < max(4 * host, 0.02)


def test_compiled_by_the_hosts_node(case, model):
    """Compiled before and after it is patched, the result is that of the plain model."""
    helpers = importlib.import_module("comfy_api.torch_helpers")

    def compiled(model):
        made = model.clone()
        helpers.set_torch_compile_wrapper(model=made, backend="eager")
        return made

    for one in (words(case), patch(negative_of(case))):
        right = sample_transformer(ap.patch_model(model, one), case)
        for patched in (compiled(ap.patch_model(model, one)), ap.patch_model(compiled(model), one)):
            torch._dynamo.reset()
            assert relative(sample_transformer(patched, case), right) < 1e-5
    assert relative(right, sample_transformer(model, case)) > 1e-3


def test_a_cache_around_the_network(case, model):
    """It counts the host's rows, and the network does not run where it answers for it."""
    if case.model == "SD3":
        pytest.skip("this network has no place for wrappers around it here")

    def cached(model):
        kept, calls, made = {}, [], model.clone()

        def wrapper(execute, x, *args, **kwargs):
            told = next((a for a in args if isinstance(a, dict)), kwargs.get("transformer_options"))
            uuids = told["uuids"]
            assert len(x) == len(uuids)
            calls.append(len(calls) % 2)
            if calls[-1] and all(uuid in kept for uuid in uuids):
                return torch.cat([kept[uuid] for uuid in uuids])
            output = execute(x, *args, **kwargs)
            kept.update(zip(uuids, output.split(1), strict=True))
            return output

        made.add_wrapper_with_key("diffusion_model", "cache", wrapper)
        return made

    for one in (words(case), patch(negative_of(case))):
        before, after = (
            sample_transformer(m, case, steps=4)
            for m in (ap.patch_model(cached(model), one), cached(ap.patch_model(model, one)))
        )
        assert relative(after, before) < 1e-6
        assert (
            relative(before, sample_transformer(ap.patch_model(model, one), case, steps=4)) > 1e-3
        )
