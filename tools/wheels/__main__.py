# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Build wheels and the sdist into ``dist/``, or check them in empty environments.

Usage: ``./run wheels [--check] [--python VERSION …]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from wheels import build, check


def main() -> int:
    """Run the command line; 1 where something fails."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="./run wheels", description=about)
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="VERSION",
        help="versions such as 3.12; by default all of the machine's from 3.10 on",
    )
    parser.add_argument("--check", action="store_true", help="try the wheels in dist/")
    parser.add_argument(
        "--torch",
        nargs="+",
        default=[],
        metavar="VERSION",
        help="releases of torch to try with each Python; by default the newest, and "
        f"{' and '.join(filter(None, check.TORCHES))} with the last Python",
    )
    parser.add_argument("--sdist", action="store_true", help="build the sdist alone")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            return int(not check.check_all(arguments.python, arguments.torch))
        if arguments.sdist:
            print(build.build_sdist())
        else:
            build.build_all(arguments.python)
    except (OSError, ValueError) as error:
        print(f"./run wheels: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"./run wheels: it failed: {' '.join(map(str, error.cmd))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
