# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Running nodes as the host does, and comparing what comes out."""

import torch

from attnpatch.nodes import NODE_CLASS_MAPPINGS, NODES


def run(name, **values):
    """Run a node by its id: every widget has a value, as in a saved workflow."""
    spec = next(spec for spec in NODES if spec.id == name)
    widgets = {
        given.id: next(iter(given.options()), None) if given.default is None else given.default
        for given in spec.inputs
        if given.widget
    }
    node = NODE_CLASS_MAPPINGS[name]()
    return getattr(node, node.FUNCTION)(**{**widgets, **values})


def near(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
