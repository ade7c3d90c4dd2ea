# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The records of the sampling steps that are running in a model, told apart by their sigmas."""

from __future__ import annotations

import threading
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from attnpatch.patches import AttentionRecord

__all__ = ["SigmaRecords"]


class SigmaRecords:
    """One record for each running step.

    A step has a tensor of sigmas of its own, another one than every other step, run and thread.
    Hosts hand it to all UNet calls of the step and to what comes after it, or a part of it, where
    they cut the samples into windows; then ``STEP`` in the options holds it whole. A step that
    nobody takes is forgotten with its tensor.
    """

    def __init__(self) -> None:
        self._records: Any = WeakIdKeyDictionary()
        self._lock = threading.Lock()

    def of(self, sigmas: Tensor) -> AttentionRecord:
        """Return the record of a step; a new one for its first call."""
        with self._lock:
            record = self._records.get(sigmas)
            if record is None:
                record = self._records[sigmas] = AttentionRecord()
            return record

    def take(self, sigmas: Tensor) -> AttentionRecord:
        """Return the record of a step and forget it: the step is over."""
        with self._lock:
            return self._records.pop(sigmas, None) or AttentionRecord()
