# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a wheel's modules take from outside and show to it.

From torch only its C functions, which stay from release to release: a C++ symbol of torch would tie
a wheel to one release. To the outside the init function alone, so that a bundled library is not
taken for another copy in the same process.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PYTHON = re.compile(r"_?Py[A-Z_]\w*|_Py_\w+")
_TORCH = re.compile(r"(aoti_torch|torch)_\w+")
_SYSTEM = re.compile(r"(GLIBC|GLIBCXX|CXXABI|GCC|LIBC)_[A-Z0-9._]+")
# Of the linker and the start-up code, wherever C++ runs.
_ANYWHERE = {"__cxa_finalize", "__gmon_start__", "_ITM_deregisterTMCloneTable"} | {
    "_ITM_registerTMCloneTable"
}
_LIBRARIES = re.compile(
    r"lib(torch_cpu|torch_cuda|c|m|dl|rt|pthread|gcc_s|stdc\+\+)\.so(\.\d+)?|ld-linux-.*"
)


def check(wheel: Path, *, cuda: bool = False) -> None:
    """Check every module of a wheel.

    Parameters
    ----------
    cuda
        Whether the module of the CUDA kernels must be there.

    Raises
    ------
    ValueError
        Naming the module and its symbols.
    """
    problems: list[str] = []
    with zipfile.ZipFile(wheel) as archive:
        modules = [name for name in archive.namelist() if name.endswith(".so")]
        for wanted in ("_core", "_vision", *(["_cuda"] if cuda else [])):
            if not any(f"/{wanted}." in name for name in modules):
                problems.append(f"no module {wanted}")
        for name in modules:
            module = read_module(archive.read(name))
            if module.shown:
                problems.append(f"{name} shows {_some(module.shown)}")
            if module.taken:
                problems.append(f"{name} takes from outside {_some(module.taken)}")
            if module.libraries:
                problems.append(f"{name} needs {_some(module.libraries)}")
    if problems:
        raise ValueError(f"{wheel.name}: " + "; ".join(problems))


@dataclass(frozen=True)
class Module:
    """What breaks the rules in a module: names shown, names taken, libraries needed."""

    shown: list[str]
    taken: list[str]
    libraries: list[str]


def read_module(content: bytes) -> Module:
    """Read the dynamic symbols of a module, an ELF file."""
    # Part of auditwheel, which only those need who build wheels.
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(content))
    dynamic = elf.get_section_by_name(".dynamic")
    libraries = [tag.needed for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
    versions = elf.get_section_by_name(".gnu.version")
    needed = elf.get_section_by_name(".gnu.version_r")
    shown, taken = [], []
    for index, symbol in enumerate(elf.get_section_by_name(".dynsym").iter_symbols()):
        if not symbol.name:
            continue
        if symbol["st_shndx"] != "SHN_UNDEF":
            if not symbol.name.startswith("PyInit_"):
                shown.append(symbol.name)
        elif not _is_allowed(symbol.name, _version(versions, needed, index)):
            taken.append(symbol.name)
    return Module(shown, taken, [name for name in libraries if not _LIBRARIES.fullmatch(name)])


def _is_allowed(name: str, version: str) -> bool:
    if version:
        return _SYSTEM.fullmatch(version) is not None
    return name in _ANYWHERE or bool(_PYTHON.fullmatch(name) or _TORCH.fullmatch(name))


def _version(versions: Any, needed: Any, index: int) -> str:
    """Give the version of a symbol that another library defines; none for one without."""
    number = versions.get_symbol(index)["ndx"]
    if not isinstance(number, int):
        return ""
    found = needed.get_version(number)
    return found[1].name if found else ""


def _some(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more
