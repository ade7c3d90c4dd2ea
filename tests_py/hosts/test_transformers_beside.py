# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Key gains beside what else transformers of diffusers have: backends, LoRA, caches."""

import copy
import threading

import diffusers
import pytest
import torch
from dense_bias import dense
from diffusers.models import attention_dispatch
from diffusers.models.attention_dispatch import attention_backend
from transformer_models import CASES, GRID, REFERENCES, TEXT
from transformer_pipelines import SIZE, THREE, make, sd3

import attnpatch as ap
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

pytestmark = pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning")
IMAGE = GRID[0] * GRID[1]


@pytest.fixture(autouse=True)
def kept_backend():
    """A model's backend becomes everybody's: diffusers sets it as the active one, too."""
    registry = attention_dispatch._AttentionBackendRegistry
    before = registry._active_backend
    yield
    registry._active_backend = before


def run(model, arguments, **more):
    out = model(**arguments, **more, return_dict=False)[0]
    return torch.stack(out) if isinstance(out, list) else out


@pytest.fixture
def flux():
    case = CASES["FluxTransformer2DModel"]
    return case.make(), case.arguments(2, REFERENCES)


def words(gain=4.0):
    return KeyGain(TextKeys((1,)), gain, uncond=True)


def right_of(model, arguments, gain=4.0, **more):
    tokens = TEXT + arguments["hidden_states"].shape[1]

    def gains(batch, _):
        factors = torch.ones(batch, tokens, tokens)
        factors[:, TEXT : TEXT + IMAGE, 1] = gain
        return factors, None

    with dense(tokens, tokens, gains), torch.no_grad():
        return run(model, arguments, **more)


def near(one, other):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", "Flux2Transformer2DModel"])
def test_fused_projections(name):
    case = CASES[name]
    model, arguments = case.make(), case.arguments(1)
    right = right_of(model, arguments)
    with ap.attach(model, words()), torch.no_grad():
        model.fuse_qkv_projections()
        near(run(model, arguments), right)


@pytest.mark.parametrize("backend", ["native", "_native_math", "_native_flash"])
def test_the_backend_that_users_choose_attends(flux, backend, monkeypatch):
    model, arguments = flux
    right = right_of(model, arguments)
    seen = []
    registry = attention_dispatch._AttentionBackendRegistry
    name = attention_dispatch.AttentionBackendName(backend)
    original = registry._backends[name]
    monkeypatch.setitem(
        registry._backends, name, lambda *a, **k: seen.append(1) or original(*a, **k)
    )
    with ap.attach(model, words()), torch.no_grad():
        model.set_attention_backend(backend)
        near(run(model, arguments), right)
        layer = model.transformer_blocks[0].attn
        assert layer.processor._attention_backend == name
    assert bool(seen) == (backend != "native")  # ours gives what torch's own does
    seen.clear()
    assert layer.processor._attention_backend == name  # and it stays chosen
    if backend != "native":
        with torch.no_grad():
            run(model, arguments)
        assert seen


def test_context_parallelism_is_refused(flux):
    """A device then has a part of the sequence: nothing would fit, or act on the wrong tokens."""
    model, arguments = flux
    layers = [m for m in model.modules() if hasattr(m, "processor")]
    with ap.attach(model, words()):
        for layer in layers:
            layer.processor._parallel_config = object()
        short = {**arguments, "hidden_states": arguments["hidden_states"][:, :-3]}
        short["img_ids"] = arguments["img_ids"][:-3]
        for given in (arguments, short):
            with pytest.raises(ValueError, match="expected whole sequences where patches act"):
                run(model, given)
        for layer in layers:
            layer.processor._parallel_config = None
        run(model, arguments)


def test_a_backend_for_the_time_being(flux):
    model, arguments = flux
    right = right_of(model, arguments)
    with ap.attach(model, words()), torch.no_grad(), attention_backend("_native_math"):
        near(run(model, arguments), right)


