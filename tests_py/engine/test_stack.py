# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
import copy
import gc
import json
import pickle
import re
import weakref
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from attnpatch.engine import PatchStack, Weight
from attnpatch.engine.patch import Patch
from attnpatch.patches import ImagePrompt


def tensors_alive():
    return sum(type(o) is torch.Tensor for o in gc.get_objects())


def test_stack_is_immutable_and_adds(prompt):
    first, second = prompt(0.5), prompt(0.7, seed=1)
    stack = PatchStack([first])
    longer = stack + second
    assert list(stack) == [first] and list(longer) == [first, second]
    assert longer == stack + [second] == PatchStack(longer)  # noqa: RUF005
    assert longer == [first] + PatchStack([second])  # noqa: RUF005
    assert longer[0] is first and longer[1:] == PatchStack(second) and len(PatchStack()) == 0
    assert stack != longer and hash(longer) == hash(stack + second)
    with pytest.raises(AttributeError, match="immutable"):
        stack.patches = ()
    with pytest.raises(TypeError, match="expected patches, got str"):
        PatchStack(["x"])
    with pytest.raises(TypeError):
        stack + 1


def test_chaining_again_and_again_gives_the_same(prompt, table, site, qkv):
    """A cached upstream model is patched anew on every run: nothing may pile up."""
    upstream = PatchStack([prompt(0.5)])
    here = site(3)
    outputs, digests = [], []
    for _ in range(4):
        stack = upstream + prompt(0.7, seed=1)
        outputs.append(stack.bind(table).attend(here, *qkv(here), heads=2))
        digests.append([patch.digest for patch in stack])
    assert all(torch.equal(outputs[0], out) for out in outputs)
    assert all(digest == digests[0] for digest in digests)
    assert len(upstream) == 1


def test_copies_hold_no_new_tensor(prompt, table):
    stack = PatchStack([prompt(0.5, mask=torch.ones(4, 4))])
    host = {"patches": {"attn2": stack.bind(table)}, "stack": stack, "prompt": stack[0]}
    before = tensors_alive()
    clones = [copy.deepcopy(host) for _ in range(3)]
    assert tensors_alive() == before
    assert all(clone["stack"] is stack and clone["prompt"] is stack[0] for clone in clones)


def test_the_adapter_can_be_dropped(adapter, tokens):
    prompt = ImagePrompt(adapter, (tokens(), tokens(seed=1)))
    weights = [weakref.ref(w) for pair in adapter.weights for w in pair]
    adapter.weights.clear()
    assert all(ref() is None for ref in weights)
    assert prompt.nbytes == sum(2 * 4 * c * 2 * 4 for c in adapter.channels)


def test_prompts_own_their_tensors(prompt, adapter, tokens):
    """What the host does with its tensors afterwards changes nothing."""
    layers = adapter.project_sites(tokens())
    mask = torch.ones(4, 4)
    ready = ImagePrompt.from_keys_values(layers, mask=mask)
    before = ready.digest
    for k, v in layers:
        k.zero_()
        v.zero_()
    mask.zero_()
    assert ready.digest == before


@pytest.fixture
def various(prompt, adapter, tokens):
    """One prompt for every option."""
    mask = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    return PatchStack(
        [
            prompt(),
            prompt(0.5, start=0.1, end=0.9, end_exclusive=True),
            prompt("style transfer", scaling="K+V", mask=mask, mask_resize="area"),
            prompt({3: 1.0}, shared_softmax=True, pictures=2, negatives=2, roles={2: "off"}),
            prompt({"down": {"block_1": [0.5]}}, compat="comfyui_ipadapter_plus"),
            prompt(Weight(0.1, [0.1] * 9, curve=[(0, 1), (1, 0)], samples=[1.0, 0.1])),
            ImagePrompt(adapter, (tokens(1, 6), tokens(1, 3))),
            ImagePrompt.from_keys_values(
                [(k.half(), v.half()) for k, v in adapter.project_sites(tokens())], source="by hand"
            ),
        ]
    )


def test_stacks_round_trip(various, tmp_path):
    path = tmp_path / "stack.safetensors"
    various.save(path)
    loaded = PatchStack.load(path)
    assert loaded == various and hash(loaded) == hash(various)
    assert [p.digest for p in loaded] == [p.digest for p in various]
    assert repr(loaded) == repr(various)
    again = pickle.loads(pickle.dumps(various))
    assert again == various and repr(again) == repr(various)
    assert [p.name for p in tmp_path.iterdir()] == ["stack.safetensors"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=4),
    st.floats(0, 1),
    st.booleans(),
)
def test_numbers_round_trip_exactly(prompt, tmp_path, numbers, start, shared_softmax):
    weight = Weight(layers=numbers) if numbers else 1 / 3
    stack = PatchStack([prompt(weight, shared_softmax=shared_softmax, start=start)])
    stack.save(tmp_path / "stack.safetensors")
    assert PatchStack.load(tmp_path / "stack.safetensors") == stack


