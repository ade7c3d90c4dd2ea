# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The table of nodes, the two kinds of classes made from it, and the names that workflows know."""

import asyncio
import inspect
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import fake_comfy_api
import pytest

import attnpatch.nodes
from attnpatch.nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, NODES
from attnpatch.nodes.spec import Input, NodeSpec, Output, Result
from attnpatch.nodes.v1 import make_v1_class
from attnpatch.nodes.v3 import make_v3_class
from attnpatch.patches import WEIGHT_TYPES, ImagePrompt
from attnpatch.patches.image_prompt.keys_values import SCALINGS

KNOWN = json.loads((Path(__file__).parent / "reference_nodes.json").read_text())
BY_ID = {spec.id: spec for spec in NODES}
SPECS = pytest.mark.parametrize("spec", NODES, ids=lambda spec: spec.id)


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_nodes_are_those_that_old_workflows_name(name):
    spec, known = BY_ID[name], KNOWN[name]
    assert (spec.title, spec.category, spec.output_node) == (
        known["title"],
        known["category"],
        known["output_node"],
    )
    assert [[output.type, output.name] for output in spec.outputs] == known["outputs"]
    # Saved workflows store widgets by position: ours come after, and may be missing.
    count = len(known["inputs"])
    for given, wanted in zip(spec.inputs, known["inputs"], strict=False):
        assert (given.id, given.type, given.optional) == (
            wanted["id"],
            wanted["kind"],
            wanted["optional"],
        )
        attributes = {n: v for n, v in given.attributes().items() if n != "tooltip"}
        plain = {n: v for n, v in wanted.items() if n not in ("id", "kind", "optional", "choices")}
        assert attributes == plain
        if wanted.get("choices"):
            assert given.options() == wanted["choices"]
    assert len(spec.inputs) >= count
    assert all(more.optional for more in spec.inputs[count:])


def test_nothing_beside_the_known_nodes_takes_their_prefix():
    ours = {spec.id for spec in NODES} - KNOWN.keys()
    assert not [name for name in ours if name.startswith(("IPA", "Prep"))]


@SPECS
def test_every_part_of_a_node_explains_itself(spec):
    texts = [spec.description, *(given.tooltip for given in spec.inputs)]
    texts += [output.tooltip for output in spec.outputs]
    assert all(text and text[0].isupper() and text.endswith(".") for text in texts)


@SPECS
def test_run_takes_every_input(spec):
    signature = inspect.signature(spec.run)
    names = [*(given.id for given in spec.inputs), *spec.hidden]
    signature.bind(**dict.fromkeys(names))
    if spec.needs is not None:
        inspect.signature(spec.needs).bind(**dict.fromkeys(names))


def test_defaults_are_those_of_the_python_api():
    defaults = {n: p.default for n, p in inspect.signature(ImagePrompt).parameters.items()}
    inputs = {given.id: given for given in BY_ID["IPAdapterAdvanced"].inputs}
    assert inputs["weight"].default == defaults["weight"]
    assert inputs["start_at"].default == defaults["start"]
    assert inputs["end_at"].default == defaults["end"]
    assert inputs["reference_quirks"].default == (defaults["compat"] is not None)
    assert inputs["embeds_scaling"].options() == list(SCALINGS)
    assert set(inputs["weight_type"].options()) <= set(WEIGHT_TYPES)


@SPECS
def test_v1_class_says_what_the_table_says(spec):
    made = NODE_CLASS_MAPPINGS[spec.id]
    types = made.INPUT_TYPES()
    flat = [(n, part, d) for part in ("required", "optional") for n, d in types[part].items()]
    assert [name for name, _, _ in flat] == [given.id for given in spec.inputs]
    for given, (_, part, (kind, attributes)) in zip(spec.inputs, flat, strict=True):
        assert (part == "optional") == given.optional
        assert kind == (given.options() if given.type == "COMBO" else given.type)
        assert attributes == given.attributes()
    assert tuple(output.type for output in spec.outputs) == made.RETURN_TYPES
    assert tuple(output.name for output in spec.outputs) == made.RETURN_NAMES
    assert tuple(output.tooltip for output in spec.outputs) == made.OUTPUT_TOOLTIPS
    assert (spec.category, spec.description) == (made.CATEGORY, made.DESCRIPTION)
    assert spec.output_node == made.OUTPUT_NODE
    assert callable(getattr(made(), made.FUNCTION))
    assert hasattr(made, "IS_CHANGED") == (spec.fingerprint is not None)
    assert hasattr(made, "VALIDATE_INPUTS") == (spec.check is not None)
    assert hasattr(made, "check_lazy_status") == (spec.needs is not None)
    assert types.get("hidden", {}) == {name: name.upper() for name in spec.hidden}
    assert NODE_DISPLAY_NAME_MAPPINGS[spec.id] == spec.title


@SPECS
def test_v3_class_says_what_the_table_says(spec):
    made = make_v3_class(spec, fake_comfy_api.io)
    schema = made.define_schema()
    assert (schema.node_id, schema.display_name, schema.category, schema.description) == (
        spec.id,
        spec.title,
        spec.category,
        spec.description,
    )
    assert schema.is_output_node == spec.output_node
    for given, declared in zip(spec.inputs, schema.inputs, strict=True):
        assert (declared.id, declared.io_type) == (given.id, given.type)
        assert (declared.optional, declared.tooltip) == (given.optional, given.tooltip)
        values = {n: v for n, v in given.attributes().items() if n != "tooltip"}
        if given.type == "COMBO":
            values["options"] = given.options()
        assert declared.values == values
    outputs = [(o.io_type, o.display_name, o.tooltip) for o in schema.outputs]
    assert outputs == [(o.type, o.name, o.tooltip) for o in spec.outputs]
    assert hasattr(made, "fingerprint_inputs") == (spec.fingerprint is not None)
    assert hasattr(made, "validate_inputs") == (spec.check is not None)
    assert hasattr(made, "check_lazy_status") == (spec.needs is not None)
    assert schema.hidden == [name.upper() for name in spec.hidden]


