# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Conversion to the published form: every kind of adapter keeps all that it has."""

import pytest
import torch
from fake_adapters import ROWS, flatten, make_state, save_state
from safetensors import safe_open
from safetensors.torch import load_file
from unet_files import make_state as make_unet_state
from unet_files import make_unet, trained

from attnpatch.adapters import convert_adapter, describe, load_image_adapter
from attnpatch_command.cli import main


def equal(tensors, others):
    return tensors.keys() == others.keys() and all(
        tensor.dtype == others[name].dtype and torch.equal(tensor, others[name])
        for name, tensor in tensors.items()
    )


def metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_every_kind_keeps_its_tensors(row, suffix, tmp_path):
    state = make_state(row)
    state["image_proj"] = {name: tensor.half() for name, tensor in state["image_proj"].items()}
    source = save_state(state, tmp_path / f"{row.name}{suffix}")
    target = convert_adapter(source, tmp_path / "out.safetensors")
    assert equal(load_file(target), flatten(state))
    before, after = load_image_adapter(source), load_image_adapter(target)
    assert before == after
    assert (before.kind, before.layout.takes) == (after.kind, after.layout.takes)
    assert dict(before.lora).keys() == dict(after.lora).keys()
    again = convert_adapter(target, tmp_path / "again.safetensors")
    assert equal(load_file(again), load_file(target))
    assert metadata(again) == metadata(target)


@pytest.mark.slow
def test_what_training_leaves(tmp_path):
    unet = make_unet("sdxl")
    state = make_unet_state(unet)
    torch.save(trained(unet, state), tmp_path / "trained.bin")
    target = convert_adapter(tmp_path, tmp_path / "plain.safetensors")
    assert equal(load_file(target), flatten(state))
    unet._load_ip_adapter_weights([state], low_cpu_mem_usage=False)
    target = convert_adapter(unet.state_dict(), tmp_path / "plain.safetensors", overwrite=True)
    assert equal(load_file(target), flatten(state))


def test_the_kind_survives_where_only_the_name_told_it(tmp_path):
    state = make_state(next(row for row in ROWS if row.kind == "faceid_plus"))
    named = save_state(state, tmp_path / "faceid-plusv2.bin")
    target = convert_adapter(named, tmp_path / "mine.safetensors")
    assert load_image_adapter(target).kind == "faceid_plus_v2"
    assert "faceid_plus_v2 (by the file's metadata)" in describe(target)
    assert load_image_adapter(target, shortcut=False).kind == "faceid_plus"
    assert load_image_adapter(target, kind="faceid_plus").kind == "faceid_plus"


def test_what_is_open_stays_open(tmp_path):
    state = make_state(next(row for row in ROWS if row.kind == "faceid_plus"))
    target = convert_adapter(state, tmp_path / "a.safetensors")
    assert "attnpatch.kind" not in metadata(target)
    assert metadata(target)["format"] == "pt"
    assert "assumed" in describe(target)
    convert_adapter(state, target, kind="faceid_plus_v2", overwrite=True)
    assert load_image_adapter(target).kind == "faceid_plus_v2"


def test_diffusers_reads_what_is_written(tmp_path):
    state = make_unet_state(make_unet("sd1"))
    unet = make_unet("sd1")
    target = convert_adapter(trained(unet, state), tmp_path / "a.safetensors")
    nested = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in load_file(target).items():
        group, _, rest = name.partition(".")
        nested[group][rest] = tensor
    unet._load_ip_adapter_weights([nested], low_cpu_mem_usage=False)
    assert load_image_adapter(unet.state_dict()) == load_image_adapter(state)


class TestRefusals:
    STATE = make_state(ROWS[0])

    def test_a_file_that_exists(self, tmp_path):
        target = tmp_path / "a.safetensors"
        target.write_text("mine")
        with pytest.raises(FileExistsError, match="target: expected a new file, got a file that"):
            convert_adapter(self.STATE, target)
        assert target.read_text() == "mine"
        with pytest.raises(FileExistsError, match="got a folder"):
            (tmp_path / "b.safetensors").mkdir()
            convert_adapter(self.STATE, tmp_path / "b.safetensors", overwrite=True)

    def test_a_suffix(self, tmp_path):
        with pytest.raises(ValueError, match=r"target: expected a file \.safetensors, got a\.bin"):
            convert_adapter(self.STATE, tmp_path / "a.bin")

    def test_nothing_is_left_of_what_fails(self, tmp_path, monkeypatch):
        def fail(*arguments):
            raise OSError("disk full")

        target = convert_adapter(self.STATE, tmp_path / "a.safetensors")
        before = target.read_bytes()
        monkeypatch.setattr("attnpatch.adapters.convert.save_file", fail)
        with pytest.raises(OSError, match="disk full"):
            convert_adapter(self.STATE, target, overwrite=True)
        assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
        assert target.read_bytes() == before


@pytest.mark.parametrize("place", ["none", "file"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    target = tmp_path / place / "a.safetensors"
    with pytest.raises(OSError, match=rf"^target: expected a file in a folder .*, got {target}: "):
        convert_adapter(make_state(ROWS[0]), target)


def test_a_choice_that_there_is_not_is_answered_with_those_that_have_names(tmp_path):
    with pytest.raises(ValueError, match=r"^which: expected one of '0', got 'ema'$"):
        convert_adapter(make_state(ROWS[0]), tmp_path / "a.safetensors", which="ema")


def test_a_repository_of_the_hub_is_no_source(tmp_path):
    """And what would fetch from one is not advised: it has no such arguments."""
    with pytest.raises(FileNotFoundError, match=r"^h94/IP-Adapter: no such file or folder$"):
        convert_adapter("h94/IP-Adapter", tmp_path / "a.safetensors")


class TestCommandLine:
    def test_convert(self, tmp_path, capsys):
        source = save_state(make_state(ROWS[0]), tmp_path / "a.bin")
        target = tmp_path / "b.safetensors"
        assert main(["convert", str(source), str(target)]) == 0
        assert "form    published" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="2"):
            main(["convert", str(source), str(target)])
        told = f"target: expected a new file, got {target}, which --force overwrites\n"
        assert capsys.readouterr().err.endswith(f"attnpatch convert: error: {told}")
        assert main(["convert", str(source), str(target), "--force"]) == 0
        assert load_image_adapter(source) == load_image_adapter(target)

    def test_a_choice(self, tmp_path, capsys):
        both = {"model": make_state(ROWS[0]), "ema": make_state(ROWS[0])}
        torch.save(both, tmp_path / "a.ckpt")
        arguments = ["convert", str(tmp_path / "a.ckpt"), str(tmp_path / "b.safetensors")]
        assert main(arguments) == 1
        assert "choose one with which: 'model', 'ema'" in capsys.readouterr().err
        assert main([*arguments, "--which", "ema"]) == 0

    def test_inspect_says_the_form(self, tmp_path, capsys):
        unet = make_unet("sd1")
        torch.save(trained(unet, make_unet_state(unet)), tmp_path / "pytorch_model.bin")
        assert main(["inspect", str(tmp_path)]) == 0
        assert "form    layers by the UNet's names" in capsys.readouterr().out

    @pytest.mark.parametrize("verb", ["convert", "inspect"])
    def test_help(self, verb, capsys):
        with pytest.raises(SystemExit, match="0"):
            main([verb, "--help"])
        assert "file" in capsys.readouterr().out
