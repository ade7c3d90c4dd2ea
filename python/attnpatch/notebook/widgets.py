# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The widgets of an interactive cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from attnpatch.display.markup import Markup, tag
from attnpatch.display.side_by_side import SideBySide
from attnpatch.display.side_by_side import html as show_pictures
from attnpatch.engine import Patch, PatchStack
from attnpatch.notebook.newest import Newest
from attnpatch.notebook.parameters import Parameter, has_mask, parameters_of
from attnpatch.notebook.preview import Preview
from attnpatch.notebook.variant import Box, Change, apply, as_code

__all__ = ["Explorer"]

_SHOWN = 6  # parameters of a patch that are in sight; the rest folds
_HEIGHT = 220
_NAMES = {"description_width": "6.5rem"}
_GIVEN, _EVERYWHERE, _BOX = "as given", "everywhere", "a box"


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
    error : Exception or None
        What the latest preview raised.
    """

    def __init__(self, preview: Preview, stack: PatchStack, steps: int) -> None:
        self._preview = preview
        self._given = stack
        self._plain: list[Any] | None = None
        self._plain_steps = 0
        self.pictures: list[Any] = []
        self.error: Exception | None = None
        self.controls = [Controls(patch, index, self._changed) for index, patch in enumerate(stack)]
        self._steps = widgets.IntSlider(steps, 1, max(30, steps), description="steps", style=_NAMES)
        self._steps.observe(self._changed, "value")
        self._status = widgets.HTML()
        self._view = widgets.HTML(layout=widgets.Layout(width="auto"))
        self._code = widgets.Textarea(layout=widgets.Layout(width="auto", height="14rem"))
        code = widgets.Accordion([self._code], titles=("copy as code",))
        side = widgets.VBox(
            [self._steps, *(control.widget for control in self.controls)],
            layout=widgets.Layout(flex="1 1 20rem", max_width="28rem"),
        )
        shown = widgets.VBox(
            [self._view, self._status, code],
            layout=widgets.Layout(flex="2 1 20rem", min_width="0"),
        )
        flow = widgets.Layout(flex_flow="row wrap", align_items="flex-start")
        self.widget = widgets.Box([side, shown], layout=flow)
        self._previews = Newest(self._run, self._done)
        self._changed()

    @property
    def stack(self) -> PatchStack:
        """What the widgets say now."""
        return apply(self._given, self._changes())

    @property
    def code(self) -> str:
        """The Python that makes the stack of ``stack``, and runs ``pipeline`` with it."""
        return as_code(self._given, self._changes(), self._preview.code)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the pictures are those of the widgets; False where that took too long."""
        return self._previews.wait(timeout)

    def close(self) -> None:
        """Stop the preview and take the widgets away."""
        self._previews.close()
        self.widget.close()

    def _repr_mimebundle_(self, **options: Any) -> Any:
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
        self._say(tag("span", "making a preview …"))
        self._previews.ask((stack, self._steps.value))

    def _run(self, request: tuple[PatchStack, int], check: Callable[[], None]) -> Any:
        stack, steps = request
        begin = time.perf_counter()
        if self._plain is None or self._plain_steps != steps:
            self._plain = self._preview(PatchStack(), steps, check)
            self._plain_steps = steps
            begin = time.perf_counter()
        made = self._preview(stack, steps, check)
        seconds = time.perf_counter() - begin
        captions = ["without"] * len(self._plain) + ["with"] * len(made)
        both = SideBySide([*self._plain, *made], captions, height=_HEIGHT, title="Preview")
        return str(show_pictures(both)), made, seconds

    def _done(self, request: tuple[PatchStack, int], answer: Any) -> None:
        if isinstance(answer, Exception):
            self._fail(answer)
            return
        self._view.value, self.pictures, seconds = answer
        self.error = None
        self._say(tag("span", f"{request[1]} steps in {seconds:.1f} s"))

    def _fail(self, error: Exception) -> None:
        self.error = error
        text = f"No preview. {type(error).__name__}: {error}"
        self._say(tag("strong", text, style="white-space:pre-wrap"))

    def _say(self, text: Markup) -> None:
        self._status.value = str(text)


