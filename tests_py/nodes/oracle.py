# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Image prompts computed plainly, layer by layer, and what weight types mean, as tables."""

import torch
from protocol_host import attention

COMPOSITION = {"SDXL": [3], "SD1": [4, 5]}
STYLE = {"SDXL": [6], "SD1": [0, 1, 2, 3, 9, 10, 11, 12, 13, 14, 15]}
COUNT = {"SDXL": 11, "SD1": 16}
KINDS = {
    "SDXL": ["input"] * 4 + ["middle"] + ["output"] * 6,
    "SD1": ["input"] * 6 + ["middle"] + ["output"] * 9,
}
WEIGHT_TYPES = (
    "linear", "ease in", "ease out", "ease in-out", "reverse in-out", "weak input", "weak output",
    "weak middle", "strong middle", "style transfer", "composition", "strong style transfer",
    "style and composition", "style transfer precise", "composition precise",
)  # fmt: skip


def composition_weights(family, weight):
    """At SD1.x the first of the two layers counts a quarter."""
    return {3: weight} if family == "SDXL" else {4: 0.25 * weight, 5: weight}


def weights_of(family, name, weight, composition=None):
    """Give {t: weight}, and the t at which the roles are turned around."""
    composition = weight if composition is None else composition
    count, half = COUNT[family], COUNT[family] / 2
    ramps = {
        "linear": lambda t: 1,
        "ease in": lambda t: 0.05 + 0.95 * (1 - t / count),
        "ease out": lambda t: 0.05 + 0.95 * t / count,
        "ease in-out": lambda t: 0.05 + 0.95 * (1 - abs(t - half) / half),
        "reverse in-out": lambda t: 0.05 + 0.95 * abs(t - half) / half,
        "weak input": lambda t: 0.2 if KINDS[family][t] == "input" else 1,
        "weak middle": lambda t: 0.2 if KINDS[family][t] == "middle" else 1,
        "weak output": lambda t: 0.2 if KINDS[family][t] == "output" else 1,
        "strong middle": lambda t: 1 if KINDS[family][t] == "middle" else 0.2,
    }
    if name in ramps:
        return {t: weight * ramps[name](t) for t in range(count)}, ()
    style = {t: weight for t in STYLE[family]}
    arranged = composition_weights(family, composition)
    rest = {t: weight for t in range(count) if t not in COMPOSITION[family]}
    around = {t: w if t in STYLE[family] else 0.1 * w for t, w in rest.items()}
    return {
        "style transfer": (style, ()),
        "composition": (arranged, ()),
        "strong style transfer": (rest, ()),
        "style and composition": (style | arranged, ()),
        "strong style and composition": (rest | arranged, ()),
        "style transfer precise": (style | arranged, tuple(arranged)),
        "composition precise": (around | arranged, tuple(around)),
    }[name]


def hold(rows, count):
    return torch.stack([rows[min(i, len(rows) - 1)] for i in range(count)])


def plain_prompt(model, structure, raw, cond, uncond, weights, *, away=(), unfold=False):
    """Patch a clone of `model` by a function for every layer.

    cond, uncond: (pictures, tokens, context); weights: {t: number or one for each picture}.
    """
    clone = model.clone()
    for number, (key, _, _) in enumerate(structure.sites()):
        pair = [raw["ip_adapter"][f"{2 * number + 1}.to_{x}_ip.weight"] for x in "kv"]
        before = clone.slots().get(key)
        slot = _slot(pair, cond, uncond, weights, away, unfold, before)
        clone.set_model_attn2_replace(slot, *key)
    return clone


def _slot(pair, cond, uncond, weights, away, unfold, before):
    def run(q, k, v, options):
        heads, t = options["n_heads"], options["transformer_index"]
        out = before(q, k, v, options) if before else attention(q, k, v, heads)
        if t not in weights:
            return out
        chunks = options["cond_or_uncond"]
        size = len(q) // len(chunks)
        added = []
        for kind, part in zip(chunks, q.chunk(len(chunks)), strict=True):
            tokens = {0: None if t in away else cond, 1: cond if t in away else uncond}[kind]
            if tokens is None:
                added.append(torch.zeros_like(part))
                continue
            tokens = hold(tokens, size) if unfold else tokens.flatten(0, 1)[None]
            ip_k, ip_v = ((tokens @ w.T).expand(size, -1, -1) for w in pair)
            number = torch.as_tensor(weights[t]).float().reshape(-1)
            added.append(attention(part, ip_k, ip_v, heads) * hold(number, size)[:, None, None])
        return out + torch.cat(added)

    return run
