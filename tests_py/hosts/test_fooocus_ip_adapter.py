# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Loading and encoding as Fooocus' other files ask for it, with a small host around it."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fooocus_checkpoints import (
    CHANNELS,
    CONTEXT,
    HIDDEN,
    POOLED,
    TOKENS,
    face_checkpoint,
    linear_checkpoint,
    noise,
    plus_checkpoint,
    site_weights,
)
from safetensors.torch import save_file

from attnpatch.hosts.fooocus import ip_adapter


def write_bin(path, content):
    torch.save(content, path)
    return str(path)


class ClipVision:
    """Answers as the host's image encoder does, with simple functions of the picture."""

    load_device = torch.device("cpu")
    patcher = "patcher of the image encoder"

    def __init__(self):
        self.seen = []

    def model(self, *, pixel_values, output_hidden_states):
        assert output_hidden_states
        self.seen.append(pixel_values)
        patches = F.avg_pool2d(pixel_values, 56).flatten(2).transpose(1, 2)  # (B, 16, 3)
        states = [patches @ noise(3, HIDDEN, seed=50 + i) + 0.1 for i in range(3)]
        embeds = patches.mean(1) @ noise(3, POOLED, seed=60) + 0.1
        return types.SimpleNamespace(hidden_states=states, image_embeds=embeds)


class FakeHost:
    def __init__(self, monkeypatch):
        self.loaded, self.clip_vision_paths = [], []
        self.half = False
        management = types.ModuleType("ldm_patched.modules.model_management")
        management.get_torch_device = lambda: torch.device("cpu")
        management.should_use_fp16 = lambda device: self.half
        management.load_model_gpu = self.loaded.append
        vision = types.ModuleType("ldm_patched.modules.clip_vision")
        vision.load = self.load_clip_vision
        modules = types.ModuleType("ldm_patched.modules")
        modules.model_management, modules.clip_vision = management, vision
        package = types.ModuleType("ldm_patched")
        package.modules = modules
        for module in (package, modules, management, vision):
            monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setattr(ip_adapter, "clip_vision", None)
        monkeypatch.setattr(ip_adapter, "ip_negative", None)
        monkeypatch.setattr(ip_adapter, "ip_adapters", {})

    def load_clip_vision(self, path):
        self.clip_vision_paths.append(path)
        return ClipVision()


@pytest.fixture
def host(monkeypatch):
    return FakeHost(monkeypatch)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)


def normalised(picture):
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))
    return ((torch.from_numpy(picture) / 255 - mean) / std).permute(2, 0, 1)[None]


def expected_linear(embeds, checkpoint):
    w = checkpoint["image_proj"]
    tokens = (embeds @ w["proj.weight"].T + w["proj.bias"]).view(-1, TOKENS, CONTEXT)
    tokens = F.layer_norm(tokens, (CONTEXT,), w["norm.weight"], w["norm.bias"])
    return [tokens @ weight.T for weight in checkpoint["ip_adapter"].values()]


def test_linear_adapter(host, picture, tmp_path):
    checkpoint = linear_checkpoint()
    path = write_bin(tmp_path / "linear.bin", checkpoint)
    ip_adapter.load_ip_adapter("clip.safetensors", None, path)
    conds, unconds = ip_adapter.preprocess(picture, ip_adapter_path=path)
    encoder = ip_adapter.clip_vision
    torch.testing.assert_close(encoder.seen[0], normalised(picture))
    embeds = ClipVision().model(pixel_values=normalised(picture), output_hidden_states=True)
    expected = expected_linear(embeds.image_embeds, checkpoint)
    torch.testing.assert_close(conds, expected)
    torch.testing.assert_close(unconds, expected_linear(torch.zeros(1, POOLED), checkpoint))
    assert [k.shape for k in conds] == [(1, TOKENS, c) for c in CHANNELS for _ in "kv"]
    assert host.loaded == [encoder.patcher]
    again = ip_adapter.preprocess(picture, path)
    assert again[1] is unconds and len(encoder.seen) == 2


