# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Documents name what is there: variables, reasons of skipped tests, files, versions."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("bench", "cmake", "comfyui", "csrc", "docs", "python", "tests_cpp", "tests_py", "tools")
TESTING = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(p for folder in OURS for p in (ROOT / folder).rglob("*.md"))]
)
CODE = {".py", ".sh", ".cpp", ".h", ".cu", ".cuh"}
VARIABLE = re.compile(r"\bATTNPATCH_[A-Z]+(?:_[A-Z]+)*\b")


def sources(*places):
    """Texts of the files in some folders, and of single files."""
    for place in map(ROOT.joinpath, places):
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            kind = {".py", ".sh", ".cmake", ".txt", ""}
            if path.is_file() and path.suffix in kind and "__pycache__" not in path.parts:
                yield path, path.read_text(encoding="utf-8")


def variables_of(*places):
    return {name for _, text in sources(*places) for name in VARIABLE.findall(text)}


def test_every_variable_is_in_the_documents():
    documented = set(VARIABLE.findall("".join(p.read_text(encoding="utf-8") for p in DOCUMENTS)))
    used = variables_of("tests_py", "bench", "tools", "python", "run")
    assert len(used) > 10
    assert used - documented == set()


def test_every_variable_of_the_page_is_used():
    used = variables_of(
        "tests_py", "bench", "tools", "python", "run", "CMakeLists.txt", "cmake"
    ) - variables_of(str(Path(__file__).relative_to(ROOT)))
    assert set(VARIABLE.findall(TESTING)) - used == set()


def reasons():
    """Reasons for skips in the tests, and modules that are imported or else skipped."""
    for path, text in sources("tests_py"):
        if path.suffix != ".py" or path == Path(__file__):
            continue
        for call in ast.walk(ast.parse(text)):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            name, words = call.func.attr, {word.arg: word.value for word in call.keywords}
            said = {"skip": [*call.args[:1]], "skipif": [], "importorskip": []}.get(name)
            if said is None:
                continue
            said += [words["reason"]] if "reason" in words else []
            if name == "importorskip" and not said:
                yield f"could not import {call.args[0].value}"
            yield from (one.value for one in said if isinstance(one, ast.Constant))


def test_every_reason_of_a_skip_is_in_the_page():
    table = TESTING.split("## Skips")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][2:]
    texts = [text.strip(" `") for row in rows for text in row.split(";")]
    known = {text: re.compile(re.escape(text).replace("…", ".*")) for text in texts}
    found = set(reasons())
    assert len(found) > 15
    unknown = {one for one in found if not any(text.search(one) for text in known.values())}
    assert unknown == set()
    stale = {text for text, form in known.items() if not any(map(form.search, found))}
    assert stale == {"Fashion-MNIST is not in …"}  # the text of an error


def test_the_changelog_has_the_version():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', text, re.MULTILINE)[1]
    headings = re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[:2] == ["Unreleased", version]


WITHOUT_README = {"tests_cpp/cuda/emulation/kernels"}  # a path, for the sake of includes
LONGER = {"python/attnpatch/demo/weights/README.md"}  # the weights' licence and origin


@pytest.mark.parametrize(
    "top", ["csrc", "python/attnpatch", "tests_cpp", "tests_py", "bench", "tools"]
)
def test_every_folder_says_what_lives_there(top):
    folders = {path.parent for path in (ROOT / top).rglob("*.*") if path.suffix in CODE}
    assert folders
    for folder in folders:
        name = folder.relative_to(ROOT).as_posix()
        if any(name == other or name.startswith(f"{other}/") for other in WITHOUT_README):
            continue
        readme = folder / "README.md"
        assert readme.is_file(), name
        if readme.relative_to(ROOT).as_posix() not in LONGER:
            assert len(readme.read_text(encoding="utf-8").splitlines()) <= 8, name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    text = re.sub(r"`[^`]*`", "", document.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
