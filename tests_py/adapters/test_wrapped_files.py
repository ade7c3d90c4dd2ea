# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""State dicts with prefixes and a trainer's entries; shards, folders and the hub."""

import json
import sys

import pytest
import torch
from fake_adapters import ROWS, flatten, make_state, save_state
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from attnpatch.adapters import describe, load_image_adapter

STATE = make_state(ROWS[0])
FLAT = flatten(STATE)
DIGEST = load_image_adapter(STATE).digest
TRAINER = {
    "epoch": 1,
    "global_step": torch.tensor(10),
    "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]},
    "lr_schedulers": [{"last_epoch": 3}],
    "rng_state": {"torch": torch.zeros(8, dtype=torch.uint8)},
    "args": {"resolution": 512, "name": "run", "seed": None},
}


def digest(source, **options):
    return load_image_adapter(source, **options).digest


@given(
    st.lists(st.sampled_from(["module", "_orig_mod", "model", "unet", "net"]), max_size=3),
    st.lists(st.sampled_from(["state_dict", "model", "module", "ip_adapter"]), max_size=2),
    st.booleans(),
    st.booleans(),
)
def test_any_nesting_of_wrappers(prefixes, entries, nested, inner):
    prefix = "".join(f"{p}." for p in prefixes)
    content = {f"{prefix}{name}": tensor for name, tensor in (STATE if nested else FLAT).items()}
    if inner and nested:
        content = {
            group: {f"module.{name}": tensor for name, tensor in tensors.items()}
            for group, tensors in content.items()
        }
    for entry in entries:
        content = {entry: content}
    assert digest(content) == DIGEST
    assert digest(content | TRAINER) == DIGEST


@pytest.mark.parametrize("entry", TRAINER)
@pytest.mark.parametrize("holder", [None, "state_dict"])
def test_what_trainers_save_beside(entry, holder, tmp_path):
    content = (STATE if holder is None else {holder: FLAT}) | {entry: TRAINER[entry]}
    torch.save(content, tmp_path / "last.ckpt")
    assert digest(tmp_path / "last.ckpt") == DIGEST
    assert "form " in describe(tmp_path / "last.ckpt")


def test_modules_of_a_training_script_in_one_module():
    content = {f"ip_adapter.image_proj_model.{n}": t for n, t in STATE["image_proj"].items()}
    content |= {f"ip_adapter.adapter_modules.{n}": t for n, t in STATE["ip_adapter"].items()}
    content |= {"ip_adapter.unet.conv_in.weight": torch.ones(1), "vae.conv.bias": torch.ones(1)}
    assert digest({"state_dict": content, "pytorch-lightning_version": "2.5"}) == DIGEST


def test_unknown_tensors_are_not_passed_over():
    with pytest.raises(ValueError, match="unexpected beside image_proj and ip_adapter: mystery"):
        load_image_adapter(STATE | {"mystery": torch.ones(1)})


def test_an_error_counts_what_it_found():
    with pytest.raises(ValueError, match=r"it holds t0, t1, t2, t3, t4 and 3 more$"):
        load_image_adapter({f"t{number}": torch.ones(1) for number in range(8)})


def save_shards(folder, stem="model", suffix=".safetensors", parts=3):
    folder.mkdir(parents=True, exist_ok=True)
    names, files = sorted(FLAT), {}
    for part in range(parts):
        file = f"{stem}-{part + 1:05}-of-{parts:05}{suffix}"
        tensors = {name: FLAT[name].contiguous() for name in names[part::parts]}
        (save_file if suffix == ".safetensors" else torch.save)(tensors, folder / file)
        files |= dict.fromkeys(tensors, file)
    index = folder / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return index


