# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Where a picture goes: asked before it is made, for that may take hours."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

__all__ = ["check_output"]


def check_output(path: Path) -> None:
    """Make the folder of a picture, and check that it can be written there.

    Raises
    ------
    ValueError
        For a name that is of no form that Pillow writes, or a place that cannot be written.
    """
    Image.init()
    if Image.EXTENSION.get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--output: expected a name that ends in .png, got {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not path.exists()
        with path.open("ab"):
            pass
    except FileExistsError:
        raise ValueError(
            f"--output: expected a file in a folder, got {path}: {path.parent} is a file"
        ) from None
    except OSError as error:
        raise ValueError(f"--output: {path} cannot be written: {error.strerror}") from None
    if is_new:
        path.unlink()  # nothing of a run that fails
