# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The one reader of pictures: files, pictures of Pillow, arrays and tensors, all to 8-bit RGB.

Pillow is needed for files and for its own pictures alone.
"""

from attnpatch.pictures.background import WHITE, Colour
from attnpatch.pictures.reader import Picture, Pictures, Pixels, read_picture, read_pictures

__all__ = ["WHITE", "Colour", "Picture", "Pictures", "Pixels", "read_picture", "read_pictures"]
