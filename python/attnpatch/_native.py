# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The extension module that needs OpenCV and Eigen, and one clear error where it is missing."""

from __future__ import annotations

from types import ModuleType

__all__ = ["vision_module"]


def vision_module(user: str, *, faces: bool = False) -> ModuleType:
    """Return the extension module of pictures and faces.

    Parameters
    ----------
    user : str
        What needs it, for the error.
    faces : bool
        Whether it must find faces, for which OpenCV needs its dnn module.

    Raises
    ------
    ImportError
        When attnpatch was built without OpenCV or, with `faces`, without its dnn module.
    """
    try:
        from attnpatch import _vision
    except ImportError as error:
        raise ImportError(
            f"{user} needs the extension module attnpatch._vision, which is built where "
            "OpenCV and Eigen are found: install them (on Debian libopencv-dev and "
            f"libeigen3-dev) and install attnpatch from source again. ({error})"
        ) from error
    if faces and not hasattr(_vision, "FaceDetector"):
        raise ImportError(
            f"{user}: attnpatch was built with an OpenCV that lacks the dnn module; "
            "install it (on Debian libopencv-dnn-dev) and install attnpatch from source again"
        )
    return _vision
