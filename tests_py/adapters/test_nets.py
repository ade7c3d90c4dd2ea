# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Each network against diffusers' own and against its formula in double precision."""

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from fake_adapters import TINY_CHANNELS, Maker, random_state_kept
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from attnpatch import _core


def diffusers_net(weights):
    """diffusers' network with these weights, renamed by its own loader."""
    convert = UNet2DConditionLoadersMixin._convert_ip_adapter_image_proj_to_diffusers
    return convert(None, weights, low_cpu_mem_usage=False)


def check(ours, theirs):
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


CASES = {
    "base": ("LinearProjection", "image_projection", {"embed": 40, "context": 64}, (3, 40)),
    "full face": ("MlpProjection", "token_mlp", {"embed": 40, "context": 24}, (3, 7, 40)),
    "faceid": ("MlpProjection", "mlp", {"embed": 40, "context": 24}, (3, 40)),
    "portrait": ("MlpProjection", "mlp", {"embed": 40, "context": 24, "tokens": 16}, (3, 40)),
    "plus": (
        "Resampler",
        "resampler",
        {"embed": 40, "dim": 128, "output": 24, "heads": 3, "queries": 5},
        (3, 7, 40),
    ),
    "plus, sizes of SD1.5": (
        "Resampler",
        "resampler",
        {"embed": 1280, "dim": 768, "output": 768, "heads": 12},
        (1, 257, 1280),
    ),
    "InstantID, its sizes": (
        "Resampler",
        "resampler",
        {"embed": 512, "dim": 1280, "output": 2048, "heads": 20},
        (2, 1, 512),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_diffusers(case):
    ours, structure, numbers, shape = CASES[case]
    weights = getattr(Maker(1), structure)(**numbers)
    x = Maker(2).randn(*shape)
    with random_state_kept():
        result = getattr(_core, ours)(weights)(x)
    with torch.no_grad():
        check(result, diffusers_net(weights)(x))


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_face_perceiver_agrees_with_diffusers(scale):
    weights = Maker(1).face_perceiver(face=40, embed=48, context=128, heads=2)
    face, hidden = Maker(2).randn(3, 40), Maker(3).randn(3, 7, 48)
    net = diffusers_net(weights)
    net.shortcut, net.shortcut_scale = scale is not None, scale or 1.0
    net.clip_embeds = hidden[:, None]
    with torch.no_grad():
        check(_core.FaceIdPlusProjection(weights)(face, hidden, scale), net(face))


def perceive(weights, latents, features, heads):
    """The perceiver's formula, term by term."""

    def norm(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        x = (x - mean) / (variance + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = features @ weights["proj_in.weight"].mT + weights["proj_in.bias"]
    depth = sum(name.endswith("to_q.weight") for name in weights)
    for d in range(depth):
        a, f = f"layers.{d}.0", f"layers.{d}.1"
        own = norm(latents, f"{a}.norm2")
        context = torch.cat([norm(x, f"{a}.norm1"), own], 1)
        key, value = (context @ weights[f"{a}.to_kv.weight"].mT).chunk(2, -1)
        query = own @ weights[f"{a}.to_q.weight"].mT
        out = []
        for h in range(heads):
            part = slice(64 * h, 64 * h + 64)
            logits = query[..., part] @ key[..., part].mT / 8
            exponentials = (logits - logits.amax(-1, keepdim=True)).exp()
            out.append(exponentials / exponentials.sum(-1, keepdim=True) @ value[..., part])
        latents = latents + torch.cat(out, -1) @ weights[f"{a}.to_out.weight"].mT
        hidden = norm(latents, f"{f}.0") @ weights[f"{f}.1.weight"].mT
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
        latents = latents + hidden @ weights[f"{f}.3.weight"].mT
    tokens = latents @ weights["proj_out.weight"].mT + weights["proj_out.bias"]
    return norm(tokens, "norm_out")


@pytest.mark.parametrize("depth", [0, 1, 3, 11])
def test_resampler_follows_its_formula_at_any_depth(depth):
    numbers = {"embed": 10, "dim": 24, "output": 16, "heads": 2, "queries": 3, "mult": 2}
    if depth == 0:
        weights = Maker(3).resampler(**numbers, depth=1)
        weights = {name: t for name, t in weights.items() if not name.startswith("layers")}
    else:
        weights = Maker(3).resampler(**numbers, depth=depth)
    x = Maker(4).randn(2, 5, 10)
    double = {name: t.double() for name, t in weights.items()}
    expected = perceive(double, double["latents"].expand(2, -1, -1), x.double(), 2)
    check(_core.Resampler(weights)(x).double(), expected)
    torch.testing.assert_close(
        _core.Resampler(double)(x), expected, atol=1e-10, rtol=1e-10
    )  # double weights compute in double


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu_is_computed_in_fp32(dtype):
    half = Maker(1, dtype=dtype).resampler(40, 128, 24, heads=2)
    x = Maker(2).randn(2, 7, 40)
    full = {name: t.float() for name, t in half.items()}
    assert torch.equal(_core.Resampler(half)(x), _core.Resampler(full)(x).to(dtype))


def test_site_projections_are_products():
    weights = Maker(1).sites(TINY_CHANNELS, 24)
    pairs = [(weights[f"{n}.to_k_ip.weight"], weights[f"{n}.to_v_ip.weight"]) for n in (1, 3, 5, 7)]
    tokens = Maker(2).randn(24, 2, 5).permute(1, 2, 0)
    result = _core.SiteProjections(pairs)(tokens)
    for (key, value), (to_k, to_v) in zip(result, pairs, strict=True):
        torch.testing.assert_close(key, F.linear(tokens, to_k))
        torch.testing.assert_close(value, F.linear(tokens, to_v))
    with pytest.raises(RuntimeError, match="at least one site"):
        _core.SiteProjections([])


class TestTensorCaster:
    weights = Maker(1).image_projection(8, 4)

    def test_gradients_flow_through(self):
        x = Maker(2).randn(3, 8).requires_grad_()
        _core.LinearProjection(self.weights)(x).square().sum().backward()
        weights = {name: t.double() for name, t in self.weights.items()}
        y = x.detach().double().requires_grad_()
        z = F.linear(y, weights["proj.weight"], weights["proj.bias"]).reshape(3, 4, 4)
        F.layer_norm(
            z, (4,), weights["norm.weight"], weights["norm.bias"]
        ).square().sum().backward()
        torch.testing.assert_close(x.grad, y.grad.float(), atol=1e-5, rtol=1e-5)

    def test_tensors_are_shared_and_let_go(self):
        weights = {name: t.clone() for name, t in self.weights.items()}
        net = _core.LinearProjection(weights)
        alive = weakref.ref(weights["proj.weight"].untyped_storage())
        x = Maker(2).randn(3, 8)
        before = net(x)
        weights["norm.bias"] += 1
        torch.testing.assert_close(net(x), before + 1)
        del weights, net
        gc.collect()
        assert alive() is None

    def test_meta_and_fake_tensors_pass(self):
        meta = {name: t.to("meta") for name, t in self.weights.items()}
        assert _core.LinearProjection(meta)(torch.empty(3, 8, device="meta")).shape == (3, 4, 4)
        with FakeTensorMode() as mode:
            fake = {name: mode.from_tensor(t) for name, t in self.weights.items()}
            assert _core.LinearProjection(fake)(torch.empty(3, 8)).shape == (3, 4, 4)

    def test_only_tensors_are_taken(self):
        with pytest.raises(TypeError, match=r"embeds: torch\.Tensor"):
            _core.LinearProjection(self.weights)([1.0])
        with pytest.raises(RuntimeError, match=r"proj\.weight is missing"):
            _core.LinearProjection({})

    @pytest.mark.slow
    def test_the_interpreter_ends_well(self):
        code = (
            "import torch; from attnpatch import _core; net = _core.LinearProjection("
            "{'proj.weight': torch.ones(4, 2), 'norm.weight': torch.ones(2), "
            "'norm.bias': torch.ones(2)}); y = net(torch.ones(1, 2))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
