# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Adapters as training scripts and diffusers save them: the same tensors, in the same order."""

import pytest
import torch
from diffusers import MotionAdapter, StableDiffusionPipeline, UNetMotionModel
from fake_adapters import Maker, flatten
from safetensors.torch import save_file
from unet_files import (
    CONTEXT,
    SHAPES,
    backwards,
    cross_layers,
    make_state,
    make_unet,
    name_layers,
    trained,
)

from attnpatch.adapters import describe, load_image_adapter
from attnpatch.hosts.diffusers.unet.layers import read_layer_table

every_shape = pytest.mark.parametrize("shape", SHAPES)


def digest(source, **options):
    return load_image_adapter(source, **options).digest


@every_shape
def test_the_unets_names_give_the_unets_order(shape, tmp_path):
    unet = make_unet(shape)
    state = make_state(unet)
    assert cross_layers(unet) == [layer.name for layer in read_layer_table(unet)]
    wanted = digest(state)
    save_file(trained(unet, state), tmp_path / "model.safetensors")
    assert digest(tmp_path / "model.safetensors") == wanted
    torch.save(backwards(trained(unet, state)), tmp_path / "pytorch_model.bin")
    assert digest(tmp_path / "pytorch_model.bin") == wanted
    names = backwards(name_layers(unet, state["ip_adapter"]))
    assert digest({**state, "ip_adapter": names}) == wanted
    assert "layers by the UNet's names" in describe(tmp_path / "model.safetensors")


