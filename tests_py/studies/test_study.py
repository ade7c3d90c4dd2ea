# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Studies are values, in Python and as TOML."""

import hashlib
import itertools
import json
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import attnpatch as ap
from attnpatch.demo import store
from attnpatch.patches import ImagePrompt
from attnpatch.studies.run import model_of
from attnpatch.studies.table import Table, frozen
from attnpatch.studies.toml import read_toml, to_toml

FASHION = "attnpatch/fashion"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}


def make(axes=(), **options):
    return ap.Study(FASHION, options.pop("patches", {"style": STYLE}), axes, **options)


def test_a_study_is_a_value():
    axes = {"style.weight": [0.2, 0.4], "seed": [1, 2]}
    study = make(axes, pipeline={"steps": 4})
    assert study == make(axes, pipeline={"steps": 4}) and hash(study) == hash(
        make(axes, pipeline={"steps": 4})
    )
    assert study != make(axes)
    assert pickle.loads(pickle.dumps(study)) == study
    assert eval(repr(study), {"Study": ap.Study, "Axes": ap.Axes}) == study
    with pytest.raises(AttributeError):
        study.name = "other"
    with pytest.raises(TypeError):
        study.patches["style"] = {}


def test_equal_draws_make_equal_cells():
    """Whatever the order of their names, and after TOML."""
    ranges = {"seed": {"low": 0, "high": 9, "integer": True}, "style.weight": {"low": 0, "high": 1}}
    ranges |= {"guidance": [1, 2, 3], "style.mask": [None, [0, 0, 0.5, 1]]}
    study = make(ap.Axes.random(ranges, 8, seed=3))
    other = make(ap.Axes.random(dict(reversed(ranges.items())), 8, seed=3))
    again = ap.Study.from_toml(study.to_toml())
    assert study == other == again
    assert [c.id for c in study] == [c.id for c in other] == [c.id for c in again]
    assert again.axis_names == study.axis_names == tuple(ranges)


def test_true_is_not_one():
    """Cells have other ids where their JSON differs; so they are other cells."""
    for one, other in ((1, True), (0, False), ([1, [0]], [1, [False]]), ({"a": 1}, {"a": True})):
        table, another = Table(value=one), Table(value=other)
        assert table != another and len({table, another}) == 2
        assert table == Table(value=one) == {"value": frozen(one, "value")}
    assert Table(value=1) == Table(value=1.0) and Table() != 3
    assert Table(value=(1, 2)) == {"value": [1, 2]} != Table(value=(1, True))
    assert Table(value=(1, 2)) != {"value": {1, 2}}


def test_a_study_as_toml(tmp_path):
    axes = [
        ap.Axes.grid({"style.window": [[0, 0.5], [0.5, 1]], "prompt": ['a "b"\n\tü', "dress"]}),
        ap.Axes.zip({"style.weight": [0.1, 1e-7], "style.on": [True, False]}),
        ap.Axes.list([{"seed": 3, "style.mask": None}, {"seed": 4, "size": [32, 32]}]),
        ap.Axes.random({"guidance": {"low": 1.0, "high": 3.0}, "steps": [2, 3]}, count=3, seed=9),
    ]
    axes.append(ap.Axes.grid({"negative_prompt": [None, ""]}))
    guidance = {"kind": "SelfAttentionGuidance", "scale": 0.5}
    study = make(axes, patches={"style": STYLE, "sag": guidance}, name="all joins", unpatched=False)
    assert ap.Study.from_toml(study.to_toml()) == study
    study.save(tmp_path / "study.toml")
    assert ap.Study.load(tmp_path / "study.toml") == study


def test_a_study_of_patches_goes_to_a_file_beside(tmp_path):
    keys = torch.randn(1, 2, 4), torch.randn(1, 2, 4)
    patch = ImagePrompt.from_keys_values([keys], [keys], 0.5)
    study = make({"own.weight": [0.1, 0.2]}, patches={"own": patch, "style": STYLE})
    with pytest.raises(ValueError, match=r"patches\.own: expected a table, got a ImagePrompt"):
        study.to_toml()
    study.save(tmp_path / "study.toml")
    again = ap.Study.load(tmp_path / "study.toml")
    assert again == study
    assert [cell.id for cell in again.cells()] == [cell.id for cell in study.cells()]
    study.save(tmp_path / "study.toml", "..")  # where relative paths start, but for this file's
    again = ap.Study.load(tmp_path / "study.toml")
    assert again == study and again.folder.resolve() == tmp_path.parent.resolve()


