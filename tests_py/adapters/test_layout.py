# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Every row of the checkpoint table is told from its tensors, and broken files are refused."""

import json
import struct

import pytest
import torch
from fake_adapters import (
    FAMILIES,
    ROWS,
    TINY_CHANNELS,
    TINY_CONTEXT,
    Maker,
    flatten,
    make_state,
    save_state,
)

from attnpatch.adapters import describe, load_image_adapter

by_name = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
_DTYPES = {torch.float32: "F32", torch.float16: "F16"}


def write_sparse(state, path):
    """A safetensors file of zeros in full size that takes next to no space on the disk."""
    header, end = {}, 0
    for name, t in flatten(state).items():
        begin, end = end, end + t.numel() * t.element_size()
        header[name] = {
            "dtype": _DTYPES[t.dtype],
            "shape": list(t.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return path


@by_name
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".safetensors"])
def test_tiny_files_of_every_row(row, suffix, tmp_path):
    state = make_state(row)
    adapter = load_image_adapter(save_state(state, tmp_path / f"{row.name}{suffix}"))
    assert adapter.kind == row.kind
    assert adapter.family == "custom"
    assert adapter.context_dim == TINY_CONTEXT
    assert adapter.channels == TINY_CHANNELS
    assert adapter.site_count == len(TINY_CHANNELS)
    tokens = {"queries": 6, "resampler": 16}.get("queries" if "queries" in row.tiny else "")
    assert adapter.tokens == row.tiny.get("tokens", tokens or row.tokens)
    assert adapter.embed_dim == row.tiny.get("face", row.tiny["embed"])
    assert len(adapter.lora) == sum("lora" in name for name in state["ip_adapter"])
    for name, tensor in adapter.lora.items():
        assert torch.equal(tensor, state["ip_adapter"][name])
    pictures = [
        torch.zeros(2, *([3] if takes.form == "hidden" else []), takes.size)
        for takes in adapter.takes
    ]
    embeds = adapter.get_image_embeds(
        pictures[0] if len(pictures) == 1 else tuple(pictures), combine=None
    )
    count = 3 if row.kind == "full_face" else adapter.tokens
    assert embeds.cond.shape == (2, count, TINY_CONTEXT)
    assert embeds.uncond.shape == (1, count, TINY_CONTEXT)


@by_name
def test_full_size_layouts(row):
    adapter = load_image_adapter(
        flatten(make_state(row, full=True)),
        kind=row.kind if row.kind in ("faceid_plus_v2", "portrait_unnorm") else None,
    )
    family, channels = FAMILIES[row.context]
    family = row.family or family
    assert (adapter.kind, adapter.family) == (row.kind, family)
    assert adapter.channels == tuple(channels)
    assert (adapter.tokens, adapter.context_dim) == (row.tokens, row.context)
    assert adapter.embed_dim == row.inputs[0][-1]
    if adapter.layout.depth:
        assert (adapter.layout.depth, adapter.layout.heads) == (4, row.full["heads"])
        assert adapter.layout.dim == row.full.get("dim", row.context)
    inputs = [torch.empty(shape, device="meta") for shape in row.inputs]
    embeds = adapter.get_image_embeds(inputs[0] if len(inputs) == 1 else inputs)
    assert embeds.cond.shape == (1, 2 * row.tokens, row.context)
    projected = adapter.project_sites(embeds.cond)
    assert [tuple(k.shape) for k, _ in projected] == [(1, 2 * row.tokens, c) for c in channels]
    assert [v.shape for _, v in projected] == [k.shape for k, _ in projected]


@by_name
def test_full_size_files_are_described_without_reading_them(row, tmp_path):
    state = make_state(row, full=True, maker=Maker(device="meta", dtype=torch.float16))
    text = describe(write_sparse(state, tmp_path / f"{row.name}.safetensors"))
    names = {"sd1": "SD1.x", "sd2": "SD2.x", "sdxl": "SDXL", "kolors": "Kolors"}
    family = names[row.family or FAMILIES[row.context][0]]
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()[1:]}
    assert lines["kind"].split(" (")[0] == row.kind
    assert lines["model"] == f"{family}, context {row.context}"
    assert lines["tokens"] == f"{row.tokens} a picture"
    assert lines["layers"].startswith(f"{len(FAMILIES[row.context][1])}, ")
    assert lines["lora"].startswith("none") is not row.lora
    assert all(str(shape[-1]) in lines["takes"] for shape in row.inputs)


