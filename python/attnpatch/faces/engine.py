# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The extension module that face analysis needs."""

from __future__ import annotations

from types import ModuleType

__all__ = ["engine"]


def engine() -> ModuleType:
    """Return the extension module.

    Raises
    ------
    ImportError
        When attnpatch was built without OpenCV or without its dnn module.
    """
    try:
        from attnpatch import _vision
    except ImportError as error:
        raise ImportError(
            "attnpatch.faces needs the extension module attnpatch._vision, which is built where "
            "OpenCV and Eigen are found: install them (on Debian libopencv-dev and "
            f"libeigen3-dev) and install attnpatch from source again. ({error})"
        ) from error
    if not hasattr(_vision, "FaceDetector"):
        raise ImportError(
            "attnpatch.faces: attnpatch was built with an OpenCV that lacks the dnn module; "
            "install it (on Debian libopencv-dnn-dev) and install attnpatch from source again"
        )
    return _vision
