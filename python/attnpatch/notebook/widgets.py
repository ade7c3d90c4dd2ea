# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The widgets of an interactive cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import ipywidgets as widgets

from attnpatch.display.markup import Markup, tag
from attnpatch.display.png import data_uri, shrink
from attnpatch.display.side_by_side import SideBySide
from attnpatch.display.side_by_side import html as show_pictures
from attnpatch.engine import PatchStack
from attnpatch.notebook.canvas import CopyButton
from attnpatch.notebook.code import Origin, as_code
from attnpatch.notebook.controls import NAMES, Controls
from attnpatch.notebook.newest import Newest
from attnpatch.notebook.preview import Preview
from attnpatch.notebook.variant import Change, apply
from attnpatch.pictures import Picture, read_pictures

__all__ = ["Explorer"]

_HEIGHT = 220


class Explorer:
    """An interactive cell; see :func:`attnpatch.explore`.

    Attributes
    ----------
    stack : PatchStack
        What the widgets say now.
    code : str
        The Python that makes it.
    pictures : list
        Of the latest preview.
    error : BaseException or None
        What the latest preview raised.
    """

    def __init__(self, preview: Preview, origin: Origin, steps: int) -> None:
        self._preview = preview
        self._origin = origin
        self._plain: list[Picture] = []
        self._plain_steps = 0
        self.pictures: list[Picture] = []
        self.error: BaseException | None = None
        self.controls = [
            Controls(patch, index, self._changed) for index, patch in enumerate(origin.stack)
        ]
        most = max(30, steps, preview.final_steps or 0)
        self._steps = widgets.IntSlider(steps, 1, most, description="steps", style=NAMES)
        self._steps.observe(self._changed, "value")
        self._stop = widgets.Button(description="Stop", icon="stop", disabled=True)
        self._stop.on_click(lambda _: self.cancel())
        self._status = widgets.HTML()
        self._view = widgets.HTML(layout=widgets.Layout(width="auto"))
        self._code = widgets.Textarea(layout=widgets.Layout(width="auto", height="14rem"))
        self._copy = CopyButton()
        widgets.dlink((self._code, "value"), (self._copy, "text"))
        code = widgets.Accordion([widgets.VBox([self._copy, self._code])], titles=("copy as code",))
        side = widgets.VBox(
            [self._steps, *(control.widget for control in self.controls)],
            layout=widgets.Layout(flex="1 1 20rem", max_width="28rem"),
        )
        state = widgets.HBox([self._stop, self._status])
        shown = widgets.VBox(
            [self._view, state, code], layout=widgets.Layout(flex="2 1 20rem", min_width="0")
        )
        flow = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        self.widget = widgets.Box([side, shown], layout=flow)
        self._previews = Newest(self._run, self._done)
        self._changed()

    @property
    def stack(self) -> PatchStack:
        """What the widgets say now."""
        return apply(self._origin.stack, self._changes())

    @property
    def code(self) -> str:
        """The Python that makes the stack, and pictures with it."""
        steps = self._steps.value
        return as_code(
            self._origin,
            self._changes(),
            lambda writer, pipeline: self._preview.code(writer, pipeline, steps),
        )

    def cancel(self) -> None:
        """Stop the preview that is running; the next value begins a new one."""
        if self._previews.cancel():
            self._say(tag("span", "stopped"), busy=False)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the pictures are those of the widgets; False where that took too long."""
        return self._previews.wait(timeout)

    def close(self) -> None:
        """Stop the preview and take the widgets away."""
        self._previews.close()
        self.widget.close()

    def _repr_mimebundle_(self, **options: object) -> dict[str, object]:
        return self.widget._repr_mimebundle_(**options)

    def _changes(self) -> list[Change]:
        return [control.change for control in self.controls]

    def _changed(self, *_: object) -> None:
        try:
            stack = self.stack
        except (TypeError, ValueError) as error:  # values that do not go together
            self._fail(error)
            return
        self._code.value = self.code
        self._say(tag("span", "making a preview …"), busy=True)
        self._previews.ask((stack, self._steps.value))

    def _run(self, request: tuple[PatchStack, int], check: Callable[[], None]) -> _Made:
        stack, steps = request
        if self._plain_steps != steps:
            self._plain = self._preview(PatchStack(), steps, check)
            self._plain_steps = steps
        begin = time.perf_counter()
        made = self._preview(stack, steps, check)
        seconds = time.perf_counter() - begin
        captions = ["without"] * len(self._plain) + ["with"] * len(made)
        both = SideBySide([*self._plain, *made], captions, height=_HEIGHT, title="Preview")
        under = data_uri(shrink(read_pictures(made, "pictures")[0], _HEIGHT)) if made else ""
        return _Made(str(show_pictures(both)), under, made, seconds)

    def _done(self, request: tuple[PatchStack, int], answer: _Made | BaseException) -> None:
        if isinstance(answer, BaseException):
            self._fail(answer)
            return
        self._view.value, self.pictures = answer.html, answer.pictures
        for control in self.controls:
            if control.mask is not None:
                control.mask.draw_over(answer.under)
        self.error = None
        self._say(tag("span", f"{request[1]} steps in {answer.seconds:.1f} s"), busy=False)

    def _fail(self, error: BaseException) -> None:
        self.error = error
        text = f"No preview. {type(error).__name__}: {error}"
        self._say(tag("strong", text, style="white-space:pre-wrap"), busy=False)

    def _say(self, text: Markup, *, busy: bool) -> None:
        self._status.value = str(text)
        self._stop.disabled = not busy


class _Made(NamedTuple):
    """A preview: its pictures, side by side with those without patches, and the first alone."""

    html: str
    under: str
    pictures: list[Picture]
    seconds: float
