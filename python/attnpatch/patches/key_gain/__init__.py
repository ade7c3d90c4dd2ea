# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""More or less attention to chosen keys."""

from attnpatch.patches.key_gain.key_gain import KeyGain
from attnpatch.patches.key_gain.keys import ReferenceKeys, TextKeys
from attnpatch.patches.key_gain.prompt_weights import read_weights

__all__ = ["KeyGain", "ReferenceKeys", "TextKeys", "read_weights"]
