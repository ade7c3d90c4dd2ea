# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""State dicts with random weights in the form of every published adapter."""

import contextlib
from dataclasses import dataclass, field

import torch
from safetensors.torch import save_file

SD = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]
SDXL = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
FAMILIES = {768: ("sd1", SD), 1024: ("sd2", SD), 2048: ("sdxl", SDXL)}


class Maker:
    """Makes random tensors of a size at which activations stay of order one."""

    def __init__(self, seed=0, device="cpu", dtype=torch.float32):
        self.generator = None if device == "meta" else torch.Generator().manual_seed(seed)
        self.device, self.dtype = device, dtype

    def randn(self, *shape):
        if self.device == "meta":
            return torch.empty(shape, device="meta", dtype=self.dtype)
        return torch.randn(shape, generator=self.generator).to(self.dtype)

    def linear(self, name, rows, columns, bias=True):
        weights = {f"{name}.weight": self.randn(rows, columns) * columns**-0.5}
        if bias:
            weights[f"{name}.bias"] = self.randn(rows) * 0.1
        return weights

    def norm(self, name, size):
        return {
            f"{name}.weight": 1 + self.randn(size) * 0.1,
            f"{name}.bias": self.randn(size) * 0.1,
        }

    def sites(self, channels, context):
        weights = {}
        for n, size in enumerate(channels):
            for letter in "kv":
                weights[f"{2 * n + 1}.to_{letter}_ip.weight"] = (
                    self.randn(size, context) * context**-0.5
                )
        return weights

    def lora(self, channels, rank=4):
        weights = {}
        for n in range(2 * len(channels)):
            size = channels[n // 2]
            for part in ("q", "k", "v", "out"):
                weights[f"{n}.to_{part}_lora.down.weight"] = self.randn(rank, size)
                weights[f"{n}.to_{part}_lora.up.weight"] = self.randn(size, rank)
        return weights

    def image_projection(self, embed, context, tokens=4):
        return self.linear("proj", tokens * context, embed) | self.norm("norm", context)

    def token_mlp(self, embed, context):
        return (
            self.linear("proj.0", embed, embed)
            | self.linear("proj.2", context, embed)
            | self.norm("proj.3", context)
        )

    def mlp(self, embed, context, tokens=4):
        return (
            self.linear("proj.0", 2 * embed, embed)
            | self.linear("proj.2", tokens * context, 2 * embed)
            | self.norm("norm", context)
        )

    def perceiver(self, embed, dim, output, heads, depth=4, mult=4, prefix=""):
        hidden = round(mult * dim)
        weights = (
            self.linear(f"{prefix}proj_in", dim, embed)
            | self.linear(f"{prefix}proj_out", output, dim)
            | self.norm(f"{prefix}norm_out", output)
        )
        for d in range(depth):
            attention, feed_forward = f"{prefix}layers.{d}.0", f"{prefix}layers.{d}.1"
            weights |= self.norm(f"{attention}.norm1", dim)
            weights |= self.norm(f"{attention}.norm2", dim)
            weights |= self.linear(f"{attention}.to_q", 64 * heads, dim, bias=False)
            weights |= self.linear(f"{attention}.to_kv", 128 * heads, dim, bias=False)
            weights |= self.linear(f"{attention}.to_out", dim, 64 * heads, bias=False)
            weights |= self.norm(f"{feed_forward}.0", dim)
            weights |= self.linear(f"{feed_forward}.1", hidden, dim, bias=False)
            weights |= self.linear(f"{feed_forward}.3", dim, hidden, bias=False)
        return weights

    def resampler(self, embed, dim, output, heads, queries=16, depth=4, mult=4):
        weights = self.perceiver(embed, dim, output, heads, depth, mult)
        return {"latents": self.randn(1, queries, dim)} | weights

    def kolors_face(self, channels, context=2048, face=32, embed=40, heads=1, depth=1, mult=1 / 64):
        """Kolors' FaceID plus: six tokens of 4096 values before the model's own projection."""
        size = {"heads": heads, "depth": depth, "mult": mult}
        projection = self.face_perceiver(face, embed, 4096, tokens=6, **size)
        return {"image_proj": projection, "ip_adapter": self.sites(channels, context)}

    def face_perceiver(self, face, embed, context, heads, tokens=4, depth=4, mult=4):
        prefix = "perceiver_resampler."
        perceiver = self.perceiver(embed, context, context, heads, depth, mult, prefix)
        return self.mlp(face, context, tokens) | perceiver


@dataclass(frozen=True)
class Row:
    """A row of the checkpoint table: how its `image_proj` looks in full size and tiny."""

    kind: str
    name: str  # of the published file
    context: int  # in full size
    structure: str
    full: dict
    tiny: dict
    tokens: int
    inputs: tuple  # shapes of two pictures' features in full size
    lora: bool = False
    options: dict = field(default_factory=dict)
    family: str = ""  # where the context does not tell


def _plus(embed, heads):
    return {"embed": embed, "heads": heads}


_H, _G, _FACE = (2, 257, 1280), (2, 257, 1664), (2, 512)
_L_336 = (2, 577, 1024)
_TINY_PLUS = {"embed": 40, "dim": 48, "heads": 1, "depth": 2, "queries": 6}
_TINY_FACE_PLUS = {"embed": 512, "dim": 48, "heads": 1, "depth": 2}
_SD_PLUS = {"embed": 1280, "dim": 768, "heads": 12}
_XL_PLUS = {"embed": 1280, "dim": 1280, "heads": 20}
_INSTANT = {"embed": 512, "dim": 1280, "heads": 20}
_TINY_MLP = {"embed": 512}
_TINY_ID_PLUS = {"face": 512, "embed": 40, "heads": 1, "depth": 2}

ROWS = [
    Row("linear", "ip-adapter_sd15", 768, "image_projection", {"embed": 1024},
        {"embed": 1024}, 4, ((2, 1024),)),
    Row("linear", "ip-adapter_sd15_light_v11", 768, "image_projection", {"embed": 1024},
        {"embed": 1024}, 4, ((2, 1024),)),
    Row("linear", "ip-adapter_sd15_vit-G", 768, "image_projection", {"embed": 1280},
        {"embed": 1280}, 4, ((2, 1280),)),
    Row("linear", "ip-adapter_sd21", 1024, "image_projection", {"embed": 1024},
        {"embed": 1024, "tokens": 5}, 4, ((2, 1024),)),
    Row("linear", "ip-adapter_sdxl", 2048, "image_projection", {"embed": 1280},
        {"embed": 1280}, 4, ((2, 1280),)),
    Row("linear", "ip-adapter_sdxl_vit-h", 2048, "image_projection", {"embed": 1024},
        {"embed": 1024}, 4, ((2, 1024),)),
    Row("plus", "ip-adapter-plus_sd15", 768, "resampler", _SD_PLUS, _TINY_PLUS, 16, (_H,)),
    Row("plus", "ip-adapter-plus-face_sd15", 768, "resampler", _SD_PLUS, _TINY_PLUS, 16, (_H,)),
    Row("plus", "ip-adapter-plus_sdxl_vit-h", 2048, "resampler", _XL_PLUS, _TINY_PLUS, 16, (_H,)),
    Row("plus", "ip_plus_composition_sdxl", 2048, "resampler", {**_XL_PLUS, "embed": 1664},
        {**_TINY_PLUS, "embed": 1664}, 16, (_G,)),
    Row("plus", "Kolors-IP-Adapter-Plus", 2048, "resampler",
        {"embed": 1024, "dim": 2048, "heads": 12}, {**_TINY_PLUS, "embed": 1024}, 16, (_L_336,),
        family="kolors"),
    Row("full_face", "ip-adapter-full-face_sd15", 768, "token_mlp", {"embed": 1280},
        {"embed": 40}, 257, (_H,)),
    Row("faceid", "ip-adapter-faceid_sd15", 768, "mlp", {"embed": 512}, _TINY_MLP, 4, (_FACE,),
        lora=True),
    Row("faceid", "ip-adapter-faceid_sdxl", 2048, "mlp", {"embed": 512}, _TINY_MLP, 4, (_FACE,),
        lora=True),
    Row("faceid_portrait", "ip-adapter-faceid-portrait-v11_sd15", 768, "mlp",
        {"embed": 512, "tokens": 16}, {**_TINY_MLP, "tokens": 16}, 16, (_FACE,)),
    Row("faceid_portrait", "ip-adapter-faceid-portrait_sdxl", 2048, "mlp",
        {"embed": 512, "tokens": 16}, {**_TINY_MLP, "tokens": 16}, 16, (_FACE,)),
    Row("faceid_plus", "ip-adapter-faceid-plus_sd15", 768, "face_perceiver",
        {"face": 512, "embed": 1280, "heads": 12}, _TINY_ID_PLUS, 4, (_FACE, _H), lora=True),
    Row("faceid_plus_v2", "ip-adapter-faceid-plusv2_sd15", 768, "face_perceiver",
        {"face": 512, "embed": 1280, "heads": 12}, _TINY_ID_PLUS, 4, (_FACE, _H), lora=True),
    Row("faceid_plus_v2", "ip-adapter-faceid-plusv2_sdxl", 2048, "face_perceiver",
        {"face": 512, "embed": 1280, "heads": 32}, _TINY_ID_PLUS, 4, (_FACE, _H), lora=True),
    Row("portrait_unnorm", "ip-adapter-faceid-portrait_sdxl_unnorm", 2048, "resampler", _INSTANT,
        _TINY_FACE_PLUS, 16, (_FACE,)),
    Row("instantid", "instantid-ip-adapter", 2048, "resampler", _INSTANT, _TINY_FACE_PLUS, 16,
        (_FACE,)),
]  # fmt: skip
TINY_CONTEXT = 24
TINY_CHANNELS = (32, 64, 64, 32)


def make_state(row, full=False, maker=None):
    """Give the nested state dict of a row."""
    maker = maker or Maker(device="meta" if full else "cpu")
    context = row.context if full else TINY_CONTEXT
    numbers = dict(row.full if full else row.tiny)
    if row.structure == "resampler":
        numbers["output"] = context
    else:
        numbers["context"] = context
    channels = FAMILIES[context][1] if full else TINY_CHANNELS
    ip_adapter = maker.sites(channels, context)
    if row.lora:
        ip_adapter |= maker.lora(channels)
    return {"image_proj": getattr(maker, row.structure)(**numbers), "ip_adapter": ip_adapter}


def flatten(state):
    return {f"{group}.{name}": t for group, tensors in state.items() for name, t in tensors.items()}


def save_state(state, path):
    """Write a state dict in the form that the suffix stands for."""
    if path.suffix == ".safetensors":
        save_file({name: t.contiguous() for name, t in flatten(state).items()}, path)
    else:
        torch.save(state, path)
    return path


@contextlib.contextmanager
def random_state_kept():
    """Fail if torch's global generator was used."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(before, torch.get_rng_state()), "the global random generator was used"
