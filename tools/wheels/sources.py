# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Source packages of the distribution: fetched with apt, unpacked with its patches."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from wheels.libraries import FOLDER, LIBRARIES, ROOT, Library


def unpack(library: Library) -> Path:
    """Return the folder of a library's sources, with the distribution's patches."""
    folder = FOLDER / "sources"
    sources = folder / library.package
    if sources.is_dir():
        return sources
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "distribution").write_text(platform.freedesktop_os_release()["ID"] + "\n")
    environment = os.environ | {"APT_CONFIG": str(_source_lists(folder))}
    quiet(["apt-get", "source", "--download-only", library.package], environment, folder)
    extract = ["dpkg-source", "--extract", str(description(library)), str(sources)]
    quiet(extract, environment, folder)
    for name in library.left_out:
        (sources / name).parent.mkdir(exist_ok=True)
        (sources / name).touch()
    return sources


def version(library: Library) -> str:
    """Return the version of a library's source package, as the distribution writes it."""
    lines = description(library).read_text(encoding="utf-8", errors="replace").splitlines()
    return next(line.split(": ", 1)[1] for line in lines if line.startswith("Version: "))


def description(library: Library) -> Path:
    """Return the path of a source package's description (.dsc)."""
    found = sorted((FOLDER / "sources").glob(f"{library.package}_*.dsc"))
    if len(found) != 1:
        raise FileNotFoundError(
            f"{FOLDER / 'sources'}: expected one description of the source package "
            f"{library.package}, got {[path.name for path in found]}"
        )
    return found[0]


def distribution() -> str:
    """Return whose packages the sources are ("debian"): wheels may be built on another system."""
    return (FOLDER / "sources" / "distribution").read_text().strip()


def _source_lists(folder: Path) -> Path:
    """Load apt's lists of source packages, apart from the system's; return the settings."""
    settings = folder / "apt" / "apt.conf"
    if settings.exists():
        return settings
    apt = settings.parent
    (apt / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    known = subprocess.run(
        [
            *("apt-get", "indextargets", "Created-By: Packages"),
            *("--format", "$(ORIGIN)|deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = {
        line.split("|", 1)[1] for line in known.splitlines() if line.startswith(("Deb", "Ubu"))
    }
    if not lines:
        raise OSError("apt: expected package lists of Debian or Ubuntu, got none")
    # The main archive first: of a version that two archives have, the first is taken.
    ordered = sorted(lines, key=lambda line: ("-security" in line, line))
    (apt / "sources.list").write_text("".join(f"{line}\n" for line in ordered))
    text = (
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{apt}/lists";\nAPT::Sandbox::User "root";\n'
    )
    draft = apt / "draft.conf"
    draft.write_text(text)
    quiet(["apt-get", "update"], os.environ | {"APT_CONFIG": str(draft)})
    draft.rename(settings)
    return settings


def quiet(command: list[str], environment: dict[str, str], folder: Path = ROOT) -> None:
    """Run a command; show what it wrote only where it fails."""
    done = subprocess.run(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    if done.returncode:
        sys.stderr.buffer.write(done.stdout[-20000:])
        raise subprocess.CalledProcessError(done.returncode, command)


if __name__ == "__main__":
    for _library in LIBRARIES:
        if _library.package in sys.argv[1:]:
            unpack(_library)
