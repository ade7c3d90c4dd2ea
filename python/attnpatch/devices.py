# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0

"""Devices that a user names."""

from __future__ import annotations

import torch

__all__ = ["check_device"]


def check_device(name: str, where: str = "--device") -> None:
    """Check that a device is here.

    Parameters
    ----------
    name
        As torch has it.
    where
        What an error calls it.

    Raises
    ------
    ValueError
        With torch's own words.
    """
    try:
        torch.empty(0, device=torch.device(name))
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"{where}: expected one that is here, got {name}: {first}") from error
