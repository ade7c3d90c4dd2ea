# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What is made of the records: the table, the contact sheet, the page."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from attnpatch.studies.results.page import write_page
from attnpatch.studies.results.records import Entry, Record, Swept, placed
from attnpatch.studies.results.rows import as_rows, write_tables
from attnpatch.studies.results.sheet import write_sheet
from attnpatch.studies.results.store import Store

__all__ = ["publish"]

logger = logging.getLogger("attnpatch")


def publish(
    study: Swept, order: Sequence[Entry], records: Mapping[str, Record], store: Store
) -> None:
    """Write table, sheet and page of all cells that are done, in the study's order."""
    found = placed(order, records)
    if not write_tables(as_rows(found, study.axis_names), store):
        logger.warning("table.parquet: not written, since pyarrow is not installed")
    write_page(study, found, len(order), store)
    if found:
        write_sheet(study, found, store)
