# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Pipelines of diffusers that make pictures of prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from attnpatch.adapters import ImageAdapter, ImageEmbeds, load_image_adapter
from attnpatch.adapters.encode import encode_pictures
from attnpatch.demo.own_model import OwnOptions, load_pipeline
from attnpatch.hosts.host_call import CondOrUncond
from attnpatch.hosts.recognition import diffusers_denoiser
from attnpatch.pictures import Picture
from attnpatch.studies.cells import Cell
from attnpatch.studies.models.takes import PipelineTakes

__all__ = ["PipelineModel"]

# How pipelines call what a study names.
_NAMES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "negative_prompt": ("negative_prompt",),
    "seed": ("generator",),
    "guidance": ("guidance_scale",),
    "steps": ("num_inference_steps",),
    "size": ("height", "width"),
}


class PipelineModel(PipelineTakes):
    """A pipeline of diffusers, with the image encoder of its adapters.

    Parameters
    ----------
    pipeline
        It takes ``prompt``, ``num_inference_steps``, ``guidance_scale`` and ``generator``.
    image_encoder
        A CLIP vision model, or where one is; None: the pipeline's own, or else the one that an
        adapter names.
    """

    cond_or_uncond: CondOrUncond | None = None

    def __init__(self, pipeline: Any, image_encoder: Any = None) -> None:
        self.pipeline = pipeline
        self._encoder = image_encoder
        self._takes = inspect.signature(type(pipeline).__call__).parameters
        pipeline.set_progress_bar_config(disable=True)
        self._denoiser = denoiser = diffusers_denoiser(pipeline)
        self.device = str(next(denoiser.parameters()).device)
        self._dtype = next(denoiser.parameters()).dtype
        if getattr(pipeline, "image_encoder", None) is not None and image_encoder is None:
            self._encoder = pipeline.image_encoder

    @classmethod
    def load(cls, table: Mapping[str, Any]) -> PipelineModel:
        """Load a model by file, folder or ID; see ``load_model``."""
        device = table.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
        on_cpu = torch.device(device).type == "cpu"
        dtype = table.get("dtype") or ("float32" if on_cpu else "float16")
        options = OwnOptions(table["source"], "", (), device=device, dtype=getattr(torch, dtype))
        return cls(
            load_pipeline(options, table.get("family"), "model.source"), table.get("image_encoder")
        )

    def check(self, cell: Cell) -> None:
        """Raise ValueError for what the pipeline's call has no argument for."""
        for name, wanted in _NAMES.items():
            if cell.argument(name) is not None and not self._takes.keys() >= set(wanted):
                raise ValueError(
                    f"{name}: expected none, which a {type(self.pipeline).__name__} does not take, "
                    f"got {cell.argument(name)!r}"
                )
        size, least = cell.argument("size"), self._pixels_per_latent
        if size is not None and any(side % least for side in _sides(size)):
            raise ValueError(f"size: expected multiples of {least}, got {size}")

    def adapter(self, source: str, options: Mapping[str, Any]) -> ImageAdapter:
        """Read an adapter, on the model's device and in its dtype."""
        return load_image_adapter(source, device=self.device, dtype=self._dtype, **options)

    def encode(
        self, adapter: ImageAdapter, pictures: Sequence[Picture], options: Mapping[str, Any]
    ) -> ImageEmbeds:
        """Make image tokens of pictures."""
        return adapter.encode(list(pictures), self._load_encoder(adapter), **options)

    def _load_encoder(self, adapter: ImageAdapter) -> Any:
        if self._encoder is None or isinstance(self._encoder, str):
            from attnpatch.demo.own_model import load_encoder

            options = OwnOptions("", "", (), self._encoder, device=self.device, dtype=self._dtype)
            self._encoder = load_encoder(adapter, options, "model.image_encoder")
        return self._encoder

    def generate(
        self, cells: Sequence[Cell], on_step: Callable[[], None]
    ) -> npt.NDArray[np.float32]:
        """Make the pictures of some cells in one run."""
        first = cells[0]
        arguments: dict[str, Any] = {
            "prompt": [cell.argument("prompt") for cell in cells],
            "generator": [torch.Generator().manual_seed(cell.argument("seed")) for cell in cells],
            "output_type": "np",
        }
        if first.argument("negative_prompt") is not None:
            arguments["negative_prompt"] = [cell.argument("negative_prompt") for cell in cells]
        for name in ("guidance", "steps"):
            if first.argument(name) is not None:
                (of_pipeline,) = _NAMES[name]
                arguments[of_pipeline] = first.argument(name)
        size = first.argument("size")
        if size is not None:
            arguments |= dict(zip(_NAMES["size"], _sides(size), strict=True))
        if "callback_on_step_end" in self._takes:
            arguments["callback_on_step_end"] = _calling(on_step)
        images = self.pipeline(**arguments).images
        return np.asarray(images, np.float32)

    def steps(self, cell: Cell) -> int:
        """Return how many steps a cell has."""
        given = cell.argument("steps")
        return given or self._takes["num_inference_steps"].default

    def latent(self, cell: Cell) -> tuple[int, int] | None:
        """Return height and width of a cell's latent; None: it is not known."""
        size = cell.argument("size")
        if size is not None:
            height, width = _sides(size)
            return height // self._pixels_per_latent, width // self._pixels_per_latent
        side = getattr(self._denoiser.config, "sample_size", None)
        return (side, side) if isinstance(side, int) else None

    @property
    def _pixels_per_latent(self) -> int:
        return getattr(self.pipeline, "vae_scale_factor", 1)

    def similarity(
        self, pictures: Sequence[Picture], references: Sequence[Picture]
    ) -> list[float] | None:
        """Return for each pair the cosine of CLIP's embeddings; None: no encoder was loaded."""
        if self._encoder is None or isinstance(self._encoder, str):
            return None
        a, b = (
            encode_pictures(list(group), self._encoder, "pooled").float()
            for group in (pictures, references)
        )
        return torch.cosine_similarity(a, b).tolist()


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


def _calling(on_step: Callable[[], None]) -> Callable[..., dict[str, Any]]:
    def on_step_end(
        pipeline: Any, step: int, timestep: Any, values: dict[str, Any]
    ) -> dict[str, Any]:
        on_step()
        return values

    return on_step_end