def test_accelerate_itself(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    unet = make_unet("sd1")
    state = make_state(unet)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unet = unet
            self.image_proj_model = torch.nn.ModuleDict(
                {"proj": torch.nn.Linear(20, 4 * CONTEXT), "norm": torch.nn.LayerNorm(CONTEXT)}
            )
            modules = [torch.nn.Module() for _ in unet.attn_processors]
            for module, name in zip(modules, unet.attn_processors, strict=True):
                if name.endswith("attn2.processor"):
                    channels = unet.get_submodule(name.removesuffix(".processor")).inner_dim
                    module.to_k_ip = torch.nn.Linear(CONTEXT, channels, bias=False)
                    module.to_v_ip = torch.nn.Linear(CONTEXT, channels, bias=False)
                unet.get_submodule(name.removesuffix(".processor")).processor = module
            self.adapter_modules = torch.nn.ModuleList(modules)

    model = Model()
    model.image_proj_model.load_state_dict(state["image_proj"])
    model.adapter_modules.load_state_dict(state["ip_adapter"])
    accelerate.Accelerator(cpu=True).save_model(model, tmp_path, safe_serialization=True)
    assert digest(tmp_path) == digest(state)
    torch.save(model.state_dict(), tmp_path / "both.bin")  # either name of every weight
    assert digest(tmp_path / "both.bin") == digest(state)


@pytest.mark.parametrize(
    "pattern",
    [
        "{layer}.attn{attention}.processor.{name}",
        "{layer}.attn{attention}.{name}",
        "unet.{layer}.attn{attention}.processor.{name}",
        "module.unet._orig_mod.{layer}.attn{attention}.processor.{name}",
        "{layer}._orig_mod.attn{attention}.processor.module.{name}",
    ],
)
@pytest.mark.parametrize("lora", [False, True])
def test_names_of_layers(pattern, lora):
    unet = make_unet("sd1")
    state = make_state(unet, lora=lora)
    named = name_layers(unet, state["ip_adapter"], pattern)
    assert digest({"image_proj": state["image_proj"], "ip_adapter": named}) == digest(state)
    flat = {f"image_proj.{name}": tensor for name, tensor in state["image_proj"].items()}
    adapter = load_image_adapter(backwards(flat | named))
    assert adapter.digest == digest(state)
    for name, tensor in adapter.lora.items():
        assert torch.equal(tensor, state["ip_adapter"][name])


def projections():
    """Each network that diffusers renames, of the depth that it takes."""
    maker = Maker(3)
    size = {"heads": 1, "depth": 4}
    return {
        "linear": maker.image_projection(20, CONTEXT),
        "full_face": maker.token_mlp(20, CONTEXT),
        "faceid": maker.mlp(512, CONTEXT),
        "faceid_portrait": maker.mlp(512, CONTEXT, tokens=16),
        "plus": maker.resampler(20, 32, CONTEXT, queries=5, **size),
        "portrait_unnorm": maker.resampler(512, 32, CONTEXT, **size),
        "faceid_plus": maker.face_perceiver(512, 20, CONTEXT, **size),
    }


@pytest.mark.parametrize("kind", projections())
def test_a_unet_saved_with_its_adapter(kind, tmp_path):
    unet = make_unet("sd1")
    state = make_state(unet, projections()[kind])
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    unet.save_pretrained(tmp_path / "unet")
    adapter = load_image_adapter(tmp_path / "unet", kind=kind)
    assert adapter.digest == digest(state, kind=kind)
    text = describe(tmp_path / "unet")
    assert "diffusers UNet with the adapter loaded" in text
    torch.save(unet.state_dict(), tmp_path / "unet.bin")
    assert digest(tmp_path / "unet.bin", kind=kind) == adapter.digest
    layer = unet.encoder_hid_proj.image_projection_layers[0]
    assert digest({**state, "image_proj": layer.state_dict()}, kind=kind) == adapter.digest


@pytest.mark.parametrize("kind", ["linear", "plus"])
def test_parameters_of_a_projection_of_diffusers(kind):
    """They are the adapter's own; where two are joined, the copy would not follow an optimiser."""
    unet = make_unet("sd1")
    state = make_state(unet, projections()[kind])
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    layer = unet.encoder_hid_proj.image_projection_layers[0].requires_grad_()
    given = {**state, "image_proj": dict(layer.named_parameters())}
    if kind == "plus":
        with pytest.raises(ValueError, match=r"image_proj: expected .*to_kv\.weight .* gradient"):
            load_image_adapter(given, kind=kind)
        with torch.no_grad():
            assert digest(given, kind=kind) == digest(state, kind=kind)
        return
    embeds = load_image_adapter(given, kind=kind).get_image_embeds(torch.ones(1, 20))
    embeds.cond.square().sum().backward()
    assert all(parameter.grad.any() for parameter in layer.parameters())


def test_a_pipeline_saved_with_an_adapter_for_faces(tmp_path):
    pytest.importorskip("peft")
    unet = make_unet("sd1")
    state = make_state(unet, projections()["faceid"], lora=True)
    parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "scheduler", "safety_checker"])
    pipeline = StableDiffusionPipeline(
        unet=unet, feature_extractor=None, requires_safety_checker=False, **parts
    )
    pipeline.load_ip_adapter(
        state, subfolder="", weight_name="", image_encoder_folder=None, low_cpu_mem_usage=False
    )
    unet.save_pretrained(tmp_path)
    adapter = load_image_adapter(tmp_path)
    assert len(adapter.lora) == 8 * len(unet.attn_processors)
    assert adapter.digest == digest(state)


def test_names_of_early_diffusers():
    """A UNet with one adapter and no lists, the parts of a layer by number."""
    unet = make_unet("sd1")
    state = make_state(unet, projections()["plus"])
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    early = {}
    for name, tensor in unet.state_dict().items():
        name = name.replace("image_projection_layers.0.", "").replace("_ip.0.", "_ip.")
        if name.startswith("encoder_hid_proj."):
            for word, number in {"ln0": 0, "ln1": 1, "attn": 2, "ff": 3}.items():
                name = name.replace(f".{word}.", f".{number}.")
        early[name] = tensor
    assert digest(early) == digest(state)


def test_a_unet_with_motion_modules(tmp_path):
    """Their attention counts as no layer of an adapter."""
    motion = MotionAdapter(
        block_out_channels=SHAPES["sd1"]["block_out_channels"],
        motion_norm_num_groups=4,
        motion_num_attention_heads=2,
    )
    unet = UNetMotionModel.from_unet2d(make_unet("sd1"), motion)
    state = make_state(make_unet("sd1"))
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    torch.save(unet.state_dict(), tmp_path / "unet.bin")
    assert digest(tmp_path / "unet.bin") == digest(state)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_unet_that_projects_its_text(loaded):
    """The UNet's own `encoder_hid_proj`, as Kolors has it, is no projection of pictures."""
    unet = make_unet("sdxl", encoder_hid_dim=40, encoder_hid_dim_type="text_proj")
    state = make_state(unet)
    if loaded:
        unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    tensors = unet.state_dict() if loaded else trained(unet, state)
    assert digest(tensors) == digest(state)


