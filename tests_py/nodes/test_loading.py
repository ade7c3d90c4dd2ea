# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Loaders, what travels through IPADAPTER, and what nodes ask of the host."""

import gc
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from fake_adapters import save_state
from protocol_host import SD1, SDXL
from running import run

from attnpatch import load_image_adapter
from attnpatch.nodes import NODE_CLASS_MAPPINGS
from attnpatch.nodes import comfy as comfy_host
from attnpatch.nodes.ipadapter.faces import load_analyser
from attnpatch.nodes.ipadapter.presets import COMMUNITY, FACE, PICTURE, find_file
from attnpatch.nodes.ipadapter.sockets import AdapterDict, unpack

FILES = [
    "clip-vit-large-patch14-336.bin", "ip-adapter-faceid-plus_sd15.bin",
    "ip-adapter-faceid-plusv2_sd15.bin", "ip-adapter-faceid-plusv2_sdxl.bin",
    "ip-adapter-faceid-portrait-v11_sd15.bin", "ip-adapter-faceid-portrait_sdxl.bin",
    "ip-adapter-faceid-portrait_sdxl_unnorm.bin", "ip-adapter-faceid_sd15.bin",
    "ip-adapter-faceid_sdxl.bin", "ip-adapter-full-face_sd15.safetensors",
    "ip-adapter-plus-face_sd15.safetensors", "ip-adapter-plus-face_sdxl_vit-h.safetensors",
    "ip-adapter-plus_sd15.safetensors", "ip-adapter-plus_sdxl_vit-h.safetensors",
    "ip-adapter_sd15.safetensors", "ip-adapter_sd15_light.safetensors",
    "ip-adapter_sd15_light_v11.bin", "ip-adapter_sd15_vit-G.safetensors",
    "ip-adapter_sdxl.safetensors", "ip-adapter_sdxl_vit-h.safetensors",
    "ip_plus_composition_sd15.safetensors", "ip_plus_composition_sdxl.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("preset", [*PICTURE, *FACE])
def test_presets_find_the_published_files(preset):
    chosen = (PICTURE | FACE)[preset]
    words = {"LIGHT": "light_v11", "VIT-G": ("vit-G", "sdxl."), "FULL": "full-face"}
    for names, other in ((chosen.sd1, "sdxl"), (chosen.sdxl, "sd15")):
        if not names:
            continue
        found = find_file(names, FILES)
        assert found is not None and other not in found
        for start, parts in words.items():
            if preset.startswith(start):
                assert any(part in found for part in ([parts] if isinstance(parts, str) else parts))
        assert ("faceid" in found) == chosen.face
        assert ("plus-face" in found) == ("PLUS FACE" in preset)


def test_presets_prefer_the_better_file_and_know_encoders():
    light = PICTURE["LIGHT - SD1.5 only (low strength)"]
    assert find_file(light.sd1, ["a/ip-adapter_sd15_light.bin"]) == "a/ip-adapter_sd15_light.bin"
    encoders = ["CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
                "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors",
                "clip-vit-large-patch14-336.bin"]  # fmt: skip
    found = [
        find_file(preset.encoder, encoders, patterns=True)
        for preset in (light, PICTURE["VIT-G (medium strength)"], COMMUNITY["Kolors"])
    ]
    assert found == encoders
    assert find_file(light.encoder, ["SD1.5 model.safetensors"], patterns=True)
    assert find_file(("ip-adapter_sd15",), ["ip-adapter_sd15.safetensors.txt"]) is None


@pytest.fixture
def adapters(folders, raw_adapter):
    """Adapters' files, and a host that loads encoders and LoRA."""
    comfy_host.register_folder("ipadapter")
    place = folders.root / "models" / "ipadapter"
    for name, structure in (("sd15", SD1), ("sdxl_vit-h", SDXL)):
        save_state(raw_adapter("linear", structure), place / f"ip-adapter_{name}.safetensors")
    save_state(raw_adapter("faceid"), place / "ip-adapter-faceid_sd15.bin")
    encoder = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
    (folders.root / "models" / "clip_vision" / encoder).write_bytes(b"x")
    lora = folders.root / "models" / "loras" / "ip-adapter-faceid_sd15_lora.safetensors"
    lora.write_bytes(b"x")
    return folders


@pytest.fixture
def comfy(monkeypatch, clip_vision):
    """Stand-ins for the host's modules that load things."""
    loaded = []
    names = ("comfy", "comfy.clip_vision", "comfy.utils", "comfy.sd")
    modules = {name: ModuleType(name) for name in names}
    modules["comfy.clip_vision"].load = lambda path: loaded.append(path) or SimpleEncoder()
    modules["comfy.utils"].load_torch_file = lambda path, safe_load: (path, safe_load)
    modules["comfy.utils"].ProgressBar = None
    modules["comfy.sd"].load_lora_for_models = lambda model, clip, lora, strength, other: (
        SimpleNamespace(model=model.model, lora=(lora, strength, other)),
        clip,
    )
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return loaded


class SimpleEncoder:
    pass


def test_model_loader(adapters, raw_adapter):
    files = NODE_CLASS_MAPPINGS["IPAdapterModelLoader"].INPUT_TYPES()["required"]
    assert files["ipadapter_file"][0] == [
        "ip-adapter-faceid_sd15.bin",
        "ip-adapter_sd15.safetensors",
        "ip-adapter_sdxl_vit-h.safetensors",
    ]
    (loaded,) = run("IPAdapterModelLoader", ipadapter_file="ip-adapter_sd15.safetensors")
    assert loaded.adapter == load_image_adapter(raw_adapter())
    # Nodes of other packs read it as a dict of tensors.
    assert loaded["ip_adapter"]["1.to_k_ip.weight"].shape == (16, 24)
    assert "proj.weight" in loaded["image_proj"] and "faceidplusv2" not in loaded
    (again,) = run("IPAdapterModelLoader", ipadapter_file="ip-adapter_sd15.safetensors")
    assert again is loaded
    del loaded, again
    gc.collect()
    from attnpatch.nodes.ipadapter import sockets

    assert not list(sockets._by_file.values())


def test_missing_file_is_named(adapters):
    with pytest.raises(FileNotFoundError, match=r"ipadapter_file: no file 'x\.bin' in .*ipadapter"):
        run("IPAdapterModelLoader", ipadapter_file="x.bin")


def test_lists_are_empty_without_a_host():
    types = NODE_CLASS_MAPPINGS["IPAdapterModelLoader"].INPUT_TYPES()
    assert types["required"]["ipadapter_file"][0] == []
    with pytest.raises(FileNotFoundError, match=r"ipadapter_file: no file 'x\.bin' in any"):
        run("IPAdapterModelLoader", ipadapter_file="x.bin")


def test_configured_folders_stay(folders):
    folders.folder_names_and_paths["ipadapter"] = (["/elsewhere"], set())
    comfy_host.register_folder("ipadapter")
    paths, suffixes = folders.folder_names_and_paths["ipadapter"]
    assert paths == ["/elsewhere"] and suffixes == folders.supported_pt_extensions


@pytest.mark.parametrize(("structure", "file"), [(SD1, "sd15"), (SDXL, "sdxl_vit-h")])
def test_unified_loader_chooses_by_the_model(structure, file, adapters, comfy, model):
    given = model(structure)
    patched, pipeline = run(
        "IPAdapterUnifiedLoader", model=given, preset="STANDARD (medium strength)"
    )
    assert patched is given
    assert pipeline["ipadapter"]["file"].endswith(f"ip-adapter_{file}.safetensors")
    assert isinstance(pipeline["ipadapter"]["model"], AdapterDict)
    assert isinstance(pipeline["clipvision"]["model"], SimpleEncoder)
    assert unpack(pipeline).clip_vision is pipeline["clipvision"]["model"]
    # What is loaded already is not loaded again: here, and from another pack's loader.
    foreign = {"clipvision": {"file": pipeline["clipvision"]["file"], "model": "theirs"}}
    _, second = run("IPAdapterUnifiedLoader", model=given, preset="STANDARD (medium strength)",
                    ipadapter=foreign)  # fmt: skip
    assert second["clipvision"]["model"] == "theirs"
    assert second["ipadapter"]["model"] is pipeline["ipadapter"]["model"]
    assert len(comfy) == 1


def test_unified_loader_says_what_is_missing(adapters, comfy, model):
    with pytest.raises(FileNotFoundError, match=r"'PLUS \(high.*a file like ip-adapter-plus_sd15"):
        run("IPAdapterUnifiedLoader", model=model(), preset="PLUS (high strength)")
    light = "LIGHT - SD1.5 only (low strength)"
    with pytest.raises(ValueError, match=r"exists for SD1\.5 only; the model is SDXL"):
        run("IPAdapterUnifiedLoader", model=model(SDXL), preset=light)


def test_a_preset_for_a_model_that_has_no_unet(adapters):
    transformer = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)))
    with pytest.raises(
        TypeError, match=r"model: expected a UNet .* got a network that is a Linear"
    ):
        run("IPAdapterUnifiedLoader", model=transformer, preset="STANDARD (medium strength)")


