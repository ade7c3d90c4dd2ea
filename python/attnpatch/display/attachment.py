# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Attached patches: what they are, where they act, and where the model looked."""

from __future__ import annotations

from attnpatch.display import stack
from attnpatch.display.attention import figures
from attnpatch.display.card import card, part
from attnpatch.display.markup import Markup, tag
from attnpatch.display.report import parts
from attnpatch.hosts.diffusers import Attachment

__all__ = ["html"]


def html(attachment: Attachment) -> Markup:
    """Show what `attach` gave."""
    state = "attached" if attachment.attached else "detached"
    if attachment.attached and not attachment.in_use:
        state = "not in use: the pipeline has another model now"
    found = stack.parts(attachment.stack)
    found.append(part(tag("div", *parts(attachment.report), class_="ap-text")))
    if attachment.attention is not None:
        found += figures(attachment.attention, None)
    return card("Attachment", state, *found, plain=repr(attachment))
