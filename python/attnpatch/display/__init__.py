# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What notebooks show: cards of HTML, in one module for each kind of value.

``html(value)`` of a module is what the value's ``_repr_html_`` gives; none needs more than the
package itself. The three classes here are displays of what has none of its own.
"""

from attnpatch.display.attention import AttentionOver
from attnpatch.display.faces import FacesIn
from attnpatch.display.side_by_side import SideBySide

__all__ = ["AttentionOver", "FacesIn", "SideBySide"]
