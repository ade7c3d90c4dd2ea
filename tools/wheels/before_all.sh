#!/usr/bin/env bash
# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

# For cibuildwheel, before the first wheel: the static libraries and the list of them. Their sources
# have to be in build/bundled/sources.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=$(command -v python3.12 || command -v python3)
"$python" -m venv build/tools
build/tools/bin/pip install --quiet cmake ninja
export PATH="$PWD/build/tools/bin:$PATH" PYTHONPATH=tools
python -c 'from wheels import sbom, static_libraries; static_libraries.build(); sbom.write()'
