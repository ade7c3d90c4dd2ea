# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Which kernels serve a device: those that were right and faster there, or on the like of it.

``attnpatch tune`` measures and writes verdicts; they are read when an operator is first called.
What has no verdict takes plain torch on a GPU, and the kernel on a CPU.
"""

from attnpatch.ops.admission.choice import Choice, admits_any, choice_for, explain, has_verdicts
from attnpatch.ops.admission.classes import OPERATORS, class_of
from attnpatch.ops.admission.verdicts import Verdict, folder, read, write

__all__ = [
    "OPERATORS",
    "Choice",
    "Verdict",
    "admits_any",
    "choice_for",
    "class_of",
    "explain",
    "folder",
    "has_verdicts",
    "read",
    "write",
]
