# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

from attnpatch.nodes import NODES
from attnpatch.nodes.docs import render

DOCS = Path(__file__).parents[2] / "docs" / "nodes.md"


def test_docs_are_those_of_the_table():
    """If this fails: python -m attnpatch.nodes.docs docs/nodes.md"""
    assert DOCS.read_text(encoding="utf-8") == render()


def test_every_node_and_input_is_described():
    text = render()
    for spec in NODES:
        assert f"`{spec.id}`. {spec.description}" in text
        assert all(f"| `{given.id}`" in text for given in spec.inputs)


def test_no_text_breaks_a_table():
    texts = [t for spec in NODES for t in [*(i.tooltip for i in spec.inputs)]]
    texts += [o.tooltip for spec in NODES for o in spec.outputs]
    assert not [text for text in texts if "|" in text or "\n" in text]
