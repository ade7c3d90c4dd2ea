# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Sweeps: a study's cells, as rows of batches, here, in processes or on Ray."""

from attnpatch.studies.axes import Axes
from attnpatch.studies.cells import Cell
from attnpatch.studies.study import Study

__all__ = ["Axes", "Cell", "Study"]
