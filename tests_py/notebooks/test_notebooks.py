# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Notebooks run from their first cell to their last, and both of their forms say the same."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))
NAMES = [path.stem for path in SOURCES]
sys.path.insert(0, str(ROOT / "tools"))
from pair_notebooks import paired  # noqa: E402
from run_notebooks import is_run  # noqa: E402


def test_there_is_a_notebook_for_each_subject():
    assert len(NAMES) == 8
    assert [name[:2] for name in NAMES] == [f"{number:02}" for number in range(1, 9)]
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_agree_and_have_no_outputs(name):
    source = (ROOT / "notebooks" / f"{name}.py").read_text("utf-8")
    notebook = (ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8")
    assert notebook == paired(source), "run tools/pair_notebooks.py"
    read = nbformat.reads(notebook, 4)
    nbformat.validate(read)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in read.cells)
    back = jupytext.writes(read, fmt="py:percent").splitlines(keepends=True)
    kept = [line for line in back if not re.match("#       (jupytext|format)_version: ", line)]
    assert "".join(kept) == source, "and back"


@pytest.mark.parametrize("name", NAMES)
def test_every_page_that_a_notebook_names_is_there(name):
    text = (ROOT / "notebooks" / f"{name}.py").read_text("utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (ROOT / "notebooks" / link).is_file(), link


@pytest.mark.slow
def test_notebooks_run_and_show_pictures():
    """In a process of their own: about a minute of one core. The site shows what they give."""
    folder = ROOT / "build" / "notebooks"
    tool = [sys.executable, ROOT / "tools" / "run_notebooks.py", folder]
    notebooks = [path.with_suffix(".ipynb") for path in SOURCES]
    done = subprocess.run([*tool, *notebooks], capture_output=True, text=True, env=_one_thread())
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [path.name for path in notebooks]
    for name in NAMES:
        read = nbformat.read(folder / f"{name}.ipynb", 4)
        code = [cell for cell in read.cells if cell.cell_type == "code"]
        shown = sum("text/html" in out.get("data", ()) for cell in code for out in cell.outputs)
        assert shown >= 2 or name == "07_operators", name


@pytest.mark.slow
def test_a_notebook_that_fails_is_named(tmp_path):
    for code, said in (("1 / 0", "ZeroDivisionError"), ("import sys; sys.stderr.write('x')", "x")):
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(notebook, tmp_path / "wrong.ipynb")
        tool = [sys.executable, ROOT / "tools" / "run_notebooks.py", tmp_path / "out"]
        done = subprocess.run([*tool, tmp_path / "wrong.ipynb"], capture_output=True, text=True)
        assert done.returncode == 1
        assert "wrong.ipynb: " in done.stderr
        assert said in done.stderr


def test_a_notebook_is_run_again_where_a_cell_or_an_output_is_missing(tmp_path):
    def write(name, *sources, count=1):
        cells = [nbformat.v4.new_code_cell(source, execution_count=count) for source in sources]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)
        return tmp_path / name

    source = write("a.ipynb", "x = 1", count=None)
    assert not is_run(source, tmp_path / "none.ipynb")
    assert is_run(source, write("same.ipynb", "x = 1"))
    assert not is_run(source, write("stopped.ipynb", "x = 1", count=None))
    assert not is_run(source, write("other.ipynb", "x = 2"))
    assert not is_run(source, write("longer.ipynb", "x = 1", "x"))


def _one_thread():
    return {**os.environ, "OMP_NUM_THREADS": "1"}
