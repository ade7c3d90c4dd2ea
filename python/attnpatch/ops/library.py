# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What all operators share: the torch library they register in, and the choice of backend."""

from __future__ import annotations

import os

import torch

from attnpatch import _core  # noqa: F401  (defines the operators' schemas and CPU kernels)

LIBRARY = torch.library.Library("attnpatch", "IMPL")

BACKENDS = ("auto", "reference")


def backend() -> str:
    """Which implementation serves the operators: environment variable ``ATTNPATCH_BACKEND``.

    Returns
    -------
    str
        ``"auto"``: the fused kernel where a device has one. ``"reference"``: the readable
        reference everywhere.

    Raises
    ------
    ValueError
        If the variable holds another word.
    """
    choice = os.environ.get("ATTNPATCH_BACKEND", "auto")
    if choice not in BACKENDS:
        raise ValueError(f"ATTNPATCH_BACKEND: got {choice!r}, expected one of {BACKENDS}")
    return choice
