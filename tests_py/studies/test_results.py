# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Results: pictures that say how they were made, tables, the page; interrupted and resumed."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import attnpatch as ap
from attnpatch.studies.dry_run import dry_run
from attnpatch.studies.results.png import read_metadata, to_png
from attnpatch.studies.results.records import Entry, write_order
from attnpatch.studies.results.store import Store
from attnpatch_command.cli import main

pytestmark = pytest.mark.slow

FASHION = "attnpatch/fashion"
EXAMPLE = Path(__file__).parents[2] / "examples/sweeps/weights.toml"
STYLE = {"kind": "ImagePrompt", "adapter": FASHION, "picture": f"{FASHION}:3"}
AXES = {"style.weight": [0.2, 0.9], "style.mask": [None, [0, 0, 0.5, 1]], "seed": [0, 1]}


def make(**options):
    options = {"axes": AXES, "pipeline": {"steps": 3}, "name": "a </script> & more", **options}
    return ap.Study(FASHION, {"style": STYLE}, **options)


@pytest.fixture(scope="module")
def results(fashion, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "out"
    measures = {"bright": lambda picture, cell: np.asarray(picture).mean() / 255}
    return ap.run_study(make(), folder, model=fashion, measures=measures, progress=False)


@pytest.fixture
def folder(results):
    return Path(results.location)


def test_the_table(results, folder):
    assert len(results) == 8 + 2 and results.study == make()
    patched = [row for row in results if row["patched"]]
    assert [row["id"] for row in patched] == [cell.id for cell in make().cells()]
    assert [row["style.weight"] for row in patched] == [0.2] * 4 + [0.9] * 4
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == [row["id"] for row in results]
    parquet = pyarrow.parquet.read_table(folder / "table.parquet").to_pylist()
    assert parquet == list(results)
    for index, row in enumerate(results):
        picture = np.asarray(results.picture(index), np.float64)
        assert row["bright"] == pytest.approx(picture.mean() / 255)
        if not row["patched"]:
            assert row["distance"] is None and row["similarity"] is None
            continue
        assert -1 <= row["similarity"] <= 1
        before = next(
            i for i, r in enumerate(results) if not r["patched"] and r["seed"] == row["seed"]
        )
        expected = np.abs(picture - np.asarray(results.picture(before), np.float64)).mean() / 255
        assert row["distance"] == pytest.approx(expected, rel=1e-5) and expected > 0


def test_a_picture_gives_its_stack_back(results, folder, fashion):
    from attnpatch.studies.build import PatchMaker

    maker = PatchMaker(fashion)
    for cell, row in zip(make().cells(), results, strict=False):
        stack = ap.stack_from_png(folder / row["file"])
        assert stack == ap.PatchStack(maker.patches(cell))
        metadata = read_metadata(folder / row["file"])
        assert metadata["cell"] == cell.description
        assert metadata["adapters"] == {"style": maker.adapter(FASHION, cell.folder).digest}
        assert metadata["versions"]["attnpatch"] == ap.__version__
    assert results.stack(0) == ap.stack_from_png(folder / results[0]["file"])


def test_a_picture_elsewhere_needs_the_folder(results, folder, tmp_path):
    elsewhere = tmp_path / "a/b/c.png"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes((folder / results[0]["file"]).read_bytes())
    with pytest.raises(FileNotFoundError, match="give the folder of the sweep's results"):
        ap.stack_from_png(elsewhere)
    assert ap.stack_from_png(elsewhere, folder) == results.stack(0)
    Image.new("L", (4, 4)).save(tmp_path / "other.png")
    with pytest.raises(ValueError, match="expected a PNG of a sweep"):
        ap.stack_from_png(tmp_path / "other.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png: expected a PNG of a sweep"):
        ap.stack_from_png(tmp_path / "text.png")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ([], "expected a PNG of a sweep"),
        ({}, "stack: expected a list of patches, got None"),
        ({"stack": "x"}, "stack: expected a list of patches, got 'x'"),
        ({"stack": [{"kind": "x"}]}, "stack: expected patches with kind, values and files"),
        (
            {"stack": [{"kind": ["a"], "values": {}, "files": []}]},
            r"unknown kind of patch \['a'\]",
        ),
        (
            {"stack": [{"kind": "image_prompt", "values": {}, "files": ["/dev/zero"]}]},
            r"expected files of tensors in tensors/, got \['/dev/zero'\]",
        ),
        (
            {"stack": [{"kind": "image_prompt", "values": {}, "files": [3]}]},
            r"expected files of tensors in tensors/, got \[3\]",
        ),
        (
            {"stack": [{"kind": "image_prompt", "values": {}, "files": []}]},
            "expected the state of 'image_prompt'",
        ),
        (
            {"stack": [{"kind": "token_merging", "values": 3, "files": []}]},
            "expected the state of 'token_merging'",
        ),
    ],
)
def test_a_picture_with_metadata_of_others(metadata, text, tmp_path):
    (tmp_path / "a.png").write_bytes(to_png(np.zeros((4, 4), np.uint8), metadata))
    with pytest.raises(ValueError, match=text):
        ap.stack_from_png(tmp_path / "a.png")