def test_kernels_of_fixed_sizes_are_left_out_with_a_warning(flux, caplog, monkeypatch):
    model, arguments = flux
    right = right_of(model, arguments)
    name = attention_dispatch.AttentionBackendName("sage")
    registry = attention_dispatch._AttentionBackendRegistry

    def sage(query, key, value, **options):
        assert query.shape[-1] == 16
        return registry._backends[attention_dispatch.AttentionBackendName("native")](
            query, key, value
        )

    monkeypatch.setitem(registry._backends, name, sage)
    monkeypatch.setitem(registry._supported_arg_names, name, {"query", "key", "value"})
    for module in model.modules():
        if hasattr(module, "processor"):
            module.processor._attention_backend = name
    with ap.attach(model, words()), torch.no_grad():
        near(run(model, arguments), right)
    assert "sage takes some sizes of heads alone" in caplog.text


def test_gradient_checkpointing_and_gradients(flux):
    model, arguments = flux
    model = copy.deepcopy(model).requires_grad_(True).train()
    with ap.attach(model, words()):
        run(model, arguments).square().mean().backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        model.enable_gradient_checkpointing()
        run(model, arguments).square().mean().backward()
        again = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(grads) == len(again) > 0
    for one, other in zip(grads, again, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_lora(flux):
    peft = pytest.importorskip("peft")
    model, arguments = flux
    model.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))
    right = right_of(model, arguments)
    with ap.attach(model, words()), torch.no_grad():
        near(run(model, arguments), right)


def test_controlnet_residuals(flux):
    model, arguments = flux
    shape = (2, arguments["hidden_states"].shape[1], 32)
    residuals = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    more = {"controlnet_block_samples": residuals}
    right = right_of(model, arguments, **more)
    with ap.attach(model, words()), torch.no_grad():
        near(run(model, arguments, **more), right)


def test_diffusers_own_image_prompt_beside(flux):
    """Its processor attends twice: to the sequence, where the gain is, and to the picture."""
    model, arguments = flux
    from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor

    with torch.random.fork_rng():
        torch.manual_seed(3)
        for block in model.transformer_blocks:
            block.attn.set_processor(FluxIPAdapterAttnProcessor(32, 12, num_tokens=(4,)))
    picture = torch.randn(2, 1, 4, 12, generator=torch.Generator().manual_seed(4))
    arguments["joint_attention_kwargs"] = {"ip_hidden_states": [picture]}
    right = right_of(model, arguments)
    with torch.no_grad():
        plain = run(model, arguments)
        with ap.attach(model, words()):
            near(run(model, arguments), right)
        assert not torch.allclose(right, plain, atol=1e-4)


def test_a_processor_that_does_not_dispatch_is_refused(flux):
    model, _ = flux

    class Own:
        def __call__(self, attn, hidden_states, **kwargs):
            return hidden_states

    model.transformer_blocks[1].attn.set_processor(Own())
    before = model.transformer_blocks[0].attn.processor
    with pytest.raises(TypeError, match=r"that call dispatch_attention_fn .* got .*Own"):
        ap.attach(model, words())
    assert model.transformer_blocks[0].attn.processor is before


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_a_pipeline_that_perturbs_attention_itself_is_refused(guidance):
    pipeline, arguments = sd3(1, False)
    kind, layers = diffusers.StableDiffusion3PAGPipeline, ["blocks.1"]
    perturbing = make(kind, pipeline.transformer, absent=THREE, pag_applied_layers=layers)
    arguments = {**arguments, **SIZE, "guidance_scale": guidance}
    with (
        ap.attach(perturbing, words()),
        pytest.raises(TypeError, match=r"rows .* at once, got PAG.*JointAttn.* without perturbed"),
    ):
        perturbing(**arguments, pag_scale=3.0)