def test_entrypoint_gives_all_nodes(monkeypatch):
    package, latest = ModuleType("comfy_api"), ModuleType("comfy_api.latest")
    package.latest = latest
    latest.io, latest.ComfyExtension = fake_comfy_api.io, fake_comfy_api.ComfyExtension
    monkeypatch.setitem(sys.modules, "comfy_api", package)
    monkeypatch.setitem(sys.modules, "comfy_api.latest", latest)
    extension = asyncio.run(attnpatch.nodes.comfy_entrypoint())
    assert isinstance(extension, fake_comfy_api.ComfyExtension)
    nodes = asyncio.run(extension.get_node_list())
    assert [node.define_schema().node_id for node in nodes] == [spec.id for spec in NODES]


def spec_of(run, **more):
    inputs = (
        Input(id="a", type="INT", default=1, minimum=0, maximum=9, tooltip="A number."),
        Input(id="b", type="STRING", default="x", tooltip="A text.", optional=True),
    )
    outputs = (Output("STRING", "text", "What came in."),)
    return NodeSpec(
        id="Echo",
        title="Echo",
        category="test",
        description="Gives back.",
        inputs=inputs,
        outputs=outputs,
        run=run,
        **more,
    )


def test_both_kinds_run_the_same_function_with_the_same_defaults():
    spec = spec_of(lambda *, a, b: (f"{a}{b}",))
    assert make_v1_class(spec)().run(a=3) == ("3x",)
    assert make_v3_class(spec, fake_comfy_api.io).execute(a=3).args == ("3x",)
    shown = spec_of(lambda *, a, b: Result((b,), {"text": (a,)}))
    assert make_v1_class(shown)().run(a=3) == {"ui": {"text": (3,)}, "result": ("x",)}
    output = make_v3_class(shown, fake_comfy_api.io).execute(a=3, b="y")
    assert (output.args, output.ui) == (("y",), {"text": (3,)})


def test_fingerprint_and_check_reach_both_kinds():
    def check(cls, a):
        return a > 1 or "a: expected more than 1"

    spec = spec_of(lambda *, a, b: (b,), fingerprint=lambda *, a, b=None: a * 2, check=check)
    old, new = make_v1_class(spec), make_v3_class(spec, fake_comfy_api.io)
    assert old.IS_CHANGED(a=4) == new.fingerprint_inputs(a=4) == 8
    assert old.VALIDATE_INPUTS(a=0) == new.validate_inputs(a=0) == "a: expected more than 1"
    assert inspect.getfullargspec(old.VALIDATE_INPUTS).args == ["cls", "a"]


def test_what_the_host_tells_reaches_both_kinds():
    lazy = Input(id="c", type="IMAGE", tooltip="A picture.", lazy=True)
    values = {"title": "Told", "category": "test", "description": "Tells.", "outputs": ()}
    spec = NodeSpec(
        id="Told",
        inputs=(lazy,),
        run=lambda *, c, unique_id: (c, unique_id),
        hidden=("unique_id",),
        needs=lambda *, c, unique_id: [f"{unique_id}"] if c is None else [],
        **values,
    )
    old, new = make_v1_class(spec), make_v3_class(spec, fake_comfy_api.io)
    assert old().run(c=1, unique_id="7") == (1, "7")
    assert old().check_lazy_status(c=None, unique_id="7") == ["7"]
    new.hidden = SimpleNamespace(unique_id="7")
    assert new.execute(c=1).args == (1, "7")
    assert new.check_lazy_status(c=None) == ["7"] and new.check_lazy_status(c=2) == []
    with pytest.raises(ValueError, match="needs where there are lazy inputs"):
        NodeSpec(id="Told", inputs=(lazy,), run=spec.run, **values)
    with pytest.raises(ValueError, match="expected of prompt, extra_pnginfo, unique_id"):
        NodeSpec(id="Told", inputs=(), run=spec.run, hidden=("token",), **values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "FLOAT", "default": 2.0, "minimum": 0.0, "maximum": 1.0}, "minimum <= default"),
        ({"type": "INT", "default": 1}, "minimum <= default"),
        ({"type": "COMBO", "choices": ("a", "b"), "default": "c"}, "'c' is no choice"),
        ({"type": "MASK", "tooltip": ""}, "tooltip"),
    ],
)
def test_a_wrong_input_does_not_get_into_the_table(options, message):
    with pytest.raises(ValueError, match=message):
        Input(**{"id": "given", "tooltip": "Something.", **options})


def test_a_wrong_node_does_not_get_into_the_table():
    spec = spec_of(lambda **values: ())
    values = {name: getattr(spec, name) for name in ("id", "title", "category", "description")}
    values |= {"outputs": (), "run": spec.run}
    with pytest.raises(ValueError, match="optional inputs come last"):
        NodeSpec(inputs=spec.inputs[::-1], **values)
    with pytest.raises(ValueError, match="two inputs have one name"):
        NodeSpec(inputs=(spec.inputs[0],) * 2, **values)
