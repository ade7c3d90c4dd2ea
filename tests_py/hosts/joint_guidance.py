# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What normalized attention guidance must give in joint attention: the host's own model by hand.

It runs on twice the rows, with attention that guides all but the text.
"""

import contextlib

import torch
import torch.nn.functional as F
from dense_bias import spans_of

from attnpatch.patches import NormalizedAttentionGuidance

SCALE, TAU, ALPHA = 4.0, 2.0, 0.4


def rand(*shape, seed=11):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def run(model, arguments):
    with torch.no_grad():
        out = model(**arguments, return_dict=False)[0]
    return torch.stack(out) if isinstance(out, list) else out


def text_name(arguments):
    return "cap_feats" if "cap_feats" in arguments else "encoder_hidden_states"


def negative_of(arguments):
    """A text of the sizes of a call's."""
    text = arguments[text_name(arguments)]
    return rand(1, *(text[0].shape if isinstance(text, list) else text.shape[1:]))


def doubled(arguments, negative, batch, rows):
    """The arguments with a row more for each of `rows`, by hand."""
    made = {}
    for name, value in arguments.items():
        if name in ("txt_ids", "img_ids", "position_ids") and value.dim() == 2:
            made[name] = value
        elif isinstance(value, list):
            made[name] = value + [value[row] for row in rows]
        else:
            assert len(value) == batch
            made[name] = torch.cat([value, value[rows]])
    name = text_name(arguments)
    if isinstance(made[name], list):
        made[name] = arguments[name] + [negative[0] for _ in rows]
    else:
        made[name] = torch.cat([arguments[name], negative.expand(len(rows), *negative.shape[1:])])
    for name in ("encoder_hidden_states_mask", "encoder_attention_mask", "attention_mask"):
        if name in made:
            made[name][batch:] = True
    return made


@contextlib.contextmanager
def guided(tokens, beside, pairs):
    """Attention that guides where a sequence of so many tokens attends to itself."""
    original = F.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, **options):
        out = original(query, key, value, attn_mask=attn_mask, **options)
        if (query.shape[2], key.shape[2]) != (tokens, tokens):
            return out
        out = out.clone()
        for positive, negative in pairs:
            plus, minus = (out[row][:, beside].double() for row in (positive, negative))
            away = SCALE * plus - (SCALE - 1) * minus
            ratio = away.abs().sum((0, 2)) / plus.abs().sum((0, 2))
            away = away * (ratio.clamp(max=TAU) / ratio)[:, None]
            result = (ALPHA * away + (1 - ALPHA) * plus).to(out.dtype)
            out[positive][:, beside] = result
            out[negative][:, beside] = result
        return out

    F.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def patch(negative, **options):
    return NormalizedAttentionGuidance(negative, SCALE, TAU, ALPHA, **options)


def tokens_beside(case, references):
    """How many tokens there are, and which of them are not the text's."""
    order = case.order(references)
    spans, total = spans_of(order), sum(count for _, count in order)
    beside = torch.ones(total, dtype=torch.bool)
    beside[spans["text"]] = False
    if order[-1][0] == "padding":  # of the text
        beside[spans["text"].start :] = False
    return total, beside