def test_a_processor_that_does_not_dispatch_is_refused_later_too(flux):
    model, arguments = flux

    class Own:
        def __call__(self, attn, hidden_states, **kwargs):
            return hidden_states

    with ap.attach(model, words()):
        model.transformer_blocks[1].attn.set_processor(Own())
        with pytest.raises(TypeError, match=r"that call dispatch_attention_fn .* got .*Own"):
            run(model, arguments)


def test_processors_that_are_replaced_later_take_the_patches(flux, caplog):
    model, arguments = flux
    right = right_of(model, arguments)
    with ap.attach(model, words()), torch.no_grad():
        model.set_attn_processor(diffusers.models.transformers.transformer_flux.FluxAttnProcessor())
        near(run(model, arguments), right)
    assert "were replaced after attach" in caplog.text


def test_references_that_are_kept_from_the_first_step():
    """Klein with a cache: references attend to themselves, all else to [text; them; image]."""
    case = CASES["Flux2Transformer2DModel"]
    model, arguments = case.make(), case.arguments(1, REFERENCES)
    from diffusers.models.transformers.transformer_flux2 import (
        Flux2KVAttnProcessor,
        Flux2KVParallelSelfAttnProcessor,
    )

    for block in model.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in model.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    counts = [rows * columns for rows, columns in REFERENCES]
    kept = sum(counts)

    def first(tensor):  # references come first
        return torch.cat([tensor[:, IMAGE:], tensor[:, :IMAGE]], dim=1)

    extract = arguments | {
        "hidden_states": first(arguments["hidden_states"]),
        "img_ids": first(arguments["img_ids"]),
        "kv_cache_mode": "extract",
        "num_ref_tokens": kept,
    }
    cached = arguments | {
        "hidden_states": arguments["hidden_states"][:, :IMAGE],
        "img_ids": arguments["img_ids"][:, :IMAGE].contiguous(),
        "kv_cache_mode": "cached",
    }

    def steps():
        out, cache = model(**extract, return_dict=False)
        return out, model(**cached, kv_cache=cache, return_dict=False)[0]

    def gains(batch, _):
        factors = torch.ones(batch, TEXT + IMAGE, TEXT + kept + IMAGE)
        factors[:, TEXT:, TEXT + counts[0] : TEXT + kept] = 3.0
        return factors, None

    with torch.no_grad():
        with ap.attach(model, KeyGain(ReferenceKeys(1), 3.0)):
            found = steps()
        with dense(TEXT + IMAGE, TEXT + kept + IMAGE, gains):
            right = steps()
        plain = steps()
    for one, other, without in zip(found, right, plain, strict=True):
        near(one, other)
        assert not torch.allclose(one, without, atol=1e-4)


def test_threads_have_calls_of_their_own(flux):
    model, _ = flux
    case = CASES["FluxTransformer2DModel"]
    given = [case.arguments(1 + place % 2, REFERENCES[: place % 3]) for place in range(6)]
    right = [right_of(model, arguments) for arguments in given]
    found = [None] * len(given)

    def work(place):
        with torch.no_grad():
            found[place] = run(model, given[place])

    with ap.attach(model, words()):
        threads = [threading.Thread(target=work, args=(place,)) for place in range(len(given))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for one, other in zip(found, right, strict=True):
        near(one, other)


def test_a_default_device_that_users_set(flux):
    """What patches keep on the CPU is made there."""
    model, arguments = flux
    negative = torch.ones(1, TEXT, arguments["encoder_hidden_states"].shape[2])
    guidance = ap.NormalizedAttentionGuidance(negative, scale=4.0)
    with ap.attach(model, [words(), guidance], cond_or_uncond=(0,)), torch.no_grad():
        with torch.device("meta"):
            found = run(model, arguments)
        assert torch.equal(found, run(model, arguments))


def test_group_offload_and_layerwise_casting_hooks(flux):
    model, arguments = flux
    right = right_of(model, arguments)
    model.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    with ap.attach(model, words()), torch.no_grad():
        near(run(model, arguments), right)
