# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The program ``attnpatch``: apart from the package, which takes long to import or cannot be."""

from __future__ import annotations

from attnpatch_command.cli import main as run
from attnpatch_command.output import end_quietly

__all__ = ["main"]


def main() -> int:
    """Run the program; returns its exit status."""
    return end_quietly(run)
