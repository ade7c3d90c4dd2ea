# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Colours that all can read, in a style sheet that touches nothing else."""

import itertools
import re

import pytest
import torch

from attnpatch.display import style

THEMES = {"light": style._LIGHT, "dark": style._DARK}
# Machado et al. 2009, severity 1, on linear RGB.
BLINDNESS = {
    "full vision": torch.eye(3),
    "protanopia": torch.tensor(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": torch.tensor(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": torch.tensor(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}


def linear(colour):
    values = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Return the ratio that the WCAG define."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    a, b = sorted(float(linear(colour) @ weights) for colour in (one, other))
    return (b + 0.05) / (a + 0.05)


def lab(rgb):
    """CIELAB of linear RGB, white as D65."""
    matrix = torch.tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = matrix @ rgb.clamp(0, 1) / torch.tensor([0.95047, 1.0, 1.08883])
    f = torch.where(xyz > (6 / 29) ** 3, xyz ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_colours_stand_out(theme):
    colours = THEMES[theme]
    for paper in ("paper", "shade"):
        assert contrast(colours["ink"], colours[paper]) >= 7
        assert contrast(colours["soft"], colours[paper]) >= 4.5
    for index in range(style.COLOURS):
        assert contrast(colours[str(index)], colours["paper"]) >= 3
        assert contrast(colours[str(index)], colours["on"]) >= 4.5, "the number on it"


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("sight", BLINDNESS)
def test_the_first_colours_differ_for_every_sight(theme, sight):
    found = [lab(BLINDNESS[sight] @ linear(THEMES[theme][str(i)])) for i in range(4)]
    for one, other in itertools.combinations(found, 2):
        assert float((one - other).norm()) > 10, "clearly apart, where 2.3 can just be seen"


def test_no_rule_reaches_out_of_a_display():
    sheet = style.STYLE.removeprefix("<style>").removesuffix("</style>")
    sheet = sheet.replace("@media (prefers-color-scheme:dark){", "").replace("}}", "}")
    selectors = re.findall(r"([^{}]+)\{", sheet)
    assert len(selectors) > 20
    for selector in itertools.chain(*(rule.split(",") for rule in selectors)):
        assert ".attnpatch" in selector, selector
    assert "url(" not in sheet
    assert "@import" not in sheet


def test_both_themes_have_every_colour_that_is_used():
    used = set(re.findall(r"var\(--ap-([a-z0-9]+)", style._RULES))
    used |= {re.findall(r"--ap-(\d)", style.colour(i))[0] for i in range(2 * style.COLOURS)}
    assert style._LIGHT.keys() == style._DARK.keys() >= used