def test_sizes_in_a_description(tmp_path):
    row = next(row for row in ROWS if row.name == "ip-adapter-plus_sdxl_vit-h")
    state = make_state(row, full=True, maker=Maker(device="meta", dtype=torch.float16))
    text = describe(write_sparse(state, tmp_path / f"{row.name}.safetensors"))
    assert "70, 340.8 M values, 681.6 MB float16" in text
    assert "Resampler: width 1280, depth 4, 20 heads of 64" in text
    assert "CLIP hidden states (P, L, 1280), the second to last of the tower: CLIP ViT-H/14" in text
    path = save_state(make_state(ROWS[0]), tmp_path / "a.bin")
    assert "linear projection, 0.1 M values, 0.4 MB float32" in describe(path)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize(
    "names", [("image_proj", "ip_adapter"), ("image_proj_model", "adapter_modules")]
)
def test_state_dicts_in_every_form(nested, names):
    state = dict(zip(names, make_state(ROWS[0]).values(), strict=True))
    if names[0] == "image_proj_model":
        state["unet"] = {"conv_in.weight": torch.zeros(1)}
    given = state if nested else flatten(state)
    assert load_image_adapter(given).kind == "linear"
    assert load_image_adapter({"state_dict": given}).kind == "linear"


class TestChoices:
    """What shapes leave open: first what the caller says, then the name, then the likely."""

    @staticmethod
    def row(kind):
        return next(row for row in ROWS if row.kind == kind)

    def test_face_plus(self, tmp_path, caplog):
        state = make_state(self.row("faceid_plus"))
        load = load_image_adapter
        assert load(state).kind == "faceid_plus"
        assert "shortcut=True" in caplog.text
        assert load(state, shortcut=True).kind == "faceid_plus_v2"
        assert load(state, shortcut=False).kind == "faceid_plus"
        assert load(state, kind="faceid_plus_v2").kind == "faceid_plus_v2"
        path = save_state(state, tmp_path / "faceid-PlusV2.bin")
        assert load(path).kind == "faceid_plus_v2"
        assert load(path, shortcut=False).kind == "faceid_plus"
        with pytest.raises(ValueError, match="contradicts"):
            load(state, shortcut=True, kind="faceid_plus")
        full = make_state(self.row("faceid_plus_v2"), full=True)
        assert load(full).kind == "faceid_plus"  # SD1.5: both versions exist
        xl = next(row for row in ROWS if row.name == "ip-adapter-faceid-plusv2_sdxl")
        assert load(make_state(xl, full=True)).kind == "faceid_plus_v2"

    def test_resamplers_of_faces(self, tmp_path):
        state = make_state(self.row("instantid"))
        names = {"x_UNNORM.bin": "portrait_unnorm", "instantid.bin": "instantid"}
        for name, kind in names.items():
            assert load_image_adapter(save_state(state, tmp_path / name)).kind == kind
        assert load_image_adapter(state).kind == "portrait_unnorm"  # no SDXL, so no InstantID
        assert load_image_adapter(state, kind="instantid").kind == "instantid"
        full = make_state(self.row("instantid"), full=True)
        assert load_image_adapter(full).kind == "instantid"

    def test_shapes_outrank_the_name(self, tmp_path):
        path = save_state(make_state(ROWS[0]), tmp_path / "ip-adapter-faceid-plusv2_sdxl.bin")
        assert load_image_adapter(path).kind == "linear"

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"kind": "plus"}, "kind: given 'plus', but the tensors are those of linear"),
            ({"kind": "plsu"}, "kind: expected one of linear, full_face, faceid"),
            ({"shortcut": True}, "only FaceID plus has one; this is linear"),
        ],
    )
    def test_wrong_choices(self, options, message):
        with pytest.raises(ValueError, match=message):
            load_image_adapter(make_state(ROWS[0]), **options)


def _state(kind):
    return make_state(TestChoices.row(kind))


def _without(kind, group, name):
    state = _state(kind)
    del state[group][name]
    return state


def _with(kind, group, **tensors):
    state = _state(kind)
    state[group] |= {name.replace("__", "."): t for name, t in tensors.items()}
    return state


def _truncated_sd1():
    return {
        "image_proj": Maker(device="meta").image_projection(1024, 768),
        "ip_adapter": Maker(device="meta").sites(FAMILIES[768][1][:9], 768),
    }


def _mixed_up():
    state = make_state(ROWS[0], full=True)
    state["ip_adapter"] = make_state(ROWS[4], full=True)["ip_adapter"]
    return state


