# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Gains on words where the host repeats texts of unlike lengths, against a dense bias."""

import math

import pytest
import torch
from comfyui_oracle import make_prompt
from dense_bias import dense
from protocol_sampling import make_comfy
from protocol_unet import SD1, UNet
from sampling_host import Sampler, entry

import attnpatch as ap
from attnpatch.hosts.comfyui.repeated_texts import find_repeats

WORDS, GAIN = (2, 5), 6.0
LENGTHS = [
    pytest.param(7, 14, id="the cond twice"),
    pytest.param(7, 21, id="the cond three times"),
    pytest.param(14, 7, id="the uncond twice"),
    pytest.param(14, 21, id="both, to the least common multiple"),
    pytest.param(7, 7, id="none"),
]


@pytest.fixture(scope="module")
def model():
    return make_comfy(SD1)


def text(tokens, seed, batch=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, tokens, SD1.context_dim, generator=generator)


def run(model, conds, *, batch=1, size=(16, 24), sampler=None, wrapper=None):
    """One step without guidance's sum: predictions of cond and uncond."""
    x = torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(0))
    options = dict(model.model_options)
    if wrapper is not None:
        options["model_function_wrapper"] = wrapper
    sampler = sampler or Sampler()
    with torch.no_grad():
        found = sampler.calc_cond_batch(model.model, conds, x, torch.full((batch,), 4.0), options)
    return torch.cat(found)


def expected(model, conds, lengths, words=WORDS, gain=GAIN, values=1.0, **options):
    """Run the model with a dense bias at every copy of the words, in the rows of cond."""
    tokens = math.lcm(*lengths.values())

    def gains(batch, queries):
        factors, of_values = (torch.ones(batch, queries, tokens) for _ in range(2))
        each = batch // len(lengths)
        for chunk, (_, own) in enumerate(lengths.items()):
            for word in () if own < 0 else words:
                rows = slice(chunk * each, (chunk + 1) * each)
                if list(lengths)[chunk][0] == "cond":
                    factors[rows, :, word::own] = gain
                    of_values[rows, :, word::own] = values
        return factors, of_values

    with dense(None, tokens, gains) as calls:
        out = run(model, conds, **options)
    assert calls
    return out


def close(found, right):
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tells", [True, False], ids=["told", "found"])
@pytest.mark.parametrize(("cond", "uncond"), LENGTHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_a_gain_meets_every_copy(model, cond, uncond, batch, tells, monkeypatch):
    conds = (
        [entry(text(cond, 1, batch), "cond" if tells else None)],
        [entry(text(uncond, 2, batch), "uncond" if tells else None)],
    )
    if not tells:  # a host of old calls no wrappers
        monkeypatch.setattr("sampling_host.wrapped", lambda function, *_: function)
        monkeypatch.setattr(UNet, "wraps", False)
    lengths = {("uncond",): uncond, ("cond",): cond}
    found = run(ap.patch_model(model, ap.KeyGain(ap.TextKeys(WORDS), GAIN)), conds, batch=batch)
    close(found, expected(model, conds, lengths, batch=batch))
    assert not torch.allclose(found, run(model, conds, batch=batch), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "mask"), [("image", None), ("image", torch.eye(4)), ("all", None)]
)
def test_values_of_every_copy(model, rows, mask):
    """Negative weights multiply values; with a mask each query takes its own share of that."""
    conds = ([entry(text(7, 1), "cond")], [entry(text(14, 2), "uncond")])
    patch = ap.KeyGain(ap.TextKeys(WORDS), 2.0, value_gain=-1.0, rows=rows, mask=mask)
    found = run(ap.patch_model(model, patch), conds)
    separate = run(ap.patch_model(model, patch), conds, sampler=Sampler(chunks=1))
    close(found, separate)
    if mask is None:
        lengths = {("uncond",): 14, ("cond",): 7}
        close(found, expected(model, conds, lengths, gain=2.0, values=-1.0))