@pytest.mark.parametrize("patches", ["3", "{ a = 3 }", "{ a = { saved = 3 } }"])
def test_a_folder_beside_wrong_patches(patches):
    toml = f'folder = ".."\nmodel = {{ source = "{FASHION}" }}\npatches = {patches}'
    with pytest.raises(TypeError, match=r"^patches(\.a|\.a\.saved)?: expected"):
        ap.Study.from_toml(toml)
    with pytest.raises(TypeError, match=r"^folder: expected a text, got 3"):
        ap.Study.from_toml(toml.replace('".."', "3"))


values = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('ab."\n é', max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11 for its own TOML")
@given(st.dictionaries(st.text("xy-_ \\'", min_size=1, max_size=5), values, max_size=4))
def test_toml_comes_back(table):
    assert read_toml(to_toml(table), "table") == table


def test_joins():
    assert [dict(row) for row in ap.Axes.grid({"seed": [1, 2], "steps": [3, 4]})] == [
        {"seed": a, "steps": b} for a, b in itertools.product([1, 2], [3, 4])
    ]
    zipped = ap.Axes.zip({"seed": [1, 2], "steps": [3, 4]})
    assert [dict(row) for row in zipped] == [{"seed": 1, "steps": 3}, {"seed": 2, "steps": 4}]
    combinations = [{"seed": 1}, {"steps": 2}]
    assert [dict(row) for row in ap.Axes.list(combinations)] == combinations
    study = make([{"seed": [0, 1, 2]}, ap.Axes.zip({"style.weight": [1, 2], "steps": [5, 6]})])
    assert len(study) == 6
    assert study.axis_names == ("seed", "style.weight", "steps")


def test_random_axes_are_the_same_everywhere():
    ranges = {
        "style.weight": {"low": 0.01, "high": 10.0, "log": True},
        "seed": {"low": 0, "high": 3, "integer": True},
        "guidance": {"low": 1.0, "high": 2.0},
        "steps": [4, 8],
    }
    rows = list(ap.Axes.random(ranges, count=200, seed=5))
    assert rows == list(ap.Axes.random(ranges, count=200, seed=5))
    assert rows != list(ap.Axes.random(ranges, count=200, seed=6))
    assert {row["seed"] for row in rows} == {0, 1, 2, 3}
    assert {row["steps"] for row in rows} == {4, 8}
    weights = sorted(row["style.weight"] for row in rows)
    assert weights[0] >= 0.01 and weights[-1] <= 10
    assert 0.1 < weights[100] < 1.0  # around the middle of the logarithms, 0.316
    assert all(1 <= row["guidance"] <= 2 for row in rows)


def test_a_cells_name_is_the_hash_of_what_it_is(tmp_path):
    (tmp_path / "a.png").write_bytes(b"one picture")
    spec = {"kind": "ImagePrompt", "adapter": FASHION, "picture": "a.png", "weight": 1.0}
    (cell,) = make(
        patches={"style": spec}, pipeline={"seed": 0, "steps": 4}, folder=tmp_path
    ).cells()
    described = {
        "model": {"source": FASHION},
        "pipeline": {"steps": 4},
        "patches": {
            "style": {
                "kind": "ImagePrompt",
                "adapter": FASHION,
                "picture": {"sha256": hashlib.sha256(b"one picture").hexdigest()},
                "weight": 1,
            }
        },
    }
    text = json.dumps(described, sort_keys=True)
    assert cell.id == hashlib.sha256(text.encode()).hexdigest()[:16]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.png").write_bytes(b"one picture")
    spec["picture"] = "b.png"
    moved = make(patches={"style": spec}, pipeline={"steps": 4}, folder=elsewhere)
    assert moved.cells()[0].id == cell.id
    (elsewhere / "b.png").write_bytes(b"another")
    assert (
        make(patches={"style": spec}, pipeline={"steps": 4}, folder=elsewhere).cells()[0].id
        != cell.id
    )


def test_weights_count_by_what_they_hold(tmp_path):
    def cell(source="m.safetensors", adapter="ad/a.safetensors", **model):
        spec = {"kind": "ImagePrompt", "adapter": adapter, "picture": "a.png"}
        study = ap.Study({"source": source, **model}, {"style": spec}, folder=tmp_path)
        return study.cells()[0].id

    tables = [
        {},
        {"adapter": {"source": "ad/a.safetensors"}},
        {"adapter": {"source": "ad", "weight_name": "a.safetensors"}},
        {"source": "folder"},
        {"source": "owner/name", "image_encoder": "encoder"},
    ]
    files = ["m.safetensors", "ad/a.safetensors", "folder/unet/w.safetensors", "encoder/c.json"]
    seen = {}
    for step, name in enumerate([*files, *files]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"weights %d" % step)
        seen[step] = [cell(**table) for table in tables]
    # Each file changes those that name it, and no other.
    changed = [
        [before != after for before, after in zip(seen[step - 1], seen[step], strict=True)]
        for step in range(4, 8)
    ]
    assert changed == [
        [True, True, True, False, False],
        [True, True, True, True, True],
        [False, False, False, True, False],
        [False, False, False, False, True],
    ]
    assert cell("owner/name") == cell("owner/name", device="cpu")


def test_packs_of_faces_count_by_what_they_hold(tmp_path):
    (tmp_path / "pack").mkdir()
    spec = {"kind": "Identity", "adapter": "a.bin", "picture": "a.png", "faces": "pack"}
    ids = set()
    for content in (b"one", b"another", b"one"):
        (tmp_path / "pack" / "w600k_r50.onnx").write_bytes(content)
        ids.add(ap.Study("owner/name", {"who": spec}, folder=tmp_path).cells()[0].id)
    assert len(ids) == 2


def test_a_models_path_starts_at_the_studys_folder(tmp_path):
    (tmp_path / "m.safetensors").touch()
    study = ap.Study({"source": "m.safetensors", "image_encoder": "owner/name"}, folder=tmp_path)
    assert dict(model_of(study)) == {
        "source": str(tmp_path / "m.safetensors"),
        "image_encoder": "owner/name",
    }


def test_an_adapter_tells_of_which_family_a_single_file_is(tmp_path):
    (tmp_path / "m.safetensors").touch()
    shutil.copy(store.SHIPPED / store.ADAPTER_FILE, tmp_path / "a.safetensors")
    for adapter in ("a.safetensors", {"source": ".", "weight_name": "a.safetensors"}):
        spec = {"kind": "ImagePrompt", "adapter": adapter, "picture": "a.png"}
        study = ap.Study("m.safetensors", {"style": spec}, folder=tmp_path)
        assert model_of(study, cells=study.cells())["family"] == "custom"
    named = ap.Study({"source": "m.safetensors", "family": "sdxl"}, folder=tmp_path)
    assert model_of(named, cells=named.cells())["family"] == "sdxl"


def test_arrays_are_lists_of_numbers():
    study = make({"seed": np.arange(3), "style.window": torch.tensor([[0.0, 0.5]])})
    assert study == make({"seed": [0, 1, 2], "style.window": [[0.0, 0.5]]})


def test_none_is_an_empty_table_everywhere():
    spec = {**STYLE, "mask": None, "curve": None}
    study = make({"style.preset": [None]}, patches={"style": spec}, pipeline={"size": None})
    assert ap.Study.from_toml(study.to_toml()) == study
    empty = {**STYLE, "mask": {}, "curve": {}}
    assert make({"style.preset": [{}]}, patches={"style": empty}, pipeline={"size": {}}) == study
    # An option that is none where it is not named is the same cell.
    assert study.cells()[0].id == make().cells()[0].id
    apart = {**STYLE, "combine": None}  # but not where the default is another
    assert make(patches={"style": apart}).cells()[0].id != make().cells()[0].id


def test_names_of_all_of_unicode(tmp_path):
    tokens = {"kind": "TokenMerging"}
    study = make({"😀.on": [True, False]}, patches={"😀": tokens, "a\x7fb": tokens}, name="😀")
    study.save(tmp_path / "study.toml")
    assert ap.Study.load(tmp_path / "study.toml") == study


def test_draws_stay_in_their_range():
    ends = 0.1000000000000001, 0.1000000000000002  # closer than what is written of a draw
    for row in ap.Axes.random({"w": {"low": ends[0], "high": ends[1]}}, 50):
        assert ends[0] <= row["w"] <= ends[1]


def test_equal_cells_count_once():
    assert len(make({"style.on": [True, False], "style.weight": [0.1, 0.2]})) == 3
