# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Compiled transformers with patches: as many graphs as without, and the same results."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from transformer_models import CASES, REFERENCES

import attnpatch as ap
from attnpatch.hosts.diffusers.transformer import processor
from attnpatch.patches import KeyGain, TextKeys

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
]


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def run(model, arguments):
    with torch.no_grad():
        out = model(**arguments, return_dict=False)[0]
    return torch.stack(out) if isinstance(out, list) else out


def compiled(model, how):
    counter = CompileCounter()
    if how == "whole":
        return torch.compile(model, backend=counter, fullgraph=True), counter
    model.compile_repeated_blocks(backend=counter, fullgraph=True)
    return model, counter


@pytest.mark.parametrize("how", ["whole", "blocks"])
@pytest.mark.parametrize("name", CASES)
def test_compiled(name, how):
    case = CASES[name]
    if how == "blocks" and not case.make()._repeated_blocks:
        with pytest.raises(ValueError, match="_repeated_blocks"):  # diffusers' own
            compiled(case.make(), how)
        return
    arguments = case.arguments(1, REFERENCES if case.references else ())
    model = case.make()
    run(model, arguments)  # one keeps what it makes in its first call
    plain, counts = compiled(model, how)
    run(plain, arguments)
    torch._dynamo.reset()

    model = case.make()
    first, second = (KeyGain(TextKeys((1,)), gain, uncond=True) for gain in (3.0, 0.0))
    with ap.attach(model, first):
        right = run(model, arguments)
    with ap.attach(model, second):
        right_second = run(model, arguments)
    attached = ap.attach(model, first)
    fast, ours = compiled(model, how)
    torch.testing.assert_close(run(fast, arguments), right, rtol=1e-5, atol=1e-5)
    assert ours.frame_count <= counts.frame_count
    attached.detach()
    with ap.attach(model, second):
        found = run(fast, arguments)
    torch.testing.assert_close(found, right_second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_rows_of_a_negative_text(name):
    """Normalized attention guidance adds them before the graph, and takes them out after it."""
    case = CASES[name]
    model, arguments = case.make(), case.arguments(1)
    text = arguments.get("cap_feats", arguments.get("encoder_hidden_states"))
    sizes = text[0].shape if isinstance(text, list) else text.shape[1:]
    negative = torch.randn(1, *sizes, generator=torch.Generator().manual_seed(2))
    with ap.attach(model, ap.NormalizedAttentionGuidance(negative), cond_or_uncond=(0,)):
        right = run(model, arguments)
        fast, counts = compiled(model, "whole")
        torch.testing.assert_close(run(fast, arguments), right, rtol=1e-5, atol=1e-5)
    assert counts.frame_count == 1


def test_what_a_processor_tells_attention(monkeypatch):
    """A scale of its own counts in graphs too; what the operator has not is an error."""

    class Site:
        def __init__(self, layer, handle):
            pass

        def attend(self, q, k, v, mask):
            return F.scaled_dot_product_attention(q, k, v, mask)

    monkeypatch.setattr(processor, "GraphSite", Site)
    q, k, v = torch.randn(3, 1, 7, 2, 8, generator=torch.Generator().manual_seed(0))
    layer = SimpleNamespace(handle=0)

    @torch.compile(backend="eager", fullgraph=True)
    def dispatch(**options):
        return processor.dispatch(q, k, v, backend=layer, **options)

    heads = (x.transpose(1, 2) for x in (q, k, v))
    expected = F.scaled_dot_product_attention(*heads, scale=0.3).transpose(1, 2)
    torch.testing.assert_close(dispatch(scale=0.3), expected)
    with pytest.raises(Exception, match="is_causal: expected none in a patched model"):
        dispatch(is_causal=True)