def test_plus_adapter_takes_hidden_states(host, picture, tmp_path):
    path = write_bin(tmp_path / "plus.bin", plus_checkpoint())
    ip_adapter.load_ip_adapter("clip.safetensors", None, path)
    conds, unconds = ip_adapter.preprocess(picture, path)
    model = ip_adapter.ip_adapters[path]["ip_adapter"]
    assert model.plus
    for result, pixels in (
        (conds, normalised(picture)),
        (unconds, torch.zeros(1, 3, 224, 224)),  # an empty picture
    ):
        states = ClipVision().model(pixel_values=pixels, output_hidden_states=True).hidden_states
        tokens = model.image_proj_model(states[-2])
        expected = [tokens @ weight.T for weight in site_weights().values()]
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("make", [linear_checkpoint, plus_checkpoint])
def test_bin_and_safetensors_are_the_same(host, picture, tmp_path, make):
    content = make()
    flat = {f"{group}.{k}": t for group, part in content.items() for k, t in part.items()}
    save_file(flat, tmp_path / "a.safetensors")
    paths = [write_bin(tmp_path / "a.bin", content), str(tmp_path / "a.safetensors")]
    for path in paths:
        ip_adapter.load_ip_adapter("clip.safetensors", None, path)
    one, other = (ip_adapter.preprocess(picture, path) for path in paths)
    torch.testing.assert_close(one, other)


def test_the_hosts_negative_tokens_are_used_where_they_fit(host, picture, tmp_path, caplog):
    content = linear_checkpoint()
    path = write_bin(tmp_path / "linear.bin", content)
    negative = noise(1, 7, CONTEXT, seed=9)  # more tokens than the adapter makes
    save_file({"data": negative}, tmp_path / "negative.safetensors")
    save_file({"data": noise(1, 4, 2 * CONTEXT, seed=9)}, tmp_path / "sdxl.safetensors")
    ip_adapter.load_ip_adapter("clip", str(tmp_path / "negative.safetensors"), path)
    _, unconds = ip_adapter.preprocess(picture, path)
    torch.testing.assert_close(unconds, [negative @ w.T for w in content["ip_adapter"].values()])

    ip_adapter.ip_negative = None
    ip_adapter.ip_adapters.clear()
    ip_adapter.load_ip_adapter("clip", str(tmp_path / "sdxl.safetensors"), path)
    _, unconds = ip_adapter.preprocess(picture, path)
    torch.testing.assert_close(unconds, expected_linear(torch.zeros(1, POOLED), content))
    assert "(1, 4, 48)" in caplog.text and "24" in caplog.text


def test_everything_loads_once(host, tmp_path):
    path = write_bin(tmp_path / "linear.bin", linear_checkpoint())
    save_file({"data": noise(1, 4, CONTEXT, seed=9)}, tmp_path / "negative.safetensors")
    negative = str(tmp_path / "negative.safetensors")
    ip_adapter.load_ip_adapter(None, None, None)
    assert ip_adapter.clip_vision is None and ip_adapter.ip_negative is None
    ip_adapter.load_ip_adapter("clip", negative, path)
    held = ip_adapter.clip_vision, ip_adapter.ip_negative, dict(ip_adapter.ip_adapters)
    (tmp_path / "linear.bin").unlink()
    (tmp_path / "negative.safetensors").unlink()
    ip_adapter.load_ip_adapter("another clip", negative, path)
    ip_adapter.load_ip_adapter(None, None, None)
    now = ip_adapter.clip_vision, ip_adapter.ip_negative, dict(ip_adapter.ip_adapters)
    assert all(a is b for a, b in zip(held[:2], now[:2], strict=True)) and held[2] == now[2]
    assert host.clip_vision_paths == ["clip"]


def test_half_precision_where_the_host_wants_it(host, picture, tmp_path):
    path = write_bin(tmp_path / "plus.bin", plus_checkpoint())
    ip_adapter.load_ip_adapter("clip", None, path)
    full, _ = ip_adapter.preprocess(picture, path)
    host.half = True
    ip_adapter.ip_adapters[path]["ip_unconds"] = None
    halved = ip_adapter.preprocess(picture, path)
    for half, exact in zip(halved[0], full, strict=True):
        assert half.dtype == torch.float16
        torch.testing.assert_close(half.float(), exact, atol=5e-3, rtol=5e-3)


@pytest.mark.parametrize("make", [linear_checkpoint, plus_checkpoint])
def test_the_host_may_load_and_encode_in_inference_mode(host, picture, tmp_path, make):
    path = write_bin(tmp_path / "adapter.bin", make())
    with torch.inference_mode():
        ip_adapter.load_ip_adapter("clip", None, path)
        inside = ip_adapter.preprocess(picture, path)
    ip_adapter.ip_adapters[path]["ip_unconds"] = None
    torch.testing.assert_close(inside, ip_adapter.preprocess(picture, path))