def test_a_notebook_shows_thumbnails(results):
    shown = results._repr_html_()
    assert shown.count("data:image/png;base64,") == 10
    assert "style.weight" in shown and "<script" not in shown
    assert len(results.where(style__weight=0.9)) == 4


def test_the_page_has_every_cell(results, folder):
    page = (folder / "index.html").read_text()
    assert "http://" not in page and "https://" not in page
    assert 'src="page/head.js"' in page
    (head,) = re.findall(r"^sweep\.begin\((.*)\);$", (folder / "page/head.js").read_text())
    head = json.loads(head)
    assert "</" not in (folder / "page/head.js").read_text()
    assert head["name"] == make().name and head["cells"] == 10 and head["chunks"] == 1
    (rows,) = re.findall(r"^sweep\.add\((.*)\);$", (folder / "page/cells-000.js").read_text())
    rows = json.loads(rows)
    assert [row[0] for row in rows] == [row["id"] for row in results]
    for row, expected in zip(rows, results, strict=True):
        for axis, place in zip(head["axes"], row[2], strict=True):
            value = axis["values"][place] if place >= 0 else None
            shown = expected[axis["name"]]
            assert value is None or json.loads(value) == (
                json.loads(shown) if isinstance(shown, str) else shown
            )


class Interrupted:
    """A measure that is interrupted at its n-th picture, and counts them."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def __call__(self, picture, cell):
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return 0.0


@pytest.mark.parametrize("at", [1, 4, 7])
def test_an_interrupted_sweep_resumes_exactly(fashion, results, tmp_path, at):
    stop = Interrupted(at)
    options = {"model": fashion, "rows": 3, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        ap.run_study(make(), tmp_path, measures={"stop": stop}, **options)
    part = ap.load_study(tmp_path)
    assert len(part) == (at - 1) // 3 * 3
    assert (tmp_path / "index.html").exists()
    before = {row["file"]: (tmp_path / row["file"]).stat().st_mtime_ns for row in part}
    with pytest.raises(FileExistsError, match="resume it"):
        ap.run_study(make(), tmp_path, **options)
    count = Interrupted(None)
    again = ap.run_study(make(), tmp_path, resume=True, measures={"stop": count}, **options)
    assert count.count == 10 - len(part)
    assert [row["id"] for row in again] == [row["id"] for row in results]
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    pairs = (
        (np.asarray(again.picture(i), int), np.asarray(results.picture(i), int)) for i in range(10)
    )
    assert max(np.abs(a - b).max() for a, b in pairs) <= 1  # 8 bits of what differs by 1e-6
    files = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert files == []  # nothing partial


def test_a_lost_picture_is_made_again(fashion, tmp_path):
    options = {"model": fashion, "progress": False}
    results = ap.run_study(make(), tmp_path, measures={"stop": Interrupted(None)}, **options)
    (tmp_path / results[3]["file"]).unlink()
    count = Interrupted(None)
    ap.run_study(make(), tmp_path, resume=True, measures={"stop": count}, **options)
    assert count.count == 1


def test_a_study_that_has_grown_is_completed(fashion, tmp_path):
    options = {"model": fashion, "progress": False}
    ap.run_study(make(), tmp_path, measures={"stop": Interrupted(None)}, **options)
    count = Interrupted(None)
    axes = {**AXES, "style.weight": [0.9, 0.5, 0.2]}
    grown = ap.run_study(
        make(axes=axes), tmp_path, resume=True, measures={"stop": count}, **options
    )
    assert len(grown) == 12 + 2 and count.count == 4


def test_relative_paths_are_found_from_anywhere(fashion, tmp_path, monkeypatch):
    """And where study and results were moved together."""
    project = tmp_path / "project"
    project.mkdir()
    Image.new("L", (32, 32), 99).save(project / "shoe.png")
    patches = {"file": {**STYLE, "picture": "shoe.png"}, "value": ap.TokenMerging(ratio=0.25)}
    options = {"model": fashion, "progress": False}
    monkeypatch.chdir(project)
    study = ap.Study(FASHION, patches, {"file.weight": [0.2, 0.4]}, {"steps": 1}, unpatched=False)
    ap.run_study(study, "out/one", **options)
    monkeypatch.chdir(tmp_path)
    project.rename(tmp_path / "moved")
    results = ap.load_study("moved/out/one")
    assert results.study == study
    assert [cell.id for cell in results.study] == [row["id"] for row in results]
    assert [cell.id for cell in ap.Study.load("moved/out/one/study.toml")] == [
        row["id"] for row in results
    ]
    monkeypatch.chdir("/")
    assert len(ap.run_study(results.study, tmp_path / "again", **options)) == 2
    elsewhere = ap.run_study(results.study, "memory://sweeps/paths", **options)
    assert [cell.id for cell in elsewhere.study] == [row["id"] for row in results]


def test_results_go_to_any_location(fashion, results):
    location = "memory://sweeps/one"
    axes = {"style.weight": [0.2], "style.mask": [None], "seed": [0]}
    found = ap.run_study(make(axes=axes), location, model=fashion, progress=False)
    assert len(found) == 2 == len(ap.load_study(location))
    assert found.stack(0) == results.stack(0)
    with Image.open(io.BytesIO(Store(location).read("sheet.png"))) as sheet:
        assert sheet.width > 400


def test_the_steps_of_a_first_cell_say_what_all_take(fashion, tmp_path):
    axes = {"style.weight": [0.0, 0.3, 0.6], "style.window": [[0.0, 1.0], [0.5, 1.0]]}
    text = dry_run(make(axes=axes, pipeline={"steps": 4}), tmp_path / "out", model=fashion)
    assert "cells: 6, and 1 without patches" in text
    assert "batches: 1, of at most 64 rows" in text
    # Unpatched and weight 0 are one row; the late window joins them for the steps before 0.5.
    steps = re.search(r"steps: (\d+), of which (\d+) are common", text)
    assert int(steps[1]) == 7 * 4
    late = sum(step < 0.5 for step in progress_of_steps(4))
    assert int(steps[2]) == 7 * 4 - (3 * 4 + 2 * (4 - late))
    assert not (tmp_path / "out").exists()


def progress_of_steps(count):
    """Where trailing timesteps of 1000 stand: 1 - t / 999."""
    return [1 - (round(1000 - step * 1000 / count) - 1) / 999 for step in range(count)]


def test_the_example_by_the_command_line(tmp_path, capsys):
    """A narrow window of it."""
    text = EXAMPLE.read_text()
    small = text.replace("[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]", "[0.1, 1.0]")
    assert small != text
    (tmp_path / "study.toml").write_text(small.replace("steps = 10", "steps = 2"))
    words = ["sweep", str(tmp_path / "study.toml"), "--output", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 0
    assert "9 pictures: " in capsys.readouterr().out
    assert main(words) == 1
    assert "resume it" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(small.replace("style.weight", "style.wait"))
    assert main(["sweep", str(wrong)]) == 1
    assert "did you mean 'weight'" in capsys.readouterr().err


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "name", ["index.html", "table.csv", "pictures/mine.png", "study.toml", "cells.json"]
)
def test_files_of_others_are_not_written_over(fashion, tmp_path, name, resume):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    (tmp_path / "notes.txt").write_text("beside")
    with pytest.raises(FileExistsError, match=rf"got {name.partition('/')[0]}; give another"):
        ap.run_study(make(), tmp_path, model=fashion, progress=False, resume=resume)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_a_sweep_that_began_meanwhile(fashion, tmp_path, monkeypatch):
    """Both found the folder empty; the one that comes second writes nothing."""
    study = make(axes={}, pipeline={"steps": 1})

    def begun_by_another(cell):  # asked last before anything is written
        write_order(Store(tmp_path), [Entry("another's", ({},))])

    monkeypatch.setattr(fashion, "latent", begun_by_another)
    with pytest.raises(FileExistsError, match="got those of a sweep"):
        ap.run_study(study, tmp_path, model=fashion, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.json"]


def test_a_folder_that_is_a_file(fashion, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="expected a folder, got the file"):
        ap.run_study(make(), tmp_path / "file" / "out", model=fashion, progress=False)


def test_wrong_types_in_a_file_are_an_error_of_one_line(tmp_path, capsys):
    (tmp_path / "s.toml").write_text(
        f'model = {{ source = "{FASHION}" }}\npipeline = {{ prompt = 7 }}'
    )
    for more in ([], ["--dry-run"]):
        assert main(["sweep", str(tmp_path / "s.toml"), *more]) == 1
        assert capsys.readouterr().err == "attnpatch sweep: prompt: expected a text, got 7\n"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("cells.json", None, FileNotFoundError),
        ("cells.json", "[{", ValueError),
        ("cells.json", "{}", ValueError),
        ("cells.json", "[1]", ValueError),
        ("cells.json", '[{"id": "a"}]', ValueError),
        ("study.toml", None, FileNotFoundError),
        ("study.toml", "\xff", ValueError),
    ],
)
def test_what_is_damaged_is_named_and_written_again(fashion, tmp_path, name, text, error):
    study = make(axes={}, pipeline={"steps": 1}, unpatched=False)
    ap.run_study(study, tmp_path, model=fashion, progress=False)
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text, encoding="latin-1")
    with pytest.raises(
        error, match=name if text or name == "cells.json" else "expected the results"
    ):
        ap.load_study(tmp_path)
    ap.run_study(study, tmp_path, model=fashion, progress=False, resume=True)
    assert len(ap.load_study(tmp_path)) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record.pop("pipeline"),
        lambda record: record.update(measures=3),
        lambda record: record.update(seconds_per_step=None),
        lambda record: record["measures"].update(distance=float("nan")),
    ],
)
def test_cells_of_a_damaged_record_are_made_again(fashion, tmp_path, change, caplog):
    study = make(axes={}, pipeline={"steps": 1})
    first = ap.run_study(study, tmp_path, model=fashion, progress=False)
    (file,) = (tmp_path / "records").iterdir()
    records = json.loads(file.read_text())
    change(records[0])
    file.write_text(json.dumps(records))
    assert len(ap.load_study(tmp_path)) == 0
    assert "damaged, its cells count as not done" in caplog.text
    again = ap.run_study(study, tmp_path, model=fashion, progress=False, resume=True)
    assert [row["id"] for row in again] == [row["id"] for row in first]


def test_a_dry_run_counts_the_cells_of_the_study(fashion, tmp_path):
    """Cells without patches among them, such as those of a patch that is off."""
    study = make(axes={"style.on": [True, False], "seed": [0, 1]}, pipeline={"steps": 1})
    said = dry_run(study, tmp_path / "out", model=fashion)
    assert said.startswith("cells: 4, and 0 without patches to measure against")
    assert not (tmp_path / "out").exists()
