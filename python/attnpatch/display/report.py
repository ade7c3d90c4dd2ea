# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What a stack found in a model: a map of its layers, block by block, coloured by what acts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from attnpatch.display.card import badge, card, count, short, size
from attnpatch.display.markup import Markup, join, tag
from attnpatch.display.style import colour
from attnpatch.engine import Layer, Report
from attnpatch.engine.joint_layers import JointLayer

__all__ = ["html", "parts"]

_NAMES = 40


def html(report: Report) -> Markup:
    """Show a report as a map."""
    found = f"{len(report.matched)} of {count(len(report.wanted), 'layer')} patched, "
    return card("Report", f"{found}{size(report.nbytes)} kept", *parts(report), plain=str(report))


def parts(report: Report) -> list[Markup]:
    """Give the map and its legend."""
    acts = _acting(report)
    layers = sorted(report.wanted, key=_forward)
    rows = [
        join(tag("div", name, class_="ap-block"), _cells(list(members), acts))
        for name, members in groupby(layers, key=_block)
    ]
    drawn = tag("div", *rows, class_="ap-map") if rows else tag("p", "No patches, no layers.")
    legend = [
        tag("li", badge(index), tag("span", name, class_="ap-name"), f" {_found(report, index)}")
        for index, name in enumerate(report.patches)
    ]
    if any(not acts[layer.index] for layer in layers):
        legend.append(tag("li", tag("span", "–", class_="ap-badge ap-none"), "nothing acts here"))
    notes = [f"Its tokens: {_listed(report.spans)}"] if report.spans else []
    notes += [f"Not patched: {_listed(report.unpatched)}"] if report.unpatched else []
    legend += [tag("li", note, class_="ap-soft") for note in notes]
    return [drawn, tag("ul", *legend, class_="ap-legend")]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(short(name) for name in names[:_NAMES])
    return shown if len(names) <= _NAMES else f"{shown} and {len(names) - _NAMES} more"


class _Found(NamedTuple):
    patches: tuple[int, ...]
    reasons: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.patches)


def _acting(report: Report) -> dict[int, _Found]:
    """For each layer the patches that act there, and why others do not."""
    found = {}
    for layer in report.wanted:
        skips = {skip.patch: skip.reason for skip in report.skipped if skip.layer == layer}
        acting = tuple(i for i in range(len(report.patches)) if i not in skips)
        found[layer.index] = _Found(acting, tuple(f"{i}: {why}" for i, why in skips.items()))
    return found


def _forward(layer: Layer | JointLayer) -> tuple[int, int]:
    """Sort as the model runs: down, middle, up."""
    if isinstance(layer, JointLayer):
        return layer.index, 0
    return ("input", "middle", "output").index(layer.block), layer.index


def _block(layer: Layer | JointLayer) -> str:
    if isinstance(layer, JointLayer):
        return layer.block
    return layer.name.split(".attentions")[0].replace("_blocks.", " ").replace("_block", "")


def _cells(layers: Sequence[Layer | JointLayer], acts: dict[int, _Found]) -> Markup:
    groups = [
        tag("div", *(_cell(layer, acts[layer.index]) for layer in members), class_="ap-group")
        for _, members in groupby(layers, key=lambda layer: getattr(layer, "spatial", 0))
    ]
    return tag("div", *groups, class_="ap-cells")


def _cell(layer: Layer | JointLayer, found: _Found) -> Markup:
    """Give a layer its patches side by side, each a colour with its number."""
    numbers = ", ".join(map(str, found.patches))
    told = [f"{layer.name}, {layer.channels} channels", f"patches here: {numbers or 'none'}"]
    told += [f"not here: {reason}" for reason in found.reasons]
    if not found:
        return tag("div", "–", class_="ap-cell ap-none", title="\n".join(told))
    stripes = [tag("span", patch, style=f"background:{colour(patch)}") for patch in found.patches]
    return tag("div", *stripes, class_="ap-cell", title="\n".join(told))


def _found(report: Report, index: int) -> str:
    """Say at how many layers a patch acts, and why not at others."""
    reasons: dict[str, int] = {}
    for skip in report.skipped:
        if skip.patch == index:
            reasons[skip.reason] = reasons.get(skip.reason, 0) + 1
    acts = len(report.wanted) - sum(reasons.values())
    told = f"at {acts} of {count(len(report.wanted), 'layer')}"
    return told + "".join(f"; not at {number}: {reason}" for reason, number in reasons.items())
