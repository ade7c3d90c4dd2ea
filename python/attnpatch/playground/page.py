# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The page: fields on the left, what they give on the right. It computes nothing itself."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from attnpatch.engine import weight_presets
from attnpatch.engine.weights import Weight
from attnpatch.playground.compare import Made, Playground, Result, enlarged
from attnpatch.playground.fields import read_fields
from attnpatch.playground.patches import PlayModel
from attnpatch.playground.stopping import Stopped, Stops

__all__ = ["PROMPTS", "make_page"]

PROMPTS = 3
_PROMPT_FIELDS = ("picture", "weight", "layers", "start", "end", "mask")
_ALL_TOKENS = "all tokens"
_STOPPED = "Stopped."
_INTRODUCTION = """# attnpatch
Pictures of {title}, without and with patches.
Give a reference picture or two, turn something, and generate."""
_CANVAS = (256, 256)
_KEPT = 4


def _read_by(field: Any, read: Callable[[Any], object]) -> None:
    """Have a field hand on what a function makes of its value."""
    field.preprocess = read


def _path_of(payload: FileData | None) -> str | None:
    """Hand the path of an upload on as it is: `read_upload` alone opens the file."""
    return None if payload is None else payload.path


def _as_it_is(payload: object) -> object:
    """Hand on what a field holds: `Settings` says what it expected, in its own words."""
    return payload


def _check_files(value: object, folder: Path) -> None:
    """Refuse files that were not uploaded, before Gradio fetches or names them."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and not Path(path).resolve().is_relative_to(folder.resolve()):
            raise gr.Error(
                f"file: expected an upload, got {path!r}, which was not uploaded by a user",
                print_exception=False,
            )
        value = list(value.values())
    if isinstance(value, list | tuple):
        for one in value:
            _check_files(one, folder)


def _uploads_only(page: gr.Blocks) -> None:
    """Have a page look at the files that a request names before all else."""
    preprocess = page.preprocess_data

    async def checked(function: Any, inputs: list[Any], *more: Any, **options: Any) -> Any:
        _check_files(inputs, Path(get_upload_folder()))
        return await preprocess(function, inputs, *more, **options)

    setattr(page, "preprocess_data", checked)  # noqa: B010


def make_page(playground: Playground, folder: Path) -> gr.Blocks:
    """Make the page of a playground.

    Parameters
    ----------
    playground : Playground
    folder : Path
        Where results are written for download; somewhere below the folder of temporary files.
    """
    model = playground.model
    examples = _save_examples(model, folder)
    with gr.Blocks(
        title="attnpatch playground", analytics_enabled=False, delete_cache=(3600, 3600)
    ) as page:
        gr.Markdown(_INTRODUCTION.format(title=model.title))
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                prompts = _prompt_fields(model, examples)
                rest = _other_fields(model)
            with gr.Column(scale=3, min_width=320):
                with gr.Row():
                    button = gr.Button("Generate", variant="primary", elem_id="generate", scale=4)
                    stop = gr.Button("Stop", elem_id="stop", scale=1, min_width=80)
                outputs = _outputs()
                times = outputs[2]
        fields = [field for prompt in prompts for field in prompt] + list(rest.values())
        for field in fields:
            if not isinstance(field, gr.Image | gr.ImageEditor):
                _read_by(field, _as_it_is)
        stops = Stops()

        def run(
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008
            *values: object,
        ) -> Iterator[list[object]]:
            with stops.serving(request.session_hash) as check:

                def tell(share: float, what: str) -> None:
                    check()
                    progress(share, what)

                try:
                    check()
                    settings = read_fields(*_grouped(values, list(rest)))
                    for result in playground.run(settings, tell):
                        yield _shown(result, folder)
                except Stopped:
                    # Gradio empties all outputs of a run that ends without having given any.
                    yield [_STOPPED if output is times else gr.skip() for output in outputs]
                except (TypeError, ValueError) as error:
                    raise gr.Error(str(error), print_exception=False) from None

        def stop_running(request: gr.Request) -> object:
            return _STOPPED if stops.stop(request.session_hash) else gr.skip()

        def wait(request: gr.Request) -> None:
            stops.wait(request.session_hash)

        # Whoever sees that they queue is known to wait, so that Stop finds them.
        running = button.click(wait, queue=False, api_visibility="private").then(
            run,
            fields,
            outputs,
            concurrency_limit=1,
            concurrency_id="model",
            api_visibility="private",
            show_progress_on=outputs[:2],
        )
        # What runs is told, or will be when its turn comes; then the page waits no more. (Gradio
        # forgets what `then` is to cancel; listeners to one click are called one after the other.)
        stop.click(stop_running, None, times, queue=False, api_visibility="private")
        stop.click(None, cancels=[running])
    _uploads_only(page)
    return page.queue(max_size=32, api_open=False)


def _grouped(
    values: Sequence[object], rest: Sequence[str]
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Give what fields hold by name: of each image prompt, and the others."""
    each = len(_PROMPT_FIELDS)
    groups = [
        dict(zip(_PROMPT_FIELDS, values[at : at + each], strict=True))
        for at in range(0, PROMPTS * each, each)
    ]
    others = dict(zip(rest, values[PROMPTS * each :], strict=True))
    if others["reduction"] == _ALL_TOKENS:
        others["reduction"] = ""
    return groups, others


def _save_examples(model: PlayModel, folder: Path) -> list[str]:
    paths = []
    for place, picture in enumerate(model.examples()):
        paths.append(str(folder / f"example-{place + 1}.png"))
        enlarged(picture).save(paths[-1])
    return paths


