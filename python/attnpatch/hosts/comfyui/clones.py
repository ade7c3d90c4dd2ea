# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Slots of its own for every clone of a patched model.

Other packs clone a model and add their terms to the slots that they find in the clone. A newer
ComfyUI shares the slots between a model and its clones: the terms would act in both, and gather
there with every run of a workflow.
"""

from __future__ import annotations

import copy
from typing import Any

from attnpatch.hosts.comfyui.unet.attn_replace import Attn2Replace
from attnpatch.hosts.comfyui.unet.install import own_replacements

_ON_CLONE = "on_clone"  # comfy.patcher_extension.CallbacksMP.ON_CLONE
_KEY = "attnpatch"


def separate_clones(model: Any) -> None:
    """Have each clone of `model`, and each clone of those, get slots of its own.

    Hosts without such callbacks copy the slots themselves.

    Parameters
    ----------
    model
        A patched ``ModelPatcher``, which belongs to us.
    """
    if hasattr(model, "add_callback_with_key"):
        model.remove_callbacks_with_key(_ON_CLONE, _KEY)
        model.add_callback_with_key(_ON_CLONE, _KEY, _give_own_slots)


def _give_own_slots(model: Any, clone: Any) -> None:
    """Copy the slots of `clone` that take terms of other packs; the host calls it."""
    slots = own_replacements(clone, Attn2Replace.attention)
    slots |= {key: copy.copy(slot) for key, slot in slots.items() if isinstance(slot, Attn2Replace)}
