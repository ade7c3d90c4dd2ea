# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What makes a study's pictures: the model in the package, or a pipeline of diffusers."""

from __future__ import annotations

from attnpatch.devices import check_device
from attnpatch.studies.models.model import Model
from attnpatch.studies.models.takes import FASHION, Takes, takes_of
from attnpatch.studies.table import Table

__all__ = ["FASHION", "Model", "Takes", "load_model", "takes_of"]


def load_model(table: Table, device: str | None = None) -> Model:
    """Load the model of a study.

    Parameters
    ----------
    table
        ``Study.model``.
    device
        In place of the study's own.

    Raises
    ------
    ValueError
        For what is no model, or for a device that is not here.
    """
    options = table if device is None else Table(table, device=device)
    check_device(options.get("device") or "cpu", "model.device")
    if table["source"] == FASHION:
        from attnpatch.studies.models.fashion import FashionModel

        return FashionModel(options.get("device") or "cpu")
    from attnpatch.studies.models.pipelines import PipelineModel

    return PipelineModel.load(options)
