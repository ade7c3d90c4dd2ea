# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The order of the pages. It is added to the first page, the README, which stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

PAGES = {
    "Start": ["docs/install", "docs/gallery", "docs/playground", "docs/demo", "docs/notebooks"],
    "Tutorials": [
        "notebooks/README",
        "notebooks/01_image_prompts",
        "notebooks/02_identities_and_regions",
        "notebooks/03_guidance",
        "notebooks/04_fewer_tokens",
        "notebooks/05_stacks",
        "notebooks/06_your_own_patch",
        "notebooks/07_operators",
        "notebooks/08_three_hosts",
    ],
    "Hosts": [
        "docs/hosts/README",
        "docs/hosts/diffusers",
        "docs/hosts/comfyui",
        "docs/hosts/fooocus",
        "docs/hosts/tensors",
    ],
    "Patches": [
        "docs/patches",
        "docs/token-reduction",
        "docs/normalized-attention-guidance",
        "docs/word-weights",
        "docs/regions",
        "docs/references",
        "docs/key-gains",
    ],
    "Sweeps": ["docs/sweeps", "docs/scaling"],
    "Reference": [
        "docs/reference/attnpatch",
        "docs/reference/adapters",
        "docs/reference/patches",
        "docs/reference/hosts",
        "docs/reference/engine",
        "docs/reference/ops",
        "docs/reference/faces",
        "docs/reference/pictures",
        "docs/reference/nodes",
        "docs/reference/studies",
        "docs/nodes",
        "comfyui/README",
        "docs/pipelines",
    ],
    "Measured": ["docs/benchmarks", "docs/cuda"],
    "Design": [
        "docs/design/README",
        "docs/design/architecture",
        "docs/design/image-prompts",
        "docs/design/identity",
        "docs/design/self-attention-guidance",
        "docs/design/token-reduction",
        "docs/design/style",
    ],
    "Project": [
        "CHANGELOG",
        "CONTRIBUTING",
        "docs/testing",
        "docs/releasing",
        "SECURITY",
        "CODE_OF_CONDUCT",
    ],
}


def add_toctrees(app: Any, docname: str, source: list[str]) -> None:
    """Put the tables of pages, unseen, below the README's text."""
    if docname == app.config.root_doc:
        for caption, pages in PAGES.items():
            listed = "\n".join(f"/{page}" for page in pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def add_index(app: Any, exception: Exception | None) -> None:
    """Serve the first page as index.html, too."""
    if exception is None and app.builder.format == "html":
        folder = Path(app.outdir)
        shutil.copyfile(folder / f"{app.config.root_doc}.html", folder / "index.html")


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("source-read", add_toctrees)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
