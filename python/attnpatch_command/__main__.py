# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``python -m attnpatch_command``: the program, where scripts are not on the path."""

import sys

from attnpatch_command import main

sys.exit(main())
