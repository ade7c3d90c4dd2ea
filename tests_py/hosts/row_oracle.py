# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What the rows of a UNet's calls are by what is in them, against what the patches are told."""

import torch

from attnpatch.engine import COND, UNCOND
from attnpatch.hosts.diffusers.patched_model import PatchedModel


class Watch:
    """Checks all calls of a patched UNet: the kind of each row by its text, slots by its latent.

    Parameters
    ----------
    unet
        With patches attached already.
    uncond
        The texts that are uncond, a tensor (rows, tokens, channels).
    """

    def __init__(self, unet, uncond):
        self.unet, self.uncond = unet, uncond
        self.calls = []
        self.degraded = 0

    def __enter__(self):
        self._hook = self.unet.register_forward_pre_hook(self._check, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _check(self, unet, args, kwargs):
        call = PatchedModel.of(unet).running.call
        names = ("sample", "timestep", "encoder_hidden_states")
        given = dict(zip(names, args, strict=False)) | kwargs
        sample, text = given["sample"], given["encoder_hidden_states"]
        frames = call.batch // len(sample)
        text = text[:: len(text) // len(sample)]
        kinds = [UNCOND if any(torch.equal(row, u) for u in self.uncond) else COND for row in text]
        assert call.roles == tuple(kind for kind in kinds for _ in range(frames))
        self.degraded += bool(call.degraded)
        self.calls.append(call)
        if call.degraded:
            return
        latents = sample[:, :4]
        for row, slot in enumerate(call.row_slots[::frames]):
            for other, its in enumerate(call.row_slots[::frames]):
                assert torch.equal(latents[row], latents[other]) == (slot == its)
