# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Devices that the command line names."""

from __future__ import annotations

import torch

__all__ = ["check_device"]


def check_device(name: str) -> None:
    """Check that a device is here.

    Raises
    ------
    ValueError
        With torch's own words.
    """
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"--device: expected one that is here, got {name}: {first}") from None
