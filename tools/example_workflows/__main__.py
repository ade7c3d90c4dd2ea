# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Write the example workflows for ComfyUI, or check that they are up to date.

Usage: ``PYTHONPATH=tools python -m example_workflows [--check]``.
"""

from __future__ import annotations

import argparse
import sys

from example_workflows.files import FOLDER, texts


def main() -> int:
    """Run the command line; 1 where a file had to change under ``--check``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, name what differs")
    check = parser.parse_args().check
    wanted = texts()
    stale = {path for path in FOLDER.rglob("*.json") if path not in wanted}
    stale |= {p for p, t in wanted.items() if not p.exists() or p.read_text("utf-8") != t}
    for path in sorted(stale):
        print(f"stale: {path.relative_to(FOLDER.parent)}", file=sys.stderr)
        if check:
            continue
        if path not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
