# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What notebooks show: cards of HTML, in one module for each kind of value.

``html(value)`` of a module is what the value's ``_repr_html_`` gives; none needs more than the
package itself. `FacesIn` and `AttentionOver` put faces and attention on their picture.
"""

from attnpatch.display.attention import AttentionOver
from attnpatch.display.faces import FacesIn

__all__ = ["AttentionOver", "FacesIn"]
