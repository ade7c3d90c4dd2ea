# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The widgets of one patch, and of its mask."""

from __future__ import annotations

import io
from collections.abc import Callable

import ipywidgets as widgets
import traitlets
from PIL import Image

from attnpatch.display.markup import tag
from attnpatch.engine import Patch
from attnpatch.notebook.canvas import MaskCanvas
from attnpatch.notebook.masks import SIDE, mask_text
from attnpatch.notebook.parameters import Parameter, has_mask, parameters_of
from attnpatch.notebook.variant import Box, Change, Drawn, Value
from attnpatch.pictures import read_picture

__all__ = ["NAMES", "Controls", "MaskControls"]

NAMES = {"description_width": "6.5rem"}
_DIGITS = 9
_SHOWN = 6  # parameters of a patch that are in sight; the rest folds
_GIVEN, _EVERYWHERE, _BOX, _DRAWN = "as given", "everywhere", "a box", "drawn"
_MOST_PIXELS = 50_000_000  # of an uploaded picture


class Controls:
    """The widgets of one patch."""

    def __init__(self, patch: Patch, index: int, changed: Callable[..., None]) -> None:
        self.on = widgets.Checkbox(True, description="on", indent=False)
        self.parameters = {p.name: _widget(p) for p in parameters_of(patch)}
        self._before = {name: widget.value for name, widget in self.parameters.items()}
        self.window: widgets.FloatRangeSlider | None = None
        if hasattr(patch, "start") and hasattr(patch, "end"):
            self._start, self._end = patch.start, patch.end
            self.window = widgets.FloatRangeSlider(
                value=(patch.start, patch.end),
                min=0,
                max=1,
                step=0.01,
                description="active",
                style=NAMES,
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
        window = [] if self.window is None else [self.window]
        for given in (self.on, *shown, *window):
            given.observe(changed, "value")
        for given, trait in [] if self.mask is None else self.mask.inputs:
            given.observe(changed, trait)

    @property
    def change(self) -> Change:
        """What the widgets say that is not as it was given."""
        values: dict[str, Value] = {
            name: _rounded(widget.value)
            for name, widget in self.parameters.items()
            if widget.value != self._before[name]
        }
        if self.window is not None:
            start, end = (round(one, _DIGITS) for one in self.window.value)
            values |= {"start": start} if start != self._start else {}
            values |= {"end": end} if end != self._end else {}
        if self.mask is not None:
            values |= self.mask.change
        return Change(values, self.on.value)


class MaskControls:
    """The mask of a patch: as it was given, none, a box, or drawn."""

    def __init__(self) -> None:
        self.choice = widgets.Dropdown(
            options=(_GIVEN, _EVERYWHERE, _BOX, _DRAWN),
            value=_GIVEN,
            description="mask",
            style=NAMES,
        )
        sides = {"min": 0, "max": 1, "step": 0.01, "style": NAMES}
        self.across = widgets.FloatRangeSlider(value=(0.0, 0.5), description="across", **sides)
        self.down = widgets.FloatRangeSlider(value=(0.0, 1.0), description="down", **sides)
        self.soft = widgets.FloatSlider(0.0, description="soft", **sides)
        self.canvas = MaskCanvas()
        self.upload = widgets.FileUpload(accept="image/*", description="take a picture")
        self.upload.observe(self._take, "value")
        self._said = widgets.HTML()
        self._picture = ""
        self._box = widgets.VBox([self.across, self.down, self.soft])
        self._drawn = widgets.VBox([self.canvas, self.upload, self._said])
        self.choice.observe(self._unfold, "value")
        widgets.dlink((self.choice, "value"), (self._box.layout, "display"), _shown_for(_BOX))
        widgets.dlink((self.choice, "value"), (self._drawn.layout, "display"), _shown_for(_DRAWN))
        self.inputs = [
            (self.choice, "value"),
            (self.across, "value"),
            (self.down, "value"),
            (self.soft, "value"),
            (self.canvas, "levels"),
        ]
        self.widget = widgets.VBox([self.choice, self._box, self._drawn])

    @property
    def change(self) -> dict[str, Value]:
        """The new mask; empty where it is as it was given, and where nothing was drawn."""
        if self.choice.value == _EVERYWHERE:
            return {"mask": None}
        if self.choice.value == _BOX:
            sides = (*self.across.value, *self.down.value, self.soft.value)
            left, right, top, bottom, soft = (round(one, _DIGITS) for one in sides)
            return {"mask": Box(left, top, right, bottom, soft)}
        if self.choice.value == _DRAWN and any(self.canvas.levels):
            return {"mask": Drawn(mask_text(self.canvas.levels))}
        return {}

    def draw_over(self, picture: str) -> None:
        """Put a picture, by its address, under what is drawn."""
        self._picture = picture
        self._unfold()

    def _unfold(self, *_: object) -> None:
        if self.choice.value == _DRAWN:
            self.canvas.picture = self._picture

    def _take(self, change: traitlets.Bunch) -> None:
        """Take an uploaded picture as what was drawn."""
        for file in change["new"]:
            try:
                self.canvas.levels = _levels_of(bytes(file["content"]), file["name"])
                self._said.value = ""
            except ValueError as error:
                self._said.value = str(tag("strong", error))


def _shown_for(choice: str) -> Callable[[str], str | None]:
    return lambda chosen: None if chosen == choice else "none"


def _levels_of(content: bytes, name: str) -> bytes:
    """Make a mask of a picture file: white is 255, black and transparent are 0."""
    try:
        with Image.open(io.BytesIO(content)) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise ValueError(
                    f"mask: expected at most {_MOST_PIXELS // 10**6} million pixels, "
                    f"got {picture.width} × {picture.height}"
                )
            read = read_picture(picture, f"mask ({name})", background=(0, 0, 0))
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise ValueError(f"mask: expected a picture, got {name}") from None
    grey = Image.fromarray(read).convert("L")
    return grey.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def _rounded(value: bool | float | str) -> Value:
    """Give 0.4 where a slider's steps add up to 0.4000000000000001."""
    return round(value, _DIGITS) if isinstance(value, float) else value


def _widget(parameter: Parameter) -> widgets.ValueWidget:
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
        style=NAMES,
    )
