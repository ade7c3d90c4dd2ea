# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Where users have the files of face networks, and which of them are the two that we need."""

from __future__ import annotations

import mmap
import os
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from attnpatch._native import vision_module

__all__ = ["FOLDER_VARIABLE", "FaceFiles", "face_model_folders", "find_face_files"]

FOLDER_VARIABLE = "ATTNPATCH_FACE_MODELS"
"""Environment variable that names folders to look in first, separated as in PATH."""

_DETECTORS = ("scrfd_10g_bnkps.onnx", "det_10g.onnx")
_RECOGNISERS = ("glintr100.onnx", "w600k_r50.onnx")
_MAX_FILE = 1 << 30
_MAX_LISTED = 12


@dataclass(frozen=True)
class FaceFiles:
    """The bytes of a detector and of a recogniser, and where they are from."""

    detector: bytes | mmap.mmap
    recogniser: bytes | mmap.mmap | None
    source: str


def find_face_files(
    source: str | os.PathLike[str] = "antelopev2",
    folders: Iterable[str | os.PathLike[str]] = (),
) -> FaceFiles:
    """Find a detector and a recogniser.

    Parameters
    ----------
    source
        A folder or zip file with the ONNX files of insightface, or the name of such a pack:
        "antelopev2", "buffalo_l".
    folders
        Where to look for a name before the usual places. Those are, in this order: what the
        environment variable ATTNPATCH_FACE_MODELS names; ComfyUI's models/insightface, where it is
        running; ~/.insightface. In each the pack may lie as NAME, models/NAME, NAME/NAME or as
        NAME.zip.

    Returns
    -------
    FaceFiles
        The recogniser is None where there is only a detector.

    Raises
    ------
    FileNotFoundError
        Naming every path that was tried, and what was found there instead.
    """
    tried: list[str] = []
    for path in _places(source, folders):
        files, note = _look(path)
        if files is not None:
            return files
        tried.append(f"  {path}: {note}")
    raise FileNotFoundError(
        f"face models: no detector (such as {' or '.join(_DETECTORS)}) for {os.fspath(source)!r}; "
        "tried\n" + "\n".join(tried) + f"\nPut the pack in one of these places, or set "
        f"{FOLDER_VARIABLE} to the folder that holds it."
    )


def _places(
    source: str | os.PathLike[str], folders: Iterable[str | os.PathLike[str]]
) -> Iterator[Path]:
    name = os.fspath(source)
    if isinstance(source, os.PathLike) or os.sep in name or name.endswith(".zip"):
        yield Path(name).expanduser()
        return
    if Path(name).is_dir():
        yield Path(name)
    for folder in face_model_folders(folders):
        for base in (folder / "models", folder):
            yield base / name
            yield base / f"{name}.zip"


def face_model_folders(folders: Iterable[str | os.PathLike[str]] = ()) -> list[Path]:
    """Return the folders that a pack is looked for in, first those given."""
    paths = [Path(folder).expanduser() for folder in folders]
    named = os.environ.get(FOLDER_VARIABLE, "")
    paths += [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    comfy_paths = sys.modules.get("folder_paths")  # ComfyUI's
    if comfy_paths is not None:
        known = comfy_paths.folder_names_and_paths.get("insightface", ((), ()))[0]
        paths += [Path(folder) for folder in known]
        paths.append(Path(comfy_paths.models_dir) / "insightface")
    with suppress(RuntimeError):  # there is no home
        paths.append(Path.home() / ".insightface")
    return list(dict.fromkeys(paths))


def _look(path: Path) -> tuple[FaceFiles | None, str]:
    """Find the two files in a folder, the folder of the same name in it, or a zip file."""
    if path.is_file():
        try:
            with zipfile.ZipFile(path) as pack:
                return _choose(_zip_members(pack), str(path))
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            return None, f"no zip file that can be read ({error})"
    if not path.is_dir():
        return None, "not there"
    notes = []
    for folder in (path, path / path.name):
        if folder.is_dir():
            files = sorted(folder.glob("*.onnx"))
            chosen, note = _choose([(file.name, _opener(file)) for file in files], str(folder))
            if chosen is not None:
                return chosen, ""
            listed = sorted(entry.name for entry in folder.iterdir())
            notes.append(f"{note}; it holds {_list(listed)}")
    return None, "; ".join(notes)


Opener = Callable[[], "bytes | mmap.mmap"]


def _opener(file: Path) -> Opener:
    def read() -> mmap.mmap:
        with file.open("rb") as opened:  # an empty file raises ValueError here
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    return read


def _zip_members(pack: zipfile.ZipFile) -> list[tuple[str, Opener]]:
    def opener(info: zipfile.ZipInfo) -> Opener:
        def read() -> bytes:
            if info.file_size > _MAX_FILE:
                raise ValueError(f"it has {info.file_size} bytes")
            with pack.open(info) as opened:
                return opened.read(_MAX_FILE)

        return read

    return [
        (Path(info.filename).name, opener(info))
        for info in pack.infolist()
        if info.filename.endswith(".onnx")
    ]


def _choose(files: Sequence[tuple[str, Opener]], where: str) -> tuple[FaceFiles | None, str]:
    """Take the files of well-known names; else those whose inputs and outputs fit."""
    problems: list[str] = []
    detector = _pick(files, _DETECTORS, _is_detector, problems)
    if detector is None:
        return None, "; ".join(["no detector", *problems])
    return FaceFiles(detector, _pick(files, _RECOGNISERS, _is_recogniser, problems), where), ""


def _pick(
    files: Sequence[tuple[str, Opener]],
    names: Sequence[str],
    fits: Callable[[list[int], int], bool],
    problems: list[str],
) -> bytes | mmap.mmap | None:
    for name, read in sorted(files, key=lambda file: (file[0] not in names, file[0])):
        try:
            content = read()
            known = vision_module("attnpatch.faces", faces=True).describe_onnx(content)
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            problems.append(f"{name}: {error}")
            continue
        if fits(known["input_dims"], len(known["outputs"])):
            return content
    return None


def _is_detector(dims: list[int], outputs: int) -> bool:
    return len(dims) == 4 and outputs == 9


def _is_recogniser(dims: list[int], outputs: int) -> bool:
    return len(dims) == 4 and outputs == 1 and dims[2] == dims[3] and dims[2] in (-1, 112, 128)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return (", ".join(names[:_MAX_LISTED]) or "nothing") + more