class TestShards:
    @pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
    def test_by_index_and_by_folder(self, suffix, tmp_path):
        index = save_shards(tmp_path, suffix=suffix)
        assert digest(index) == digest(tmp_path) == DIGEST
        assert "form    published, in 3 shards" in describe(index)

    def test_one_alone(self, tmp_path):
        index = save_shards(tmp_path)
        shard = tmp_path / "model-00002-of-00003.safetensors"
        with pytest.raises(ValueError, match=r"shard 2 of 3; .* model\.safetensors\.index\.json$"):
            load_image_adapter(shard)
        index.unlink()
        with pytest.raises(ValueError, match=r"index\.json, which is missing here"):
            load_image_adapter(tmp_path)

    def test_the_only_one_is_whole(self, tmp_path):
        save_shards(tmp_path, parts=1)
        assert digest(tmp_path / "model-00001-of-00001.safetensors") == DIGEST

    def test_one_missing(self, tmp_path):
        index = save_shards(tmp_path)
        (tmp_path / "model-00002-of-00003.safetensors").unlink()
        with pytest.raises(ValueError, match="1 of its 3 shards are missing: model-00002-of-00003"):
            load_image_adapter(index)

    def test_a_tensor_missing(self, tmp_path):
        index = save_shards(tmp_path)
        save_file({"other": torch.ones(1)}, tmp_path / "model-00001-of-00003.safetensors")
        with pytest.raises(ValueError, match=r"model-00001.* tensors that .*index\.json names are"):
            load_image_adapter(index)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not JSON"),
            ("[]", "it has no weight_map"),
            ('{"weight_map": {}}', "it has no weight_map"),
            ('{"weight_map": {"a": "../b.bin"}}', r"a: expected a file's name, got '\.\./b\.bin'"),
            ('{"weight_map": {"a": "c\\\\b.bin"}}', "a: expected a file's name"),
            ('{"weight_map": {"a": 3}}', "a: expected a file's name, got 3"),
        ],
    )
    def test_no_index(self, text, message, tmp_path):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=rf"config\.json: .*{message}"):
            load_image_adapter(tmp_path / "config.json")


class TestFolders:
    def test_of_a_training_run(self, tmp_path):
        run = tmp_path / "checkpoint-1000"
        run.mkdir()
        save_state(STATE, run / "pytorch_model.bin")
        for name in ("optimizer.bin", "scheduler.bin", "scaler.pt", "training_args.bin"):
            (run / name).write_bytes(b"no weights")
        (run / "random_states_0.pkl").write_bytes(b"no weights")
        assert digest(run) == digest(tmp_path) == DIGEST

    def test_in_the_layout_of_published_ones(self, tmp_path):
        for folder in ("models/image_encoder", "sdxl_models", ".cache"):
            (tmp_path / folder).mkdir(parents=True)
        save_state(STATE, tmp_path / "models/ip-adapter_sd15.safetensors")
        save_state(STATE, tmp_path / ".cache/ip-adapter_sd15.safetensors")
        encoder = {"vision_model.embeddings.class_embedding": torch.ones(4)}
        save_file(encoder, tmp_path / "models/image_encoder/model.safetensors")
        assert digest(tmp_path) == digest(str(tmp_path), subfolder="models") == DIGEST
        name = "ip-adapter_sd15.safetensors"
        assert digest(tmp_path, subfolder="models", weight_name=name) == DIGEST
        assert describe(tmp_path).startswith(name)
        with pytest.raises(
            ValueError, match=r"sdxl_models: expected a file of an adapter \(.*got no such"
        ):
            load_image_adapter(tmp_path, subfolder="sdxl_models")
        with pytest.raises(ValueError, match=r"got 1 without one: model\.safetensors"):
            load_image_adapter(tmp_path / "models" / "image_encoder")
        with pytest.raises(FileNotFoundError, match=r"absent\.bin: no such file"):
            load_image_adapter(tmp_path, subfolder="models", weight_name="absent.bin")

    def test_several(self, tmp_path):
        for number in (500, 1000):
            (tmp_path / f"checkpoint-{number}").mkdir()
            save_state(STATE, tmp_path / f"checkpoint-{number}" / "ip_adapter.bin")
        with pytest.raises(
            ValueError,
            match=r"got 2: checkpoint-1000/ip_adapter\.bin, checkpoint-500/ip_adapter\.bin; name",
        ):
            load_image_adapter(tmp_path)

    def test_one_that_can_not_be_read(self, tmp_path):
        save_state(STATE, tmp_path / "whole.bin")
        (tmp_path / "cut").mkdir()
        path = save_state(STATE, tmp_path / "cut" / "cut.safetensors")
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(
            ValueError, match=r"beside whole\.bin .*: cut/cut\.safetensors: not a w"
        ):
            load_image_adapter(tmp_path)

    @pytest.mark.parametrize("group", STATE)
    def test_half_of_one_is_not_passed_over(self, group, tmp_path):
        save_state(STATE, tmp_path / "whole.bin")
        save_state({group: STATE[group]}, tmp_path / "half.bin")
        with pytest.raises(
            ValueError, match=r"beside whole\.bin .*: half\.bin: not an image adapter"
        ):
            load_image_adapter(tmp_path)

    def test_arguments_that_would_do_nothing(self, tmp_path):
        path = save_state(STATE, tmp_path / "a.bin")
        with pytest.raises(
            ValueError, match=r"weight_name: expected None with the file .*, got 'b'"
        ):
            load_image_adapter(path, weight_name="b")
        with pytest.raises(ValueError, match="revision: expected None with the folder"):
            load_image_adapter(tmp_path, revision="main")
        with pytest.raises(ValueError, match="subfolder: expected None with a state dict, got 'x'"):
            load_image_adapter(STATE, subfolder="x")
        assert digest(path, local_files_only=True, token="t") == DIGEST