class Controls:
    """The widgets of one patch."""

    def __init__(self, patch: Patch, index: int, changed: Callable[..., None]) -> None:
        self._patch = patch
        self.on = widgets.Checkbox(True, description="on", indent=False)
        self.parameters = {p.name: _widget(p) for p in parameters_of(patch)}
        self._before = {name: widget.value for name, widget in self.parameters.items()}
        self.window: Any = None
        if hasattr(patch, "start") and hasattr(patch, "end"):
            self.window = widgets.FloatRangeSlider(
                value=(patch.start, patch.end),
                min=0,
                max=1,
                step=0.01,
                description="active",
                style=_NAMES,
            )
        self.mask = MaskControls() if has_mask(patch) else None
        shown = list(self.parameters.values())
        head = widgets.HTML(str(tag("strong", f"{index} {type(patch).__name__}")))
        rows = [widgets.HBox([head, self.on]), *shown[:_SHOWN]]
        rows += [self.window] if self.window is not None else []
        rows += [self.mask.widget] if self.mask is not None else []
        if shown[_SHOWN:]:
            rows.append(widgets.Accordion([widgets.VBox(shown[_SHOWN:])], titles=("more",)))
        line = "1px solid var(--jp-border-color2, #ccc)"
        self.widget = widgets.VBox(rows, layout=widgets.Layout(border_top=line, padding="4px 0"))
        inputs = [self.on, *shown, *([self.window] if self.window is not None else [])]
        inputs += self.mask.inputs if self.mask is not None else []
        for given in inputs:
            given.observe(changed, "value")

    @property
    def change(self) -> Change:
        """What the widgets say that is not as it was given."""
        values = {
            name: widget.value
            for name, widget in self.parameters.items()
            if widget.value != self._before[name]
        }
        if self.window is not None:
            start, end = self.window.value
            values |= {"start": start} if start != self._patch.start else {}  # type: ignore[attr-defined]
            values |= {"end": end} if end != self._patch.end else {}  # type: ignore[attr-defined]
        if self.mask is not None:
            values |= self.mask.change
        return Change(values, self.on.value)


class MaskControls:
    """The mask of a patch: as it was given, none, or a box."""

    def __init__(self) -> None:
        self.choice = widgets.Dropdown(
            options=(_GIVEN, _EVERYWHERE, _BOX), value=_GIVEN, description="mask", style=_NAMES
        )
        sides = {"min": 0, "max": 1, "step": 0.01, "style": _NAMES}
        self.across = widgets.FloatRangeSlider(value=(0.0, 0.5), description="across", **sides)
        self.down = widgets.FloatRangeSlider(value=(0.0, 1.0), description="down", **sides)
        self.soft = widgets.FloatSlider(0.0, description="soft", **sides)
        self._box = widgets.VBox([self.across, self.down, self.soft])
        self._box.layout.display = "none"
        self.choice.observe(self._unfold, "value")
        self.inputs = [self.choice, self.across, self.down, self.soft]
        self.widget = widgets.VBox([self.choice, self._box])

    @property
    def change(self) -> dict[str, Any]:
        """The new mask; empty where it is as it was given."""
        if self.choice.value == _GIVEN:
            return {}
        if self.choice.value == _EVERYWHERE:
            return {"mask": None}
        (left, right), (top, bottom) = self.across.value, self.down.value
        return {"mask": Box(left, top, right, bottom, self.soft.value)}

    def _unfold(self, _: object) -> None:
        self._box.layout.display = None if self.choice.value == _BOX else "none"


def _widget(parameter: Parameter) -> Any:
    """Make the widget of one parameter."""
    name = parameter.name.replace("_", " ")
    if parameter.options == (False, True):
        return widgets.Checkbox(parameter.value, description=name, indent=False)
    if parameter.options:
        return widgets.Dropdown(options=parameter.options, value=parameter.value, description=name)
    make = widgets.IntSlider if isinstance(parameter.value, int) else widgets.FloatSlider
    return make(
        parameter.value,
        min=parameter.low,
        max=parameter.high,
        step=parameter.step,
        description=name,
        style=_NAMES,
    )