class TestSeveralInOneFile:
    @pytest.fixture
    def file(self, tmp_path):
        unet = make_unet("sd1")
        self.states = [
            make_state(unet, projections()[kind], seed)
            for seed, kind in enumerate(["plus", "linear"])
        ]
        unet._load_ip_adapter_weights(self.states, low_cpu_mem_usage=False)
        unet.save_pretrained(tmp_path)
        return tmp_path / "diffusion_pytorch_model.safetensors"

    def test_a_choice_is_asked_for(self, file):
        with pytest.raises(ValueError, match=r"safetensors: it holds 2 .* with which: '0', '1'$"):
            load_image_adapter(file)

    @pytest.mark.parametrize("which", [0, 1, "0", "1"])
    def test_each_is_read(self, which, file):
        assert digest(file, which=which) == digest(self.states[int(which)])

    def test_no_such_one(self, file):
        with pytest.raises(ValueError, match="which: expected one of '0', '1', got 2"):
            load_image_adapter(file, which=2)

    def test_both_are_described(self, file):
        text = describe(file)
        assert "kind    plus" in text and "kind    linear" in text
        assert "adapter 0 of 2" in text and "adapter 1 of 2" in text

    def test_lists_of_different_lengths(self, file):
        unet = make_unet("sd1")
        unet._load_ip_adapter_weights(self.states, low_cpu_mem_usage=False)
        tensors = {
            name: tensor
            for name, tensor in unet.state_dict().items()
            if "image_projection_layers.1." not in name
        }
        with pytest.raises(ValueError, match="projections 0, layers 0, 1"):
            load_image_adapter(tensors)

    def test_a_moving_average_beside_the_model(self):
        unet = make_unet("sd1")
        model, average = (make_state(unet, seed=seed) for seed in (1, 2))
        both = {"model": model, "ema": flatten(average), "epoch": 3}
        with pytest.raises(ValueError, match="which: 'model', 'ema'"):
            load_image_adapter(both)
        assert digest(both, which="ema") == digest(average)
        assert digest(both, which="model") == digest(model)
        assert digest({"ema": average}) == digest({"ema": average}, which=0) == digest(average)


def without(tensors, part):
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    assert len(kept) < len(tensors)
    return kept