def test_conds_of_unlike_lengths_have_their_own_words(model):
    """Two conds and an uncond in one call, to the least common multiple of three lengths."""
    conds = (
        [entry(text(7, 1), "a"), entry(text(14, 3), "b")],
        [entry(text(21, 2), "uncond")],
    )
    lengths = {("uncond",): 21, ("cond", "b"): 14, ("cond", "a"): 7}
    patched = ap.patch_model(model, ap.KeyGain(ap.TextKeys(WORDS), GAIN))
    close(run(patched, conds), expected(model, conds, lengths))


def test_rows_that_a_wrapper_splits(model):
    """Each call then has texts of one row alone, as long as the longest still."""
    conds = ([entry(text(7, 1), "cond")], [entry(text(21, 2), "uncond")])
    seen = []

    def one_by_one(function, args):
        rows = []
        for row in range(len(args["input"])):
            part = slice(row, row + 1)
            c = {
                name: value[part] if isinstance(value, torch.Tensor) else value
                for name, value in args["c"].items()
            }
            seen.append(c["c_crossattn"].shape[1])
            rows.append(function(args["input"][part], args["timestep"][part], **c))
        return torch.cat(rows)

    patched = ap.patch_model(model, ap.KeyGain(ap.TextKeys(WORDS), GAIN))
    found = run(patched, conds, wrapper=one_by_one)
    assert seen == [21, 21]
    close(found, run(patched, conds))


def test_words_and_regions_beside_a_longer_uncond(model):
    """What the one-call functions make, in one batch as in calls of their own."""
    mask = torch.zeros(8, 12)
    mask[:, :6] = 1
    joined, patches = ap.regional_prompts([(text(7, 3), mask), (text(7, 4), 1 - mask)])
    conds = ([entry(joined, "cond")], [entry(text(21, 2), "uncond")])
    patched = ap.patch_model(model, [*patches, ap.KeyGain(ap.TextKeys((3,)), 3.0)])
    close(run(patched, conds), run(patched, conds, sampler=Sampler(chunks=1)))


@pytest.mark.parametrize(
    ("patch", "same"),
    [
        pytest.param(make_prompt(), True, id="a softmax of its own"),
        pytest.param(make_prompt(shared_softmax=True), True, id="the text's softmax"),
        pytest.param(
            make_prompt(shared_softmax=True, compat="fooocus"),
            False,
            id="the text's, as Fooocus has it",
        ),
        pytest.param(
            ap.NormalizedAttentionGuidance(text(7, 9), scale=8.0, alpha=0.9), True, id="negative"
        ),
    ],
)
def test_others_do_not_notice(model, patch, same):
    """Pictures and negatives weigh the same in one batch as in calls of their own."""
    conds = ([entry(text(7, 1), "cond")], [entry(text(21, 2), "uncond")])
    patched = ap.patch_model(model, patch)
    one, other = run(patched, conds), run(patched, conds, sampler=Sampler(chunks=1))
    assert torch.allclose(one, other, rtol=1e-5, atol=1e-5) == same


def test_a_word_that_a_text_has_not(model):
    conds = ([entry(text(7, 1), "cond")], [entry(text(14, 2), "uncond")])
    patched = ap.patch_model(model, ap.KeyGain(ap.TextKeys((9,)), 2.0))
    with pytest.raises(ValueError, match=r"tokens: expected tokens of a text of 7, got 9"):
        run(patched, conds)


def test_what_repeats_in_a_text():
    one, two, three = text(4, 0), text(6, 1), torch.zeros(1, 12, SD1.context_dim)
    repeated = torch.cat([one.repeat(1, 3, 1), two.repeat(1, 2, 1), three, text(12, 2)])
    assert find_repeats(repeated) == (3, 2, 1, 1)
    assert find_repeats(text(12, 2, batch=2)) == ()
    assert find_repeats(repeated[:1]) == ()  # a row alone is as long as its text


def test_a_cond_that_gave_uncond_its_area_and_identity(model):
    """The host copies a cond for the text of uncond, and both copies have one identity."""
    conds = ([entry(text(7, 1), "same")], [entry(text(14, 2), "same")])
    patched = ap.patch_model(model, ap.KeyGain(ap.TextKeys(WORDS), GAIN))
    close(run(patched, conds), expected(model, conds, {("uncond",): 14, ("cond",): 7}))