COMMIT = "a1b2" * 10


def save_to_cache(cache, files):
    """Lay a repository out as the hub's cache does."""
    repository = cache / "models--some--adapters"
    snapshot = repository / "snapshots" / COMMIT
    for name, save in files.items():
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        save(snapshot / name)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


OPTIONS = {"subfolder": "models", "weight_name": "a.safetensors", "local_files_only": True}


class TestHub:
    def test_from_the_cache(self, tmp_path):
        save_to_cache(tmp_path, {"models/a.safetensors": lambda path: save_state(STATE, path)})
        options = OPTIONS | {"cache_dir": tmp_path}
        assert digest("some/adapters", **options) == DIGEST
        assert digest("some/adapters", revision=COMMIT, **options) == DIGEST
        with pytest.raises(
            FileNotFoundError, match=r"some/adapters/models/b\.bin: not got from the"
        ):
            load_image_adapter("some/adapters", **(options | {"weight_name": "b.bin"}))
        with pytest.raises(
            FileNotFoundError, match=r"some/adapters/models/.*: not got from the hub"
        ):
            load_image_adapter("some/adapters", revision="other", **options)

    def test_shards_from_the_cache(self, tmp_path):
        save_to_cache(
            tmp_path, {"models/x": lambda path: save_shards(path.parent), "y": lambda path: None}
        )
        options = OPTIONS | {"weight_name": "model.safetensors.index.json"}
        assert digest("some/adapters", cache_dir=tmp_path, **options) == DIGEST

    def test_what_is_asked_of_the_hub(self, tmp_path, monkeypatch):
        import huggingface_hub

        path, asked = save_state(STATE, tmp_path / "a.bin"), []
        monkeypatch.setattr(
            huggingface_hub,
            "hf_hub_download",
            lambda *names, **options: asked.append((names, options)) or str(path),
        )
        options = {"subfolder": "models", "revision": "main", "cache_dir": "c", "token": "t"}
        assert digest("some/adapters", weight_name="a.bin", **options) == DIGEST
        assert asked == [(("some/adapters", "a.bin"), {**options, "local_files_only": False})]

    def test_no_name_of_a_file(self):
        with pytest.raises(
            FileNotFoundError, match=r"some/adapters: no such .* give the file's weight_name"
        ):
            load_image_adapter("some/adapters")
        with pytest.raises(
            ValueError, match=r"weight_name: expected the name of a file in .* None"
        ):
            load_image_adapter("some/adapters", subfolder="models")

    def test_without_the_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(ImportError, match="expected the package huggingface_hub for the repos"):
            load_image_adapter("some/adapters", weight_name="a.bin")