class TestIncomplete:
    @every_shape
    def test_every_layer_is_missed_where_the_unet_is_there(self, shape):
        unet = make_unet(shape)
        tensors = trained(unet, make_state(unet))
        layers = cross_layers(unet)
        for layer in layers[:: 1 + len(layers) // 20]:
            names = f"{layer}.attn2.processor"
            with pytest.raises(ValueError, match=rf"missing {layer}\.attn2\.to_k_ip\.weight$"):
                load_image_adapter(without(tensors, names))
            with pytest.raises(ValueError, match=rf"missing {layer}\.attn2\.to_v_ip\.weight$"):
                load_image_adapter(without(tensors, f"{names}.to_v_ip"))

    @pytest.mark.parametrize(
        "layer", ["down_blocks.1.attentions.0", "down_blocks.2.attentions.1.transformer_blocks.3"]
    )
    def test_gaps(self, layer):
        unet = make_unet("sdxl")
        state = make_state(unet)
        named = without(name_layers(unet, state["ip_adapter"]), f"{layer}.")
        with pytest.raises(ValueError, match=rf"ip_adapter: missing {layer}"):
            load_image_adapter({**state, "ip_adapter": named})

    @pytest.mark.parametrize(
        "block", ["down_blocks.0", "up_blocks.1", "up_blocks.3.attentions.2", "down_blocks.2"]
    )
    def test_of_a_known_unet(self, block):
        unet = make_unet("sd1")
        maker = Maker(device="meta")
        channels = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
        layers = without(name_layers(unet, maker.sites(channels, 768)), block)
        state = {"image_proj": maker.image_projection(1024, 768), "ip_adapter": layers}
        with pytest.raises(ValueError, match=rf"ip_adapter: missing {block}"):
            load_image_adapter(state)

    def test_a_small_unet_is_no_part_of_a_known_one(self):
        maker = Maker(device="meta")
        down = [f"down_blocks.{b}.attentions.0.transformer_blocks.0" for b in range(3)]
        up = [
            f"up_blocks.{b}.attentions.{a}.transformer_blocks.0" for b in (1, 2, 3) for a in (0, 1)
        ]
        layers = {
            f"{name}.attn2.processor.to_{letter}_ip.weight": maker.randn(8, 768)
            for name in up + down
            for letter in "kv"
        }
        state = {"image_proj": maker.image_projection(1024, 768), "ip_adapter": layers}
        assert load_image_adapter(state).site_count == 9

    def test_numbered_layers_beside_a_unet(self):
        unet = make_unet("sd1")
        tensors = flatten(make_state(unet))
        last = "ip_adapter.31."
        frozen = {f"unet.{name}": tensor for name, tensor in unet.state_dict().items()}
        assert load_image_adapter(tensors | frozen).site_count == 16
        with pytest.raises(ValueError, match="15 are there, the UNet beside them has 16"):
            load_image_adapter(without(tensors, last) | frozen)

    def test_half_of_a_lora(self):
        state = make_state(make_unet("sd1"), projections()["faceid"], lora=True)
        del state["ip_adapter"]["3.to_q_lora.down.weight"]
        with pytest.raises(ValueError, match=r"missing 3\.to_q_lora\.down\.weight"):
            load_image_adapter(state)

    def test_half_of_a_perceivers_attention(self):
        unet = make_unet("sd1")
        unet._load_ip_adapter_weights(
            [make_state(unet, projections()["plus"])], low_cpu_mem_usage=False
        )
        with pytest.raises(ValueError, match=r"missing layers\.2\.0\.to_v\.weight"):
            load_image_adapter(without(unet.state_dict(), "layers.2.attn.to_v"))


class TestContradictions:
    def test_two_names_of_one_layer(self):
        unet = make_unet("sd1")
        state = make_state(unet)
        named = name_layers(unet, make_state(unet, seed=5)["ip_adapter"])
        with pytest.raises(ValueError, match="by the UNet's names are not the same"):
            load_image_adapter(flatten(state) | named)

    def test_one_name_twice(self):
        unet = make_unet("sd1")
        one, other = make_state(unet), make_state(unet, seed=5)
        assert digest({"model": one, "state_dict": flatten(one)}) == digest(one)
        with pytest.raises(ValueError, match=r"state_dict\.image_proj\..*other values"):
            load_image_adapter({"model": one, "state_dict": other})

    def test_a_weight_that_no_attention_to_text_has(self):
        unet = make_unet("sd1")
        state = make_state(unet)
        named = name_layers(unet, state["ip_adapter"])
        extra = f"{cross_layers(unet)[0]}.attn1.processor.to_k_ip.weight"
        with pytest.raises(ValueError, match=r"unexpected down_blocks\.0.*attn1"):
            load_image_adapter({**state, "ip_adapter": named | {extra: torch.ones(8, CONTEXT)}})

    def test_a_processor_of_another_kind(self):
        unet = make_unet("sd1")
        state = make_state(unet)
        named = name_layers(unet, state["ip_adapter"])
        extra = f"{cross_layers(unet)[0]}.attn2.processor.norm_ip.weight"
        with pytest.raises(ValueError, match=r"ip_adapter: unexpected down_blocks\..*norm_ip"):
            load_image_adapter(flatten(state) | named | {extra: torch.ones(8)})

    def test_halves_of_different_holders(self):
        state = make_state(make_unet("sd1"))
        halves = {
            "projector": {"image_proj_model": state["image_proj"]},
            "layers": {"adapter_modules": state["ip_adapter"]},
        }
        assert digest(halves) == digest(state)
        halves["other"] = {"image_proj_model": state["image_proj"]}
        with pytest.raises(ValueError, match="which belong together does not show"):
            load_image_adapter(halves)
        with pytest.raises(ValueError, match="other: no tensors of ip_adapter there"):
            load_image_adapter(state | {"other": {"image_proj": state["image_proj"]}})


def test_a_unet_without_an_adapter(tmp_path):
    unet = make_unet("sd1")
    unet.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="this is a diffusers UNet or ControlNet, not an image ad"):
        load_image_adapter(tmp_path / "diffusion_pytorch_model.safetensors")
