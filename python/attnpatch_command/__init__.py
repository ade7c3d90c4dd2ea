# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The program ``attnpatch``: apart from the package, for where that cannot be imported."""

from __future__ import annotations

import sys

from attnpatch_command import doctor, packages
from attnpatch_command.output import end_quietly, say_when_slow

__all__ = ["main"]


def main() -> int:
    """Run the program; returns its exit status."""
    return end_quietly(_run)


def _run() -> int:
    if sys.argv[1:2] == ["doctor"]:
        return doctor.main(sys.argv[2:])
    try:
        with say_when_slow("attnpatch: loading torch"):
            from attnpatch import cli
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        said = str(error)
        if missing in packages.NEEDED:
            said = f"{missing} is not installed: {packages.PIP} {missing}"
        print(f"attnpatch: {said}\nMore is said by: attnpatch doctor", file=sys.stderr)
        return 1
    return cli.main()
