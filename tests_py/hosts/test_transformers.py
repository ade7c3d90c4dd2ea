# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Key gains in every family of transformers, against a dense bias in the host's own attention."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from dense_bias import dense, spans_of
from transformer_models import CASES, GRID, REFERENCES, TEXT

import attnpatch as ap
from attnpatch.engine import Span, Tokens
from attnpatch.hosts.diffusers.transformer.families import FAMILIES
from attnpatch.hosts.recognition import TRANSFORMERS
from attnpatch.patches import KeyGain, ReferenceKeys, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]
WITH_REFERENCES = [name for name, case in CASES.items() if case.references]


@pytest.fixture(scope="module", params=list(CASES))
def named(request):
    case = CASES[request.param]
    return request.param, case, case.make()


def same(one, other):
    """Whether results are the same, but for what a library does by where memory lies."""
    return torch.allclose(one, other, rtol=1e-6, atol=1e-6)


def run(model, arguments):
    with torch.no_grad():
        out = model(**arguments, return_dict=False)[0]
    return torch.stack(out) if isinstance(out, list) else out


def in_sequence(case, references, gains_of):
    """Gains (batch, queries, keys) by what `gains_of` does with (gains, spans, row)."""
    order = case.order(references)
    spans, tokens = spans_of(order), sum(count for _, count in order)

    def gains(batch, _):
        factors = torch.ones(batch, tokens, tokens)
        for row in range(batch):
            gains_of(factors[row], spans, row)
        return factors, None

    return tokens, tokens, gains


def test_the_families_are_those_that_are_recognised():
    assert set(FAMILIES) == set(TRANSFORMERS) == set(CASES)


def test_without_a_gain_nothing_changes(named):
    _, case, model = named
    arguments = case.arguments(2, REFERENCES if case.references else ())
    plain = run(model, arguments)
    with ap.attach(model, KeyGain(TextKeys(), 1.0)):
        assert same(run(model, arguments), plain)
    assert same(run(model, arguments), plain)


@pytest.mark.parametrize("gain", [0.0, 0.3, 4.0])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_words(named, gain, batch):
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(batch, references)
    expected = in_sequence(case, references, lambda f, s, _: give_two_words(f, s, gain))
    with ap.attach(model, KeyGain(TextKeys((1, 3)), gain), cond_or_uncond=(0,)):
        found = run(model, arguments)
    with dense(*expected) as calls:
        right = run(model, arguments)
    assert len(calls) == len(FAMILIES[type(model).__name__].layer_table(model))
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(right, run(model, arguments), atol=1e-3)


def give_two_words(factors, spans, gain):
    text = spans["text"].start
    for key in (text + 1, text + 3):
        factors[spans["image"], key] = gain