def test_random_state_is_left_alone(host, picture, tmp_path):
    path = write_bin(tmp_path / "plus.bin", plus_checkpoint())
    state = torch.get_rng_state()
    ip_adapter.load_ip_adapter("clip", None, path)
    ip_adapter.preprocess(picture, path)
    ip_adapter.ImageProjModel(CONTEXT, POOLED, TOKENS)
    ip_adapter.To_KV(768)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((225, 224, 3), r"image: expected \(B, 224, 224, 3\), got \(1, 225, 224, 3\)"),
        ((224, 224, 4), r"img: expected RGB of shape"),
        ((224, 224), r"img: expected RGB of shape"),
    ],
)
def test_pictures_of_other_sizes_are_refused(host, tmp_path, size, message):
    path = write_bin(tmp_path / "linear.bin", linear_checkpoint())
    ip_adapter.load_ip_adapter("clip", None, path)
    with pytest.raises(ValueError, match=message):
        ip_adapter.preprocess(np.zeros(size, np.uint8), path)


def test_what_is_missing_is_named(host, picture, tmp_path):
    path = write_bin(tmp_path / "linear.bin", linear_checkpoint())
    with pytest.raises(KeyError, match=r"linear\.bin.*not loaded"):
        ip_adapter.preprocess(picture, path)
    ip_adapter.load_ip_adapter(None, None, path)
    with pytest.raises(ValueError, match="clip_vision: none is loaded"):
        ip_adapter.preprocess(picture, path)
    face = write_bin(tmp_path / "face.bin", face_checkpoint())
    with pytest.raises(ValueError, match=r"faceid.*CLIP vision only"):
        ip_adapter.load_ip_adapter(None, None, face)
    assert face not in ip_adapter.ip_adapters
    save_file({"other": torch.zeros(1)}, tmp_path / "negative.safetensors")
    with pytest.raises(ValueError, match=r"expected a tensor data.*other"):
        ip_adapter.load_ip_adapter(None, str(tmp_path / "negative.safetensors"), None)
    wrong = plus_checkpoint()
    wrong["image_proj"]["proj_in.weight"] = noise(64, 2 * HIDDEN, seed=1)
    path = write_bin(tmp_path / "wrong.bin", wrong)
    ip_adapter.load_ip_adapter("clip", None, path)
    with pytest.raises(ValueError, match="32 values, but the adapter takes 64"):
        ip_adapter.preprocess(picture, path)


def test_files_with_values_that_are_not_finite(host, tmp_path):
    checkpoint = linear_checkpoint()
    checkpoint["image_proj"]["proj.bias"][2] = torch.nan
    path = write_bin(tmp_path / "linear.bin", checkpoint)
    with pytest.raises(ValueError, match=r"linear\.bin: .*image_proj\.proj\.bias: .*finite"):
        ip_adapter.load_ip_adapter(None, None, path)
    assert ip_adapter.ip_adapters == {}
    path = str(tmp_path / "negative.safetensors")
    save_file({"data": torch.full((1, TOKENS, CONTEXT), torch.inf)}, path)
    with pytest.raises(ValueError, match=r"ip_negative_path: .*negative\.safetensors.* data"):
        ip_adapter.load_ip_adapter(None, path, None)
    assert ip_adapter.ip_negative is None


def test_adapter_model_checks_what_it_is_told():
    sizes = {
        "plus": True,
        "cross_attention_dim": CONTEXT,
        "clip_embeddings_dim": HIDDEN,
        "clip_extra_context_tokens": TOKENS,
        "sdxl_plus": False,
    }
    model = ip_adapter.IPAdapterModel(plus_checkpoint(), **sizes)
    assert len(model.ip_layers.to_kvs) == 2 * len(CHANNELS)
    for name, value in sizes.items():
        if name != "sdxl_plus":
            wrong = sizes | {name: value + 1 if value is not True else False}
            with pytest.raises(ValueError, match=rf"{name}: given .* say {value}"):
                ip_adapter.IPAdapterModel(plus_checkpoint(), **wrong)


@pytest.mark.parametrize("make", [linear_checkpoint, plus_checkpoint])
def test_modules_hold_the_checkpoints_names(make):
    content = make()
    model = ip_adapter.IPAdapterModel(content, None, None, None, None)
    state = model.image_proj_model.state_dict()
    assert state.keys() == content["image_proj"].keys()
    assert all(torch.equal(state[name], t) for name, t in content["image_proj"].items())
    assert isinstance(model.image_proj_model, ip_adapter.ImageProjModel) == ("norm.bias" in state)
    moved = model.to(torch.float64).image_proj_model
    features = noise(2, *((POOLED,) if "norm.bias" in state else (16, HIDDEN)), seed=7)
    ours = moved(features.double())
    torch.testing.assert_close(moved(features), ours.float())


