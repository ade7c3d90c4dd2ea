# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""From settings to a result: pictures without and with the patches, and how they came about."""

from __future__ import annotations

import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image
from torch import Tensor

import attnpatch as ap
from attnpatch.demo.runner import StepSchedule
from attnpatch.playground.patches import PlayModel, make_patches, mask_file, picture_file
from attnpatch.playground.script import write_script
from attnpatch.playground.settings import Settings

__all__ = ["Made", "Playground", "Result"]

# (share of the work that is done, what is being done)
OnProgress = Callable[[float, str], None]
_KEPT = 8


@dataclass(frozen=True)
class Made:
    """A picture, and the median time of a step in seconds."""

    picture: Image.Image
    seconds_per_step: float


@dataclass(frozen=True)
class Result:
    """What settings gave.

    Attributes
    ----------
    plain : Made
        Without patches.
    patched : Made or None
        With them; None as long as it is being made.
    attention : PIL.Image.Image or None
        Where the model looked in the last step, over the patched picture; None: nothing recorded.
    stack : attnpatch.PatchStack
    report : str
        Which layers the patches change.
    script : str
        The Python that makes the patched picture.
    """

    settings: Settings
    plain: Made
    stack: ap.PatchStack
    report: str
    script: str
    patched: Made | None = None
    attention: Image.Image | None = None

    def save(self, folder: Path) -> list[Path]:
        """Write all that the script needs and makes into a folder; last of all a zip file of it.

        Raises
        ------
        ValueError
            Where the patched picture is not there yet.
        """
        if self.patched is None:
            raise ValueError("save: expected a finished result, got one without patched picture")
        pictures = {"picture.png": self.patched.picture, "plain.png": self.plain.picture}
        for place, prompt in enumerate(self.settings.prompts):
            pictures[picture_file(place)] = prompt.picture
            if prompt.mask is not None:
                pictures[mask_file(place)] = prompt.mask.convert("L")
        files = [folder / name for name in pictures]
        for file, picture in zip(files, pictures.values(), strict=True):
            picture.save(file)
        files += [folder / "stack.safetensors", folder / "make_picture.py"]
        self.stack.save(files[-2])
        files[-1].write_text(self.script, encoding="utf-8")
        bundle = folder / "playground.zip"
        with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
        return [*files, bundle]


class Playground:
    """One model, which makes one picture at a time for whoever asks.

    Parameters
    ----------
    model : PlayModel
    """

    def __init__(self, model: PlayModel) -> None:
        self.model = model
        self._lock = threading.Lock()
        self._plain: OrderedDict[Settings, Made] = OrderedDict()

    def run(self, settings: Settings, on_progress: OnProgress | None = None) -> Iterator[Result]:
        """Make the result of settings: first what is known with the plain picture, then all of it.

        Parameters
        ----------
        settings : Settings
        on_progress : callable, optional
            Called after each step with the share of the work that is done, and what is being done.

        Raises
        ------
        ValueError
            Where settings do not fit the model.
        """
        tell = on_progress or (lambda share, what: None)
        made = make_patches(self.model, settings)
        stack = ap.PatchStack([patch for patch, _ in made])
        report = str(stack.bind(self.model.table).report()) if made else "no patches"
        imports, load, run = self.model.script_parts(settings)
        script = write_script(imports, load, [code for _, code in made], run)
        plain = self._make_plain(settings, tell)
        result = Result(settings, plain, stack, report, script)
        yield result
        if not made:
            yield replace(result, patched=plain)
            return
        with self._lock:
            patched, attention = self._generate(stack, settings, _half(tell, 0.5, "patched"))
        seen = None
        if attention is not None:
            seen = ap.show_attention(attention, picture=enlarged(patched.picture))
        yield replace(result, patched=patched, attention=seen)

    def _make_plain(self, settings: Settings, tell: OnProgress) -> Made:
        """Generate without patches, or take it where nothing else has changed."""
        key = replace(settings, prompts=(), sag=0.0, pag=0.0, reduction="")
        with self._lock:
            if key not in self._plain:
                self._plain[key], _ = self._generate(
                    ap.PatchStack(), settings, _half(tell, 0.0, "plain")
                )
                while len(self._plain) > _KEPT:
                    self._plain.popitem(last=False)
            self._plain.move_to_end(key)
            return self._plain[key]

    def _generate(
        self, stack: ap.PatchStack, settings: Settings, on_step: Callable[[int, int], None]
    ) -> tuple[Made, Tensor | None]:
        times = StepSchedule()

        def after_step(step: int, steps: int) -> None:
            times()
            on_step(step, steps)

        picture, attention = self.model.generate(stack, settings, after_step)
        return Made(picture, times.seconds_per_step), attention


def enlarged(picture: Image.Image, edge: int = 256) -> Image.Image:
    """Make a picture large enough to look at, in whole multiples, so that pixels stay square."""
    factor = max(1, edge // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST)


def _half(tell: OnProgress, begin: float, what: str) -> Callable[[int, int], None]:
    return lambda step, steps: tell(begin + (step + 1) / steps / 2, f"{what}, step {step + 1}")
