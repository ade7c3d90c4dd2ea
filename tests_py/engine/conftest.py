# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
from small_unet import adapter, device, formulas, prompt, qkv, site, table, tokens

__all__ = ["adapter", "device", "formulas", "prompt", "qkv", "site", "table", "tokens"]