def test_image_projection_alone():
    content = linear_checkpoint()["image_proj"]
    module = ip_adapter.ImageProjModel(
        cross_attention_dim=CONTEXT, clip_embeddings_dim=POOLED, clip_extra_context_tokens=TOKENS
    )
    assert not module(torch.ones(1, POOLED)).any(), "weights start as zeros"
    module.load_state_dict(content)
    embeds = noise(3, POOLED, seed=5)
    tokens = module(embeds)
    assert tokens.shape == (3, TOKENS, CONTEXT)
    expected = expected_linear(embeds, linear_checkpoint())
    torch.testing.assert_close(tokens @ site_weights()["1.to_k_ip.weight"].T, expected[0])


def test_key_and_value_projections_alone():
    assert [m.out_features for m in ip_adapter.To_KV(768).to_kvs] == ip_adapter.SD_V12_CHANNELS
    with torch.device("meta"):
        sizes = [m.out_features for m in ip_adapter.To_KV(2048).to_kvs]
    assert sizes == ip_adapter.SD_XL_CHANNELS and len(sizes) == 140
    module = ip_adapter.To_KV(CONTEXT, [c for c in CHANNELS for _ in "kv"])
    weights = site_weights()
    module.load_state_dict_ordered(dict(reversed(weights.items())))
    tokens = noise(1, TOKENS, CONTEXT, seed=8)
    for layer, weight in zip(module.to_kvs, weights.values(), strict=True):
        torch.testing.assert_close(layer(tokens), tokens @ weight.T)
    with pytest.raises(ValueError, match="7 key and value projections, expected 8"):
        module.load_state_dict_ordered(dict(list(weights.items())[1:]))
    with pytest.raises(ValueError, match=r"1\.to_k_ip\.weight has shape \(32, 24\)"):
        module.load_state_dict_ordered(weights | {"1.to_k_ip.weight": torch.zeros(32, CONTEXT)})


def test_channels_are_those_of_the_models():
    assert ip_adapter.SD_V12_CHANNELS == (
        [320] * 4 + [640] * 4 + [1280] * 4 + [1280] * 6 + [640] * 6 + [320] * 6 + [1280] * 2
    )
    assert ip_adapter.SD_XL_CHANNELS == (
        [640] * 8 + [1280] * 40 + [1280] * 60 + [640] * 12 + [1280] * 20
    )


def test_clip_preprocess_normalises_in_the_pictures_dtype():
    image = torch.rand(2, 224, 224, 3, generator=torch.Generator().manual_seed(0)).double()
    result = ip_adapter.clip_preprocess(image)
    assert result.shape == (2, 3, 224, 224) and result.dtype == torch.float64
    expected = (image[1, 5, 7, 2] - 0.40821073) / 0.27577711
    torch.testing.assert_close(result[1, 2, 5, 7], expected)


def test_one_line_makes_the_hosts_file(host, tmp_path, monkeypatch):
    package = tmp_path / "extras"
    package.mkdir()
    line = "from attnpatch.hosts.fooocus.ip_adapter import *\n"
    (package / "ip_adapter.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("extras.ip_adapter")
    for name in ("extras.ip_adapter", "extras"):
        monkeypatch.delitem(sys.modules, name)
    assert module.clip_vision is None and module.ip_negative is None
    path = write_bin(tmp_path / "linear.bin", linear_checkpoint())
    module.load_ip_adapter("clip", None, path)
    assert isinstance(module.clip_vision, ClipVision)
    assert path in ip_adapter.ip_adapters
    for name in (
        "SD_V12_CHANNELS",
        "SD_XL_CHANNELS",
        "IPAdapterModel",
        "ImageProjModel",
        "To_KV",
        "clip_preprocess",
        "ip_adapters",
        "load_ip_adapter",
        "patch_model",
        "preprocess",
        "sdp",
    ):
        assert hasattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.slow
def test_importing_needs_no_host():
    code = (
        "import sys, attnpatch.hosts.fooocus.ip_adapter\n"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('ldm_patched', 'modules')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plain_attention_is_the_hosts(monkeypatch):
    q, k, v = noise(3, 2, 5, 16, seed=1).unbind()
    plain = ip_adapter.sdp(q, k, v, {"n_heads": 2})
    split = [x.view(2, 5, 2, 8).transpose(1, 2) for x in (q, k, v)]
    expected = F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(2, 5, 16)
    torch.testing.assert_close(plain, expected)

    attention = types.ModuleType("ldm_patched.ldm.modules.attention")
    attention.optimized_attention = lambda q, k, v, heads, mask: (q, k, v, heads, mask)
    monkeypatch.setitem(sys.modules, attention.__name__, attention)
    assert ip_adapter.sdp(q, k, v, {"n_heads": 2}) == (q, k, v, 2, None)
