# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The files of all examples: as the editor saves them, and in ``api/`` for the HTTP interface."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from example_workflows import transformers, unets
from example_workflows.graph import Graph

FOLDER = Path(__file__).resolve().parents[2] / "comfyui/attnpatch_nodes/example_workflows"

EXAMPLES: tuple[Callable[[Graph], None], ...] = (
    unets.image_prompt,
    unets.two_image_prompts,
    unets.combined_embeds,
    unets.guidance_beside_a_prompt,
    unets.fewer_tokens,
    unets.sdxl_words_and_negative,
    transformers.flux_words_and_negative,
    transformers.klein_reference_strength,
    transformers.qwen_edit_regions,
    unets.sweep,
)


def texts() -> dict[Path, str]:
    """Return the text of every file."""
    found = {}
    for example in EXAMPLES:
        graph = Graph()
        example(graph)
        name = f"{example.__name__}.json"
        for path, content in ((name, graph.editor()), (f"api/{name}", graph.api())):
            found[FOLDER / path] = json.dumps(content, indent=1) + "\n"
    return found
