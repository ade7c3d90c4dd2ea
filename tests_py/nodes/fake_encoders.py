# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for an image encoder and a face analyser."""

from types import SimpleNamespace

import torch


class FakeClipVision:
    """Encodes pictures by fixed random projections: a class token and 4×4 patches."""

    image_size = 224
    side = 4

    def __init__(self, pooled=1024, hidden=40, seed=7):
        generator = torch.Generator().manual_seed(seed)
        self.pooled = torch.randn(48, pooled, generator=generator) / 7
        self.hidden = torch.randn(3, hidden, generator=generator)
        self.seen = []

    def encode_image(self, image):
        self.seen.append(tuple(image.shape))
        small = torch.nn.functional.adaptive_avg_pool2d(image.movedim(-1, 1), self.side)
        tokens = small.flatten(2).movedim(1, 2) @ self.hidden + 0.1
        return SimpleNamespace(
            image_embeds=small.flatten(1) @ self.pooled + 0.05,
            penultimate_hidden_states=torch.cat([tokens.mean(1, keepdim=True), tokens], 1),
        )


class FakeFaces:
    """A face analyser: finds one face in pictures that are bright enough."""

    def __init__(self, smallest=640):
        self.det_model = SimpleNamespace(input_size=(320, 320))
        self.smallest = smallest
        self.tried = []

    def get(self, picture):
        assert picture.dtype.name == "uint8" and picture.shape[2] == 3
        side = self.det_model.input_size[0]
        self.tried.append(side)
        if picture.mean() < 20 or side > self.smallest:
            return []
        generator = torch.Generator().manual_seed(int(picture.sum()) % 1000)
        embedding = torch.randn(512, generator=generator).numpy()
        points = torch.tensor([[30.0, 30], [50, 30], [40, 42], [32, 54], [48, 54]]).numpy()
        normed = embedding / (embedding**2).sum() ** 0.5
        face = {"kps": points, "embedding": embedding, "normed_embedding": normed}
        return [SimpleNamespace(bbox=[20.0, 20, 60, 60], det_score=0.9, **face)]