@pytest.mark.parametrize("name", WITH_REFERENCES)
@pytest.mark.parametrize("index", [0, 1, None])
def test_references_their_parts_and_soft_masks(name, index):
    case = CASES[name]
    model = case.make()
    arguments = case.arguments(2, REFERENCES)
    part = torch.zeros(8, 8)
    part[:4] = 1
    mask = torch.rand(2, 10, 6, generator=torch.Generator().manual_seed(3))
    patch = KeyGain(ReferenceKeys(index, part), 3.0, mask=mask, weight=0.5, uncond=True)
    inside = F.interpolate(mask[:, None], size=GRID, mode="area").flatten(1)

    def gains_of(factors, spans, row):
        for place in range(2) if index is None else (index,):
            span = spans[f"reference {place}"]
            rows, columns = REFERENCES[place]
            chosen = F.interpolate(part[None, None], size=(rows, columns), mode="area").flatten()
            keys = [span.start + k for k in (chosen > 0.5).nonzero().flatten().tolist()]
            gain = 1 + 0.5 * (1 + inside[row] * 2.0 - 1)
            for key in keys:
                factors[spans["image"], key] = gain

    with ap.attach(model, patch):
        found = run(model, arguments)
    with dense(*in_sequence(case, REFERENCES, gains_of)):
        right = run(model, arguments)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_uncond_rows_keep_their_words(named):
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(2, references)
    plain = run(model, arguments)
    with ap.attach(model, KeyGain(TextKeys((0,)), 5.0), cond_or_uncond=(1, 0)):
        found = run(model, arguments)
    torch.testing.assert_close(found[0], plain[0], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(found[1], plain[1], atol=1e-4)


def test_several_gains_and_values(named):
    """Terms add up; values of words push away, for the image's tokens or for all."""
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(1, references)
    order = case.order(references)
    spans, tokens = spans_of(order), sum(count for _, count in order)
    text = spans["text"].start

    def gains(batch, _):
        factors, values = torch.ones(2, batch, tokens, tokens)
        factors[:, :, text] = 2.0
        values[:, :, text] = -0.5
        factors[:, spans["image"], text + 2] *= 0.25
        values[:, spans["image"], text + 2] = 3.0
        return factors, values

    patches = [
        KeyGain(TextKeys((0,)), 2.0, value_gain=-0.5, rows="all"),
        KeyGain(TextKeys((2,)), 0.25, value_gain=3.0),
    ]
    with ap.attach(model, patches, cond_or_uncond=(0,)):
        found = run(model, arguments)
    with dense(tokens, tokens, gains):
        right = run(model, arguments)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


def test_gains_of_values_are_multiplied_where_they_meet(named):
    """Two in parts of the image, one everywhere: some words are of two of them, one of all."""
    _, case, model = named
    arguments = case.arguments(1)
    order = case.order(())
    spans, tokens = spans_of(order), sum(count for _, count in order)
    text, image = spans["text"].start, spans["image"]
    left, top = torch.zeros(2, 1, *GRID)
    left[..., : GRID[1] // 2], top[:, : GRID[0] // 2] = 1, 1

    def gains(batch, _):
        values = torch.ones(batch, tokens, tokens)
        for mask, words, gain in ((left, (0, 1, 2), -1.0), (top, (1, 2), 3.0)):
            for key in words:
                values[:, image, text + key] *= 1 + (gain - 1) * mask.flatten()
        values[:, :, text + 2] *= 0.5
        return torch.ones(batch, tokens, tokens), values

    patches = [
        KeyGain(TextKeys((0, 1, 2)), value_gain=-1.0, mask=left),
        KeyGain(TextKeys((1, 2)), value_gain=3.0, mask=top),
        KeyGain(TextKeys((2,)), value_gain=0.5, rows="all"),
    ]
    with ap.attach(model, patches, cond_or_uncond=(0,)):
        found = run(model, arguments)
    with dense(tokens, tokens, gains):
        right = run(model, arguments)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(right, run(model, arguments), atol=1e-3)


def test_layers_and_windows(named):
    """A weight by blocks, and a window that is over."""
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(1, references)
    table = FAMILIES[type(model).__name__].layer_table(model)
    plain = run(model, arguments)
    late = KeyGain(TextKeys((0,)), 5.0, start=0.5)  # sampling is a quarter through
    with ap.attach(model, late, cond_or_uncond=(0,)):
        assert same(run(model, arguments), plain)
    early = KeyGain(TextKeys((0,)), 5.0, end=0.5)
    with ap.attach(model, early, cond_or_uncond=(0,)):
        everywhere = run(model, arguments)
    assert not torch.allclose(everywhere, plain, atol=1e-4)
    block = table[0].block
    first = KeyGain(TextKeys((0,)), 5.0, weight={f"{block}.0": 1.0})
    with ap.attach(model, first, cond_or_uncond=(0,)) as attached:
        some = run(model, arguments)
        assert [layer.index for layer in attached.report.matched] == [0]
    assert not torch.allclose(some, everywhere, atol=1e-5)
    assert not torch.allclose(some, plain, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes(named, dtype):
    _, case, model = named
    references = REFERENCES if case.references else ()
    arguments = case.arguments(1, references)
    cast = {
        name: value.to(dtype)
        if torch.is_tensor(value) and value.is_floating_point() and "ids" not in name
        else value
        for name, value in arguments.items()
    }
    for name in ("x", "cap_feats"):
        if name in cast:
            cast[name] = [value.to(dtype) for value in cast[name]]
    model = copy.deepcopy(model).to(dtype)
    patch = KeyGain(TextKeys((1, 3)), 4.0)
    expected = in_sequence(case, references, lambda f, s, _: give_two_words(f, s, 4.0))
    with ap.attach(model, patch, cond_or_uncond=(0,)):
        found = run(model, cast)
    with dense(*expected):
        right = run(model, cast)
    bound = 4 * torch.finfo(dtype).eps * float(right.float().abs().max())
    assert float((found.float() - right.float()).abs().max()) <= 8 * bound


def test_report_names_layers_and_spans(named):
    name, _, model = named
    with ap.attach(model, KeyGain(TextKeys((0,)), 2.0)):
        text = str(ap.report(model))
    assert f"{len(FAMILIES[name].layer_table(model))} of" in text
    assert "text" in text and "image" in text
    assert ("reference" in text) == (name != "SD3Transformer2DModel")


def test_what_a_call_has_not_is_an_error(named):
    _, case, model = named
    arguments = case.arguments(1)

    def refused(patch, message, arguments, **options):
        with ap.attach(model, patch, **options), pytest.raises(ValueError, match=message):
            run(model, arguments)

    references = KeyGain(ReferenceKeys(0), 2.0)
    refused(references, "expected reference tokens in the call of the", arguments)
    words = KeyGain(TextKeys((TEXT,)), 2.0)
    refused(words, f"of a text of {TEXT}, got {TEXT}", arguments, cond_or_uncond=(0,))
    refused(words, "cond_or_uncond: expected to be told", arguments)
    if case.references:
        third = KeyGain(ReferenceKeys(2), 2.0)
        message = "of index 2, got a call with 2 references"
        refused(third, message, case.arguments(1, REFERENCES))


def test_a_patch_for_unets_is_refused(named):
    name, _, model = named
    before = type(model.get_submodule(FAMILIES[name].layer_table(model)[0].name).processor)
    with pytest.raises(TypeError, match=f"joint attention of a {name}, which are KeyGain"):
        ap.attach(model, ap.PerturbedAttentionGuidance())
    after = type(model.get_submodule(FAMILIES[name].layer_table(model)[0].name).processor)
    assert after is before


def test_copies_and_files_keep_the_gain(named, tmp_path):
    _, case, model = named
    arguments = case.arguments(1)
    patch = KeyGain(TextKeys((0,)), 5.0, mask=torch.rand(4, 4), start=0.1)
    twin = ap.patch_model(model, patch, cond_or_uncond=(0,))
    patched = run(twin, arguments)
    plain = run(model, arguments)
    assert not torch.allclose(patched, plain, atol=1e-4)
    assert same(run(pickle.loads(pickle.dumps(twin)), arguments), patched)
    assert same(run(copy.deepcopy(twin), arguments), patched)
    stack = ap.attached(twin)
    stack.save(tmp_path / "stack.safetensors")
    assert ap.PatchStack.load(tmp_path / "stack.safetensors") == stack
    ap.detach(twin)
    assert same(run(twin, arguments), plain)


def test_an_unknown_transformer_is_named():
    class OtherTransformer2DModel(torch.nn.Module):
        pass

    with pytest.raises(TypeError, match=r"FluxTransformer2DModel.*got .*OtherTransformer2DModel"):
        ap.attach(OtherTransformer2DModel(), KeyGain(TextKeys(), 2.0))


def test_layered_images_are_refused():
    """Their layers stand where references do in other models of the family."""
    case = CASES["QwenImageTransformer2DModel"]
    config = {**case.make().config, "use_layer3d_rope": True, "_use_default_values": []}
    model = type(case.make()).from_config(config).eval()
    arguments = case.arguments(1, (GRID, REFERENCES[0]))
    run(model, arguments)
    message = "img_shapes: expected an image of one layer"
    with ap.attach(model, KeyGain(ReferenceKeys(0), 2.0)), pytest.raises(ValueError, match=message):
        run(model, arguments)


def test_texts_of_other_lengths_in_one_call():
    """Z-Image: a gain is for the words of its own row, whatever text another row has."""
    case = CASES["ZImageTransformer2DModel"]
    model, arguments = case.make(), case.arguments(1)
    (short,), (x,) = arguments["cap_feats"], arguments["x"]
    long = torch.randn(40, 12, generator=torch.Generator().manual_seed(5))

    def outputs(texts, patch, kinds):
        given = {"x": [x] * len(texts), "t": torch.full((len(texts),), 0.25), "cap_feats": texts}
        with ap.attach(model, patch, cond_or_uncond=kinds):
            return run(model, given)

    for keys in (TextKeys(), TextKeys((0, 3))):
        patch = KeyGain(keys, 0.1)
        alone = outputs([short], patch, (0,))[0]
        beside = outputs([short, long], patch, (0, 1))[0]
        torch.testing.assert_close(beside, alone, rtol=1e-5, atol=1e-5)
    whole = KeyGain(TextKeys(), 0.1)
    both = outputs([short, long], whole, (0,))
    for row, text in enumerate((short, long)):
        alone = outputs([text], whole, (0,))[0]
        torch.testing.assert_close(both[row], alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=f"of a text of {TEXT}, got 20"):
        outputs([short, long], KeyGain(TextKeys((20,)), 0.1), (0,))
    outputs([short, long], KeyGain(TextKeys((20,)), 0.1), (1, 0))


def test_a_sequence_of_other_sizes_is_found_out(named, monkeypatch):
    """Were the tokens of a call others than we think, nothing would be patched."""
    name, case, model = named
    family = FAMILIES[name]
    original = type(family).sequence

    def longer(self, model, arguments):
        found = original(self, model, arguments)
        span = Span("padding", found.attentions[0][0].count, found.attentions[0][0].count + 1)
        tokens = Tokens((*found.attentions[0][0].spans, span))
        return replace(found, attentions=((tokens, tokens),))

    monkeypatch.setattr(type(family), "sequence", longer)
    with (
        ap.attach(model, KeyGain(TextKeys((0,)), 2.0), cond_or_uncond=(0,)),
        pytest.raises(RuntimeError, match=r"patched attention layers of .* attended to \d+ ×"),
    ):
        run(model, case.arguments(1))