@pytest.fixture
def analysis(monkeypatch):
    """A stand-in for our face analysis, whose networks are not at hand."""

    class Analysis:
        def __init__(self, name, folders):
            self.name, self.folders = name, folders

    load_analyser.cache_clear()
    monkeypatch.setattr("attnpatch.nodes.ipadapter.faces.FaceAnalysis", Analysis)
    yield
    load_analyser.cache_clear()


def test_unified_face_loader(adapters, comfy, analysis, model):
    patched, pipeline = run("IPAdapterUnifiedLoaderFaceID", model=model(), preset="FACEID",
                            lora_strength=0.4)  # fmt: skip
    (path, safe), strength, _ = patched.lora
    assert path.endswith("ip-adapter-faceid_sd15_lora.safetensors")
    assert safe is True and strength == 0.4
    analyser = pipeline["insightface"]["model"]
    assert analyser.analysis.name == "buffalo_l"
    assert [folder.name for folder in analyser.analysis.folders] == ["insightface"]
    assert unpack(pipeline).insightface is analyser
    same, _ = run("IPAdapterUnifiedLoaderFaceID", model=model(), preset="FACEID", lora_strength=0)
    assert not hasattr(same, "lora")
    (again,) = run("IPAdapterInsightFaceLoader", provider="CPU", model_name="buffalo_l")
    assert again is analyser


