# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is bundled in a wheel, as a CycloneDX document (a wheel holds it in ``sboms/``, PEP 770)."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wheels.libraries import FOLDER, LIBRARIES, ROOT, Library
from wheels.sources import description, distribution, version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PATH = FOLDER / "sboms" / "attnpatch.cdx.json"


def write(more: Sequence[dict[str, Any]] = ()) -> Path:
    """Write the document where CMake installs it from.

    Parameters
    ----------
    more
        Components beside the libraries that are built here.
    """
    PATH.parent.mkdir(parents=True, exist_ok=True)
    PATH.write_text(json.dumps(document(more), indent=1) + "\n", encoding="utf-8")
    return PATH


def document(more: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return the document: the package, and the libraries that it is linked to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    purl = f"pkg:pypi/{project['name']}@{project['version']}"
    components = [*map(_component, LIBRARIES), *more]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "library",
                "bom-ref": purl,
                "name": project["name"],
                "version": project["version"],
                "purl": purl,
                "licenses": [{"expression": project["license"]}],
            }
        },
        "components": components,
        "dependencies": [
            {"ref": purl, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }


def _component(library: Library) -> dict[str, Any]:
    release = version(library)
    purl = f"pkg:deb/{distribution()}/{library.package}@{release}?arch=source"
    digest = re.search(
        r"^ ([0-9a-f]{64}) \d+ \S+\.orig\.tar\S+$",
        description(library).read_text(encoding="utf-8", errors="replace"),
        re.MULTILINE,
    )
    if digest is None:
        raise ValueError(f"{description(library)}: expected the SHA-256 of an archive, got none")
    return {
        "type": "library",
        "bom-ref": purl,
        "name": library.name,
        "version": release,
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": digest[1]}],
        "licenses": [{"expression": library.licence}],
        "externalReferences": [{"type": "website", "url": library.homepage}],
    }