BROKEN = {
    "no projection": (
        lambda: {"ip_adapter": _state("linear")["ip_adapter"]},
        "not an image adapter: no tensors of image_proj; it holds ip_adapter",
    ),
    "no layers": (
        lambda: {"image_proj": _state("linear")["image_proj"], "ip_adapter": {}},
        "no tensors of ip_adapter",
    ),
    "nothing": (dict, "no tensors of image_proj and ip_adapter; it holds nothing"),
    "a Flux adapter": (
        lambda: {"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": torch.ones(1)},
        "this is an adapter for Flux, not an image adapter",
    ),
    "a LoRA": (lambda: {"lora_unet_down.alpha": torch.ones(1)}, "this is a LoRA"),
    "a foreign group": (
        lambda: {**_state("linear"), "optimised": torch.ones(1)},
        "unexpected beside image_proj and ip_adapter: optimised",
    ),
    "no tensor": (
        lambda: _with("linear", "image_proj", step=3),
        r"image_proj\.step: expected a tensor, found int",
    ),
    "missing bias": (
        lambda: _without("linear", "image_proj", "proj.bias"),
        r"missing proj\.bias",
    ),
    "missing layer of the Resampler": (
        lambda: _without("plus", "image_proj", "layers.0.0.to_kv.weight"),
        r"missing layers\.0\.0\.to_kv\.weight",
    ),
    "missing output": (
        lambda: _without("plus", "image_proj", "proj_out.weight"),
        r"the tensor proj_out\.weight is missing",
    ),
    "missing values": (
        lambda: _without("linear", "ip_adapter", "3.to_v_ip.weight"),
        r"missing 3\.to_v_ip\.weight",
    ),
    "missing layer": (
        lambda: {
            **(state := _state("linear")),
            "ip_adapter": {k: t for k, t in state["ip_adapter"].items() if k[0] != "5"},
        },
        r"missing 5\.to_k_ip\.weight, 5\.to_v_ip\.weight",
    ),
    "first layer missing": (
        lambda: {
            **(state := _state("linear")),
            "ip_adapter": {k: t for k, t in state["ip_adapter"].items() if k[0] != "1"},
        },
        r"missing 1\.to_k_ip\.weight",
    ),
    "extra tensor": (
        lambda: _with("linear", "image_proj", scale=torch.ones(1)),
        "unexpected scale",
    ),
    "two projections in one": (
        lambda: _with("plus", "image_proj", proj__weight=torch.ones(24, 24)),
        r"unexpected proj\.weight",
    ),
    "extra in layers": (
        lambda: _with("linear", "ip_adapter", bias=torch.ones(1)),
        "ip_adapter: unexpected bias",
    ),
    "wrong shape": (
        lambda: _with("linear", "image_proj", norm__weight=torch.ones(5)),
        r"norm\.weight must be \(24,\), is \(5,\)",
    ),
    "wrong dimensions": (
        lambda: _with("linear", "image_proj", proj__weight=torch.ones(5)),
        r"proj\.weight must have 2 dimensions, has shape \(5,\)",
    ),
    "keys unlike values": (
        lambda: _with("linear", "ip_adapter", **{"3__to_k_ip__weight": torch.ones(5, 24)}),
        r"3\.to_k_ip\.weight is \(5, 24\) and 3\.to_v_ip\.weight \(64, 24\)",
    ),
    "heads": (
        lambda: _with("plus", "image_proj", layers__0__0__to_q__weight=torch.ones(63, 48)),
        "has 63 rows, which is no multiple of the head size 64",
    ),
    "half a file": (_truncated_sd1, "9 of the 16 layers of sd1 are there"),
    "parts of two models": (_mixed_up, r"3072 rows, which is no multiple of the 2048 columns"),
    "Resampler of another model": (
        lambda: {
            **_state("plus"),
            "ip_adapter": Maker().sites([8], 32),
        },
        "makes tokens of 24 values, the keys and values take 32",
    ),
    "latents of another size": (
        lambda: _with("plus", "image_proj", latents=torch.ones(1, 6, 40)),
        r"latents have 40 values, proj_in makes 48",
    ),
    "no known structure": (
        lambda: {**_state("linear"), "image_proj": {"a": torch.ones(1)}},
        "of no known structure: it has none of latents",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_checkpoints(case, tmp_path):
    make, message = BROKEN[case]
    state = make()
    with pytest.raises(ValueError, match=message):
        load_image_adapter(state)
    torch.save(state, tmp_path / "broken.bin")
    with pytest.raises(ValueError, match=rf"^broken\.bin: .*{message}"):
        load_image_adapter(tmp_path / "broken.bin")


def test_order_is_by_number_not_by_place():
    state = make_state(ROWS[0])
    state["ip_adapter"] = Maker().sites(range(8, 8 + 16), TINY_CONTEXT)
    state["ip_adapter"] = dict(sorted(state["ip_adapter"].items()))  # "11…" comes before "3…"
    assert load_image_adapter(state).channels == tuple(range(8, 8 + 16))
