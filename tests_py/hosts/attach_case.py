# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The UNet and the image prompt that tests of attaching share."""

import functools

import torch
from diffusers_models import make_prompt, make_unet, unet_inputs

GUIDED = {"cond_or_uncond": (1, 0)}


@functools.cache
def original():
    return make_unet()


@functools.cache
def prompt(seed=0, **options):
    return make_prompt(original(), seed=seed, **options)


def run(unet, **inputs):
    with torch.no_grad():
        return unet(**(unet_inputs(unet) | inputs)).sample
