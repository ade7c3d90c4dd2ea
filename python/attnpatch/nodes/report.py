# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The node that shows what is patched where."""

from __future__ import annotations

from typing import Any

import attnpatch
from attnpatch.nodes.spec import Input, NodeSpec, Output, Result

__all__ = ["NODES"]


def _show(*, model: Any) -> Result:
    text = str(attnpatch.report(model))
    return Result((model, text), {"text": (text,)})


NODES = (
    NodeSpec(
        id="AttentionPatchesReport",
        title="Attention Patches Report",
        category="attnpatch",
        description="Shows which layers of a model our patches act on, and where they do not and "
        "why.",
        inputs=(
            Input(id="model", type="MODEL", tooltip="A model, patched or not; it is passed on."),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model as it came in."),
            Output("STRING", "report", "The report as text."),
        ),
        run=_show,
        output_node=True,
    ),
)
