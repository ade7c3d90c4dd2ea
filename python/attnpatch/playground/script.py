# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The Python that makes the picture of the playground, from the files that it gives."""

from __future__ import annotations

import json
from collections.abc import Sequence

__all__ = ["call", "quoted", "write_script"]

_WIDTH = 80
_HEAD = (
    '"""The picture of attnpatch\'s playground; its references and masks lie beside this file."""'
)
_MASK = '''

def mask(file):
    """White is 1, black is 0."""
    return torch.from_numpy(np.asarray(Image.open(file).convert("L"), np.float32) / 255)

'''


def call(function: str, *arguments: str, **options: str) -> str:
    """Write a call: on one line where it fits, else a line for each argument."""
    parts = [*arguments, *(f"{name}={text}" for name, text in options.items())]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= _WIDTH and "\n" not in line:
        return line
    return f"{function}(\n{_indented(parts)}\n)"


def quoted(text: str) -> str:
    """Write a string: JSON's are Python's, too."""
    return json.dumps(text, ensure_ascii=False)


def write_script(
    imports: Sequence[str], load: Sequence[str], patches: Sequence[str], run: Sequence[str]
) -> str:
    """Write a program that makes ``stack`` of the patches, and runs it.

    Parameters
    ----------
    imports, load, patches, run : sequence of str
        Lines; of the patches an expression each. ``mask("file.png")`` is known to them, and what
        is run sets ``picture``.
    """
    masks = any("mask=mask(" in patch for patch in patches)
    if masks:
        imports = [*imports, "import numpy as np", "import torch", "from PIL import Image"]
    lines = [_HEAD, "", *sorted({"import attnpatch as ap", *imports}, key=_import_order)]
    lines += [_MASK] if masks else [""]
    lines += [*load, "", "# stack.safetensors holds the same: ap.PatchStack.load reads it."]
    stack = f"[\n{_indented(patches)}\n]" if patches else "[]"
    lines += [f"stack = ap.PatchStack({stack})", "", *run, 'picture.save("picture.png")']
    return "\n".join(lines) + "\n"


def _import_order(line: str) -> tuple[bool, str]:
    return line.startswith("from"), line


def _indented(parts: Sequence[str]) -> str:
    text = "\n".join(f"{part}," for part in parts)
    return "\n".join(f"    {line}" for line in text.splitlines())
