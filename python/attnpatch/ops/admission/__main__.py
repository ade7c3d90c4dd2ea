# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch tune`` where the command is not installed."""

import sys

from attnpatch.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))
