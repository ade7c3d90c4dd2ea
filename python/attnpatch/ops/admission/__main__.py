# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""``attnpatch tune`` where the command is not installed."""

import argparse
import sys

from attnpatch.ops.admission import tune

parser = argparse.ArgumentParser(prog="attnpatch tune")
tune.add_arguments(parser)
sys.exit(tune.run(parser.parse_args()))