def test_shared_tensors_are_written_once(prompt, tmp_path):
    first = prompt(mask=torch.ones(64, 64))
    PatchStack([first]).save(tmp_path / "one")
    many = PatchStack([first.replace(weight=w / 10) for w in range(5)])
    many.save(tmp_path / "many")
    assert (tmp_path / "many").stat().st_size < (tmp_path / "one").stat().st_size + 8000
    assert many.nbytes == first.nbytes
    assert PatchStack.load(tmp_path / "many") == many


def test_files_name_what_is_wrong(prompt, tmp_path):
    path = tmp_path / "file.safetensors"
    save_file({"x": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="expected a file saved by"):
        PatchStack.load(path)
    PatchStack([prompt()]).save(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {**metadata, "version": "2"})
    with pytest.raises(ValueError, match="version 2"):
        PatchStack.load(path)
    other = json.loads(metadata["stack"])
    other["patches"][0]["kind"] = "unheard_of"
    save_file(tensors, path, {**metadata, "stack": json.dumps(other)})
    with pytest.raises(ValueError, match=r"'unheard_of'; known: .*image_prompt"):
        PatchStack.load(path)
    for damaged in ({"patches": [{}]}, {}, {"patches": 3}, [], {"patches": [{"kind": [1]}]}):
        save_file(tensors, path, {**metadata, "stack": json.dumps(damaged)})
        with pytest.raises(ValueError, match=r"file\.safetensors: .* got another or a damaged one"):
            PatchStack.load(path)
    save_file(tensors, path, {**metadata, "stack": "no JSON"})
    with pytest.raises(ValueError, match=r"file\.safetensors: .* got another or a damaged one"):
        PatchStack.load(path)
    for data in (b"", b"no safetensors", path.read_bytes()[:-4]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"file\.safetensors: .* got another or a damaged one"):
            PatchStack.load(path)


@pytest.mark.parametrize("device", ["nonsense", "", "cpu:x", 3.5, None])
def test_a_wrong_device_is_no_damaged_file(prompt, tmp_path, device):
    path = tmp_path / "stack.safetensors"
    PatchStack([prompt()]).save(path)
    expected = re.escape(f"device: expected one that is here, got {device}: ")
    with pytest.raises(ValueError, match=f"^{expected}"):
        PatchStack.load(path, device)


def test_equality_sees_every_option_and_tensor(various, prompt, tokens, adapter):
    base = prompt(0.5, mask=torch.ones(4, 4))
    assert base == prompt(0.5, mask=torch.ones(4, 4))
    changes = {
        "weight": 0.6,
        "mask": torch.zeros(4, 4),
        "start": 0.1,
        "end": 0.9,
        "scaling": "K+V",
        "shared_softmax": True,
        "roles": {2: "off"},
        "end_exclusive": True,
        "mask_resize": "area",
        "compat": "comfyui_ipadapter_plus",
    }
    others = [base.replace(**{name: value}) for name, value in changes.items()]
    others += [base.replace(mask=None), prompt(0.5, seed=1, mask=torch.ones(4, 4))]
    assert all(base != other for other in others)
    assert len({other.digest for other in [*others, base]}) == len(others) + 1
    assert base != "x" and len(set(various)) == len(various)


def test_replace_shares_tensors_and_keeps_the_rest(prompt):
    first = prompt(0.5, start=0.2, scaling="K+V")
    second = first.replace(weight="ease in")
    assert second.keys_values is first.keys_values
    assert second == prompt("ease in", start=0.2, scaling="K+V")
    assert first.replace() == first
    with pytest.raises(TypeError, match="no option wight"):
        first.replace(wight=1)


def test_repr_is_the_call(various):
    text = repr(various[1])
    assert text == (
        "ImagePrompt(<small adapter>, <1+1 × 4 tokens, 9 layers (custom), float32>, "
        "weight=0.5, start=0.1, end=0.9, end_exclusive=True)"
    )
    assert "mask=<2 × 5 × 4>, scaling='K+V', mask_resize='area'" in repr(various[2])
    assert "weight='style transfer'" in repr(various[2])
    assert "shared_softmax=True, roles={2: 'off'}" in repr(various[3])
    assert "scaling" not in repr(various[3])
    assert "<by hand>, <1+0 × 4 tokens, 9 layers (custom), float16>" in repr(various[7])


def test_describe_and_diff(prompt, table):
    stack = PatchStack([prompt(0.5), prompt(0.0, seed=1)])
    text = stack.describe(table)
    assert "0: ImagePrompt(" in text and "9 of 9 layers patched" in text
    assert "patch 1 skips 9: weight 0" in text
    assert PatchStack().describe() == "no patches"
    other = stack[:1] + prompt(0.3, seed=1)
    assert stack.diff(stack) == ""
    minus, plus = stack.diff(other).splitlines()
    assert minus.startswith("- ") and "weight=0.0" in minus
    assert plus.startswith("+ ") and "weight=0.3" in plus
    assert "order" in stack.diff(stack[1:] + stack[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": 2, "negatives": 3}, "uncond: expected 1 or 2"),
        ({"pictures": 2, "mask": torch.ones(3, 4, 4)}, "2 in embeds, 3 in mask"),
        ({"weight": torch.ones(2), "mask": torch.ones(3, 4, 4)}, "3 in mask, 2 in weight"),
        ({"scaling": "K only"}, "scaling: expected one of 'V only'"),
        ({"mask_resize": "cubic"}, "mask_resize"),
        ({"roles": {2: "conds"}}, "roles: expected one of 'cond', 'uncond', 'off', got 'conds'"),
        ({"start": float("nan")}, "start: expected a finite number"),
        ({"end": float("inf")}, "end: expected a finite number"),
        (
            {"shared_softmax": True, "mask": -torch.ones(4, 4)},
            r"mask: expected values of at least 0 .*, got -1.0",
        ),
        ({"weight": "easy"}, "no preset"),
        ({"compat": "fooocus"}, "compat: expected shared_softmax=True beside 'fooocus'"),
        (
            {"compat": "comfyui_instantid", "shared_softmax": True},
            "compat: expected shared_softmax=False beside 'comfyui_instantid'",
        ),
        ({"compat": "focus"}, "compat: expected None or one of .*'fooocus', got 'focus'"),
    ],
    ids=str,
)
def test_prompts_name_what_does_not_fit(prompt, options, message):
    with pytest.raises(ValueError, match=message):
        prompt(**options)


def test_embeds_and_lists_name_what_does_not_fit(adapter, tokens):
    with pytest.raises(ValueError, match="expected cond of shape"):
        ImagePrompt(adapter, (torch.ones(4, 12), None))
    with pytest.raises(TypeError, match=r"embeds: expected what get_image_embeds gives.*Tensor"):
        ImagePrompt(adapter, tokens(2))
    layers = adapter.project_sites(tokens())
    with pytest.raises(ValueError, match="at least one layer"):
        ImagePrompt.from_keys_values([])
    with pytest.raises(ValueError, match="uncond: expected 9 layers"):
        ImagePrompt.from_keys_values(layers, layers[:4])
    with pytest.raises(ValueError, match="layer 0: expected keys and values"):
        ImagePrompt.from_keys_values([(layers[0][0], layers[1][1])])
    with pytest.raises(ValueError, match="layer 1: expected 1 rows"):
        ImagePrompt.from_keys_values([layers[0], adapter.project_sites(tokens(2))[1]])


def test_embeds_by_attribute(adapter, tokens):
    embeds = SimpleNamespace(cond=tokens(), uncond=tokens(seed=1))
    assert ImagePrompt(adapter, embeds) == ImagePrompt(adapter, (tokens(), tokens(seed=1)))


def test_types_are_registered():
    assert Patch.types["image_prompt"] is ImagePrompt


def test_stacks_of_version_0_1_load(prompt, tmp_path):
    """There the text's own softmax was called joint; the other names of the format stay."""
    weight = Weight(0.3, samples=(0.5, 1.0))
    stack = PatchStack([prompt(0.5, shared_softmax=True), prompt(weight, seed=1, pictures=2)])
    stack.save(tmp_path / "new.safetensors")
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    metadata["stack"] = metadata["stack"].replace('"shared_softmax"', '"joint"')
    assert metadata["stack"].count('"joint"') == 2
    first, second = json.loads(metadata["stack"])["patches"]
    assert first.keys() == {"kind", "values", "tensors"} and first["kind"] == "image_prompt"
    assert second["values"]["weight"]["pictures"] == [0.5, 1.0]
    save_file(tensors, tmp_path / "old.safetensors", metadata)
    assert PatchStack.load(tmp_path / "old.safetensors") == stack


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"joint": True, "reference_quirks": True}, {"shared_softmax": True, "compat": "fooocus"}),
        ({"joint": False, "reference_quirks": True}, {"compat": "comfyui_ipadapter_plus"}),
        ({"joint": False, "reference_quirks": False, "hold_last": True}, {"repeat_last": True}),
    ],
    ids=str,
)
def test_options_of_version_0_1_are_read(prompt, old, new):
    values, tensors = prompt(0.5, shared_softmax=old["joint"]).state()
    for name in ("shared_softmax", "compat", "repeat_last"):
        del values[name]
    assert ImagePrompt.from_state(values | old, tensors) == prompt(0.5, **new)
