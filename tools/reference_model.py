# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A transformer with references that is small enough to be trained where documents are drawn.

It has diffusers' Flux architecture, on 16 × 16 pixels: the text says a shape, references say its
colour. With two references in training the colour is half way between theirs, so that how much the
model looks at each can be seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

SHAPES = ("disc", "square", "ring", "cross")
SIZE, PATCH = 16, 2
GRID = SIZE // PATCH
TEXT, CONTEXT = 2, 16
STEPS, BATCH = 1600, 24


class Model(nn.Module):
    """The transformer, and the learned text of each shape."""

    def __init__(self) -> None:
        super().__init__()
        import diffusers

        self.text = nn.Embedding(len(SHAPES), TEXT * CONTEXT)
        self.transformer = diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=3 * PATCH**2,
            num_layers=1,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            joint_attention_dim=CONTEXT,
            pooled_projection_dim=8,
            guidance_embeds=False,
            axes_dims_rope=(4, 6, 6),
        )

    def forward(
        self, noisy: Tensor, time: Tensor, shapes: Tensor, references: Sequence[Tensor]
    ) -> Tensor:
        """Return the velocity (batch, 3, SIZE, SIZE) of noisy pictures at times 0 to 1."""
        batch = len(noisy)
        pictures = [noisy, *references]
        tokens = torch.cat([_to_tokens(picture) for picture in pictures], dim=1)
        out = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=self.text(shapes).view(batch, TEXT, CONTEXT),
            pooled_projections=noisy.new_zeros(batch, 8),
            timestep=time,
            img_ids=torch.cat([_ids(place) for place in range(len(pictures))]),
            txt_ids=torch.zeros(TEXT, 3),
            return_dict=False,
        )[0]
        return _to_pictures(out[:, : GRID * GRID])


def _ids(which: int) -> Tensor:
    ids = torch.zeros(GRID, GRID, 3)
    ids[..., 0] = which
    ids[..., 1] = torch.arange(GRID)[:, None]
    ids[..., 2] = torch.arange(GRID)
    return ids.flatten(0, 1)


def _to_tokens(pictures: Tensor) -> Tensor:
    return nn.functional.pixel_unshuffle(pictures, PATCH).flatten(2).transpose(1, 2)


def _to_pictures(tokens: Tensor) -> Tensor:
    return nn.functional.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (GRID, GRID)), PATCH)


def draw(shapes: Tensor, colours: Tensor, generator: torch.Generator) -> Tensor:
    """Draw shapes (batch,) in colours (batch, 3) of -1 to 1, of random sizes, on black."""
    batch = len(shapes)
    sizes = 4.5 + 2.0 * torch.rand(batch, 1, 1, generator=generator)
    centres = (SIZE - 1) / 2 + 2 * torch.rand(batch, 2, 1, 1, generator=generator) - 1
    axis = torch.arange(SIZE).float()
    down, right = (axis[:, None] - centres[:, 0]).abs(), (axis - centres[:, 1]).abs()
    far, longest = (down**2 + right**2).sqrt(), torch.maximum(down, right)
    arms = (torch.minimum(down, right) < 1.6) & (longest < sizes)
    kinds = [far < sizes, longest < 0.85 * sizes, (far < sizes) & (far > 0.55 * sizes), arms]
    inside = torch.stack(kinds, 1)[torch.arange(batch), shapes]
    return torch.where(inside[:, None], colours[:, :, None, None], -1.0)


def swatch(colours: Tensor, generator: torch.Generator) -> Tensor:
    """Draw references: a shape of any kind in a colour."""
    kinds = torch.randint(len(SHAPES), (len(colours),), generator=generator)
    return draw(kinds, colours, generator)


def random_colours(batch: int, generator: torch.Generator) -> Tensor:
    """Return colours (batch, 3) that are far from black."""
    colours = torch.rand(batch, 3, generator=generator)
    return 2 * (0.25 + 0.75 * colours / colours.amax(1, keepdim=True)).clamp(max=1) - 1


def train() -> Model:
    """Train it, three minutes of a core; the same model every time on one machine."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, STEPS, pct_start=0.1)
    for step in range(STEPS):
        shapes = torch.randint(len(SHAPES), (BATCH,), generator=generator)
        colours = [random_colours(BATCH, generator) for _ in range(1 + step % 2)]
        references = [swatch(colour, generator) for colour in colours]
        clean = draw(shapes, torch.stack(colours).mean(0), generator)
        noise = torch.randn(clean.shape, generator=generator)
        time = torch.randn(BATCH, generator=generator).sigmoid()
        share = time[:, None, None, None]
        found = model(noise * share + clean * (1 - share), time, shapes, references)
        loss = (found - (noise - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"reference model: step {step} of {STEPS}, loss {loss.item():.3f}")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def sample(model: Model, noise: Tensor, shapes: Tensor, references: Sequence[Tensor]) -> Tensor:
    """Return pictures (batch, 3, SIZE, SIZE) of -1 to 1."""
    times = torch.linspace(1.0, 0.0, 21)
    pictures = noise
    for now, then in itertools.pairwise(times):
        velocity = model(pictures, now.expand(len(noise)), shapes, references)
        pictures = pictures + (then - now) * velocity
    return pictures.clamp(-1, 1)


def trained(path: Path) -> Model:
    """Read the model from a file, or train it and keep it there."""
    model = Model()
    if path.exists():
        model.load_state_dict(torch.load(path))
    else:
        model = train()
        path.parent.mkdir(exist_ok=True)
        torch.save(model.state_dict(), path)
    return model.eval().requires_grad_(False)