def test_foreign_dicts_are_read_once(raw_adapter):
    raw = raw_adapter("faceid_plus")
    with_mark = raw | {"faceidplusv2": True}
    assert unpack(with_mark).adapter.kind == "faceid_plus_v2"
    assert unpack(with_mark).adapter is unpack(dict(with_mark)).adapter
    own = load_image_adapter(raw_adapter())
    assert unpack(own).adapter is own
    assert unpack(AdapterDict(own)).adapter is own


def test_marks_that_other_packs_look_for(raw_adapter):
    second = load_image_adapter(raw_adapter("faceid_plus"), kind="faceid_plus_v2")
    assert AdapterDict(second)["faceidplusv2"] is True
    assert unpack(dict(AdapterDict(second))).adapter.kind == "faceid_plus_v2"


@pytest.mark.parametrize("given", [3, {"clipvision": {}}, None])
def test_no_adapter(given):
    with pytest.raises(TypeError, match="ipadapter: expected the output of an IPAdapter loader"):
        unpack(given)


def test_empty_pipeline():
    with pytest.raises(ValueError, match="ipadapter: its loader has not loaded an adapter"):
        unpack({"ipadapter": {"file": None, "model": None}})


def test_missing_and_wrong_encoder_are_named(model, image, raw_adapter):
    values = {"model": model(), "ipadapter": raw_adapter("plus"), "image": image()}
    with pytest.raises(ValueError, match="clip_vision: this adapter needs the CLIP vision model"):
        run("IPAdapterAdvanced", **values)
    from fake_encoders import FakeClipVision

    with pytest.raises(ValueError, match=r"image: this plus adapter takes .*40\).*got .*1664\)"):
        run("IPAdapterAdvanced", clip_vision=FakeClipVision(hidden=1664), **values)


def test_steps_show_progress_and_stop(monkeypatch):
    shown = []
    utils, management = ModuleType("comfy.utils"), ModuleType("comfy.model_management")
    utils.ProgressBar = lambda total: SimpleNamespace(update=lambda n: shown.append((n, total)))

    def interrupted():
        if len(shown) == 2:
            raise KeyboardInterrupt

    management.throw_exception_if_processing_interrupted = interrupted
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    seen = []
    with pytest.raises(KeyboardInterrupt):
        seen.extend(comfy_host.steps("abc", 3))
    assert shown == [(1, 3), (1, 3)]
    assert list(comfy_host.steps([], 0)) == []


@pytest.mark.parametrize(
    ("own", "cast", "expected"),
    [
        (torch.float16, None, torch.float16),
        (torch.float8_e4m3fn, None, torch.float32),
        (torch.float8_e4m3fn, torch.bfloat16, torch.bfloat16),
    ],
)
def test_compute_dtype(own, cast, expected):
    inner = SimpleNamespace(get_dtype=lambda: own, manual_cast_dtype=cast)
    assert comfy_host.compute_dtype(SimpleNamespace(model=inner)) == expected
