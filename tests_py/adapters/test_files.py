# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Files as they really come: cut, misnamed, with code in them, or something else."""

import json
import math
import pickle

import pytest
import torch
from fake_adapters import ROWS, make_state, save_state

from attnpatch.adapters import describe, load_image_adapter

STATE = make_state(ROWS[0])
readers = pytest.mark.parametrize("read", [load_image_adapter, describe])


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


@readers
@pytest.mark.parametrize("legacy", [False, True])
def test_code_is_refused_and_not_run(read, legacy, tmp_path):
    trap = tmp_path / "trap"
    path = tmp_path / "adapter.bin"
    state = {**STATE, "extra": Code(str(trap))}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ValueError, match=r"adapter\.bin: refused, since it holds more than tensors"
    ):
        read(path)
    path.write_bytes(pickle.dumps(state, protocol=2))
    with pytest.raises(ValueError, match=r"adapter\.bin: "):
        read(path)
    assert not trap.exists()


@readers
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_download_that_broke_off(read, suffix, tmp_path):
    path = save_state(STATE, tmp_path / f"adapter{suffix}")
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"adapter{suffix}: not a whole .*\({size} bytes\)"):
            read(path)


@readers
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>not found</html>", "a web page"),
        (b"GIF89a" + bytes(100), "no safetensors and no torch file"),
    ],
)
def test_something_else_under_that_name(read, content, message, tmp_path):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"adapter\.safetensors: it is {message}"):
        read(path)


@readers
def test_no_dict_in_the_file(read, tmp_path):
    torch.save([torch.ones(1)], tmp_path / "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin: expected a dict of tensors, found list"):
        read(tmp_path / "a.bin")


@readers
def test_no_file(read, tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent.bin")


def test_no_path():
    with pytest.raises(TypeError, match="source: expected a path or a state dict, got int"):
        load_image_adapter(3)


def test_content_counts_not_the_suffix(tmp_path):
    bin_path = save_state(STATE, tmp_path / "a.bin")
    safe_path = save_state(STATE, tmp_path / "b.safetensors")
    bin_path.rename(tmp_path / "a.safetensors")
    safe_path.rename(tmp_path / "b.ckpt")
    digests = {load_image_adapter(STATE).digest}
    digests |= {load_image_adapter(tmp_path / n).digest for n in ("a.safetensors", "b.ckpt")}
    assert len(digests) == 1


def test_old_torch_format(tmp_path):
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert load_image_adapter(tmp_path / "old.bin").digest == load_image_adapter(STATE).digest
    assert "linear" in describe(tmp_path / "old.bin")


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float16, torch.bfloat16, torch.float64]
)
def test_dtypes_of_files(dtype, tmp_path):
    state = {g: {n: t.to(dtype) for n, t in tensors.items()} for g, tensors in STATE.items()}
    stored = torch.float16 if dtype.itemsize == 1 else dtype
    for suffix in (".bin", ".safetensors"):
        path = save_state(state, tmp_path / f"a{suffix}")
        adapter = load_image_adapter(path)
        assert adapter.dtype == stored
        assert adapter.get_image_embeds(torch.ones(1, 1024)).cond.dtype == stored
        assert load_image_adapter(path, dtype=torch.float32).dtype == torch.float32
        assert load_image_adapter(path, dtype=torch.float32).digest == adapter.digest
        assert str(dtype).removeprefix("torch.") in describe(path)
    with pytest.raises(ValueError, match="dtype: expected"):
        load_image_adapter(state, dtype=torch.int8)


@readers
@pytest.mark.parametrize("group", ["image_proj", "ip_adapter"])
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused(read, group, dtype, tmp_path):
    state = {g: dict(tensors) for g, tensors in STATE.items()}
    name = next(iter(state[group]))
    state[group][name] = state[group][name].to(dtype)
    kind = str(dtype).removeprefix("torch.")
    message = rf"{name}: expected a tensor of floats, found "
    message += kind if read is load_image_adapter else r"\w+"  # a header is read by its sizes alone
    with pytest.raises(ValueError, match=message):
        read(save_state(state, tmp_path / "adapter.safetensors"))


def test_mixed_dtypes_become_the_widest():
    state = {g: {n: t.half() for n, t in tensors.items()} for g, tensors in STATE.items()}
    state["image_proj"]["norm.weight"] = state["image_proj"]["norm.weight"].float()
    adapter = load_image_adapter(state)
    assert adapter.dtype == torch.float32
    assert adapter.project_sites(torch.ones(1, 2, 24))[0][0].dtype == torch.float32


@readers
@pytest.mark.parametrize(
    ("dtype", "named"), [("I8", "int8"), ("U16", "uint16"), ("F8_E8M0", "F8_E8M0"), ("F4", "F4")]
)
def test_dtypes_that_no_weight_has_are_named(read, dtype, named, tmp_path):
    name = "ip_adapter.1.to_k_ip.weight"
    path = save_state(STATE, tmp_path / "adapter.safetensors")
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    shape, (start, end) = header[name]["shape"], header[name]["data_offsets"]
    bits = {"I8": 8, "U16": 16, "F8_E8M0": 8, "F4": 4}[dtype]
    left = (end - start) * 8 // bits // shape[1]  # as many rows as there is room for
    header[name] = {"dtype": dtype, "shape": [left, shape[1]], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    message = rf"adapter\.safetensors: {name}: expected a tensor of floats, found {named}$"
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_that_are_not_finite(value, suffix, dtype, tmp_path):
    for part, name in (("image_proj", "proj.bias"), ("ip_adapter", "3.to_v_ip.weight")):
        state = {
            part: {k: t.to(dtype, copy=True) for k, t in STATE[part].items()} for part in STATE
        }
        state[part][name].view(-1)[-1] = value
        path = save_state(state, tmp_path / f"{part}{suffix}")
        message = "expected finite weights, got NaN or infinity"
        with pytest.raises(ValueError, match=rf"^{path.name}: {part}\.{name}: {message}$"):
            load_image_adapter(path)
        with pytest.raises(ValueError, match=rf"^state dict: {part}\.{name}: {message}$"):
            load_image_adapter(state)


def test_eight_bit_weights_that_are_not_finite():
    dtype = torch.float8_e4m3fn
    state = {part: {k: t.to(dtype, copy=True) for k, t in STATE[part].items()} for part in STATE}
    load_image_adapter(state)
    state["image_proj"]["norm.bias"].view(torch.uint8)[0] = 0x7F  # its one NaN
    with pytest.raises(ValueError, match=r"image_proj\.norm\.bias: expected finite"):
        load_image_adapter(state)


def test_a_dtype_without_room_for_the_weights():
    state = {part: dict(STATE[part]) for part in STATE}
    state["ip_adapter"]["1.to_k_ip.weight"] = STATE["ip_adapter"]["1.to_k_ip.weight"] * 1e6
    adapter = load_image_adapter(state)
    assert adapter.to(dtype=torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"dtype: .* room for .*layer 0's keys.*got torch.float16"):
        adapter.to(dtype=torch.float16)
    with pytest.raises(ValueError, match=r"dtype: .* room"):
        load_image_adapter(state, dtype=torch.float16)
