# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a study's pictures: the model in the package, or a pipeline of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attnpatch.studies.models.model import Model
from attnpatch.studies.table import Table

__all__ = ["FASHION", "Model", "load_model"]

FASHION = "attnpatch/fashion"
"""The name of the small model in the package."""


def load_model(table: Table, device: str | None = None, adapter: Any = None) -> Model:
    """Load the model of a study.

    Parameters
    ----------
    table
        ``Study.model``.
    device
        In place of the study's own.
    adapter
        The first adapter of the study: it tells of which family a single file is.

    Raises
    ------
    OSError, ValueError
        As diffusers says it.
    """
    options: Mapping[str, Any] = table if device is None else Table(table, device=device)
    if table["source"] == FASHION:
        from attnpatch.studies.models.fashion import FashionModel

        return FashionModel(options.get("device", "cpu"))
    from attnpatch.studies.models.pipelines import PipelineModel

    return PipelineModel.load(options, adapter)
