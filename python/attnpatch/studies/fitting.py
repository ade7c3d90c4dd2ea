# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What only a loaded model knows of a study, asked before the first cell runs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from attnpatch.engine import Patch
from attnpatch.engine.joint_layers import Table as Layers
from attnpatch.engine.layers import LayerTable, token_grid
from attnpatch.engine.masks import resize_mask
from attnpatch.hosts.diffusers import attach, layers_of
from attnpatch.patches import ImagePrompt
from attnpatch.studies.build import PatchMaker
from attnpatch.studies.cells import Cell
from attnpatch.studies.models import Model
from attnpatch.studies.names import under
from attnpatch.studies.options import kind_of, patch_options

__all__ = ["check_fit", "unlike"]

_BY_NUMBER = ("seed",)  # any fits where one does


def unlike(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Return cells that stand for all: each patch and each set of arguments in at least one."""
    seen: set[Hashable] = set()
    found = []
    for cell in cells:
        parts: set[Hashable] = {
            cell.pipeline.without(*_BY_NUMBER),
            tuple(cell.patches),
            *((name, spec, cell.argument("size")) for name, spec in cell.patches.items()),
        }
        if not parts <= seen:
            found.append(cell)
            seen |= parts
    return tuple(found)


def check_fit(model: Model, maker: PatchMaker, cells: Iterable[Cell]) -> None:
    """Make the patches of cells, and fit them to a model.

    Parameters
    ----------
    model
        What is to run them.
    maker
        Makes their patches, and keeps what they have in common.
    cells
        As ``unlike`` gives them.

    Raises
    ------
    OSError, TypeError, ValueError
        Naming the parameter.
    """
    layers = layers_of(model.pipeline)
    fitted: set[Hashable] = set()
    for cell in cells:
        model.check(cell)
        latent = model.latent(cell)
        stack = []
        for name, spec in cell.patches.items():
            try:
                patch = maker.patch(spec, cell.folder)
                if (name, spec, latent) not in fitted:
                    _check_patch(patch, layers, latent)
            except (OSError, TypeError, ValueError) as error:
                options = patch_options(kind_of(spec, name), made="patch" in spec)
                raise under(name, error, options) from error
            fitted.add((name, spec, latent))
            stack.append(patch)
        names = tuple(cell.patches)
        if names not in fitted:
            attach(model.pipeline, stack, cond_or_uncond=model.cond_or_uncond).detach()
            fitted.add(names)


def _check_patch(patch: Patch, layers: Layers, latent: tuple[int, int] | None) -> None:
    bound = patch.bind(layers, 0)
    if not isinstance(patch, ImagePrompt):
        return
    if patch.samples > 1:
        raise ValueError(
            f"picture: expected one prompt for a cell, which is one picture, got {patch.samples}; "
            "combine makes one of several pictures"
        )
    if patch.mask is None or latent is None or not isinstance(layers, LayerTable):
        return
    acting = zip(layers, bound.skipped, strict=True)
    grids = {token_grid(*latent, layer.level) for layer, reason in acting if reason is None}
    if grids and not any(resize_mask(patch.mask, grid, patch.mask_resize).any() for grid in grids):
        shown = ", ".join(f"{rows} × {columns}" for rows, columns in sorted(grids, reverse=True))
        raise ValueError(
            f"mask: expected one that reaches a token of the layers' grids ({shown}), got one that "
            "is too thin"
        )