def _prompt_fields(model: PlayModel, examples: list[str]) -> list[list[Component]]:
    """Make the fields of all image prompts, in the order of `_PROMPT_FIELDS`."""
    prompts = []
    with gr.Tabs():
        for place in range(PROMPTS):
            with gr.Tab(f"Reference {place + 1}"):
                picture = gr.Image(
                    value=examples[0] if examples and place == 0 else None,
                    label="Picture",
                    type="filepath",
                    image_mode=None,
                    sources=["upload", "clipboard"],
                    height=220,
                    elem_id=f"picture-{place + 1}",
                )
                _read_by(picture, _path_of)
                if examples:
                    _example_row(picture, examples)
                weight = gr.Slider(-2, 3, 0.8, step=0.05, label="Weight")
                layers = gr.Dropdown(_presets(model), value="linear", label="Over the layers")
                with gr.Row():
                    start = gr.Slider(0, 1, 0, step=0.05, label="Start", min_width=120)
                    end = gr.Slider(0, 1, 1, step=0.05, label="End", min_width=120)
                with gr.Accordion("Where it acts: paint a mask", open=False):
                    mask = gr.ImageEditor(
                        type="pil",
                        show_label=False,
                        sources=(),
                        transforms=(),
                        layers=False,
                        brush=gr.Brush(colors=["#ff9500"], color_mode="fixed", default_size=40),
                        canvas_size=_CANVAS,
                        fixed_canvas=True,
                        format="png",
                        elem_id=f"mask-{place + 1}",
                    )
                prompts.append([picture, weight, layers, start, end, mask])
    return prompts


def _example_row(picture: gr.Image, examples: list[str]) -> None:
    gr.Markdown("Or one of these:")
    gallery = gr.Gallery(
        examples,
        show_label=False,
        columns=len(examples),
        height=None,
        elem_classes="examples",
        allow_preview=False,
        object_fit="contain",
        buttons=[],
        interactive=False,
    )

    def choose(event: gr.SelectData) -> str:
        return examples[event.index]

    gallery.select(choose, None, picture, queue=False, api_visibility="private")


def _presets(model: PlayModel) -> list[str]:
    """List the presets of weights that find a layer in the model."""
    found = []
    for name in weight_presets():
        try:
            weights = Weight(1.0, name).for_layers(model.table)
        except ValueError:
            continue
        if any(weights):
            found.append(name)
    return found


def _other_fields(model: PlayModel) -> dict[str, Component]:
    """Make the fields of `Settings` beside image prompts, by name."""
    given = model.defaults
    fields: dict[str, Component] = {}
    with gr.Accordion("Prompt and sampling", open=True):
        if model.texts:
            fields["text"] = gr.Dropdown(list(model.texts), value=given.text, label="What")
        else:
            fields["text"] = gr.Textbox(given.text, label="Prompt", max_length=2000)
            fields["negative"] = gr.Textbox(label="Negative prompt", max_length=2000)
            fields["size"] = gr.Number(given.size, label="Edge in pixels", precision=0)
        fields["guidance"] = gr.Slider(0, 15, given.guidance, step=0.1, label="Guidance")
        fields["steps"] = gr.Slider(2, 100, given.steps, step=1, label="Steps")
        fields["seed"] = gr.Number(given.seed, label="Seed", precision=0)
    with gr.Accordion("Guidance by attention, fewer tokens", open=True):
        fields["sag"] = gr.Slider(
            0, 5, 0, step=0.1, label="Self-attention guidance (shows where the model looks)"
        )
        fields["pag"] = gr.Slider(0, 10, 0, step=0.1, label="Perturbed-attention guidance")
        fields["reduction"] = gr.Dropdown(
            [_ALL_TOKENS, *model.reductions], value=_ALL_TOKENS, label="Tokens of self-attention"
        )
    return fields


def _outputs() -> list[Component]:
    """Make what `_shown` fills, in that order."""
    with gr.Row():
        plain = _picture("Without patches", "plain")
        patched = _picture("With patches", "patched")
    times = gr.Markdown(elem_id="times")
    seen = _picture("Where the model looked in the last step", "seen", visible=False)
    files = gr.File(label="Downloads", file_count="multiple", interactive=False, elem_id="files")
    with gr.Accordion("The Python that makes it", open=False):
        script = gr.Code(language="python", interactive=False, show_label=False, buttons=["copy"])
    with gr.Accordion("What is patched", open=False):
        report = gr.Textbox(show_label=False, interactive=False, lines=4)
    return [plain, patched, times, seen, files, script, report]


def _picture(label: str, name: str, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label,
        format="png",
        interactive=False,
        visible=visible,
        buttons=["fullscreen"],
        elem_id=name,
    )


def _shown(result: Result, folder: Path) -> list[object]:
    patched = result.patched
    times = f"Without patches: **{_milliseconds(result.plain)}** a step."
    files: list[str] | None = None
    if patched is not None:
        times += f" With patches: **{_milliseconds(patched)}** a step."
        _forget_old(folder)
        place = Path(tempfile.mkdtemp(prefix="result-", dir=folder))
        wanted = {"picture.png", "stack.safetensors", "make_picture.py", "playground.zip"}
        files = [str(path) for path in result.save(place) if path.name in wanted]
    return [
        enlarged(result.plain.picture),
        None if patched is None else enlarged(patched.picture),
        times,
        gr.Image(result.attention, visible=result.attention is not None),
        files,
        result.script,
        result.report,
    ]


def _forget_old(folder: Path) -> None:
    """Delete all results but the latest; Gradio has copies of what it gives out."""
    results = sorted(folder.glob("result-*"), key=lambda path: path.stat().st_mtime)
    for old in results[:-_KEPT]:
        shutil.rmtree(old)


def _milliseconds(made: Made) -> str:
    return f"{1000 * made.seconds_per_step:.3g} ms"
