# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""LoRA and ControlNets beside gains and guidance, in every family of transformers."""

import pytest
import torch
from dense_bias import dense, spans_of
from joint_guidance import (
    doubled,
    guided,
    negative_of,
    patch,
    run,
    tokens_beside,
)
from transformer_models import CASES, REFERENCES

import attnpatch as ap
from attnpatch.patches import KeyGain, TextKeys

pytestmark = [
    pytest.mark.filterwarnings("ignore:`FluxPosEmbed`:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight:UserWarning"),
]
BATCH = 2
# The argument that holds a ControlNet's residuals, and how many of them there are.
CONTROLS = {
    "ChromaTransformer2DModel": {
        "controlnet_block_samples": 1,
        "controlnet_single_block_samples": 2,
    },
    "FluxTransformer2DModel": {"controlnet_block_samples": 2, "controlnet_single_block_samples": 2},
    "QwenImageTransformer2DModel": {"controlnet_block_samples": 2},
    "SD3Transformer2DModel": {"block_controlnet_hidden_states": 3},
    "ZImageTransformer2DModel": {"controlnet_block_samples": 2},
}


def rand(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def with_lora(model):
    peft = pytest.importorskip("peft")
    model.add_adapter(peft.LoraConfig(r=2, target_modules=r".*(to_q|to_k|to_v|to_out\.0)$"))
    seeds = [name for name, _ in model.named_parameters() if "lora_B" in name]
    assert seeds
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = rand(*parameter.shape, seed=seeds.index(name))
    return model


def with_control(name, case, arguments):
    """The arguments of a call with a ControlNet's residuals."""
    tokens = sum(
        count for part, count in case.order(REFERENCES[: 2 * case.references]) if part != "text"
    )
    if name == "ZImageTransformer2DModel":
        tokens = sum(count for _, count in case.order())
    more = {}
    for place, (argument, count) in enumerate(CONTROLS[name].items()):
        residuals = [rand(BATCH, tokens, 32, seed=10 * place + i) for i in range(count)]
        zimage = name == "ZImageTransformer2DModel"
        more[argument] = dict(enumerate(residuals)) if zimage else residuals
    return {**arguments, **more}


def check(case, model, arguments, more=lambda rows: {}):
    """Compare a gain, and guidance, with the model's own attention changed by hand."""
    references = REFERENCES if case.references else ()
    order = case.order(references)
    spans, tokens = spans_of(order), sum(count for _, count in order)

    def gains(batch, _):
        factors = torch.ones(batch, tokens, tokens)
        factors[:, spans["image"], spans["text"].start + 1] = 5.0
        return factors, None

    given = {**arguments, **more(list(range(BATCH)))}
    plain = run(model, given)
    with dense(tokens, tokens, gains):
        right = run(model, given)
    with ap.attach(model, KeyGain(TextKeys((1,)), 5.0), cond_or_uncond=(0,)):
        torch.testing.assert_close(run(model, given), right, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(right, plain, atol=1e-3)
    negative = negative_of(arguments)
    total, beside = tokens_beside(case, references)
    rows = [0, 1]
    by_hand = {**doubled(arguments, negative, BATCH, rows), **more([0, 1, 0, 1])}
    with guided(total, beside, [(0, 2), (1, 3)]):
        right = run(model, by_hand)[:BATCH]
    with ap.attach(model, patch(negative), cond_or_uncond=(0,)):
        torch.testing.assert_close(run(model, given), right, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(right, plain, atol=1e-3)
    return plain


@pytest.mark.parametrize("name", CASES)
def test_lora(name):
    case = CASES[name]
    model = case.make()
    arguments = case.arguments(BATCH, REFERENCES if case.references else ())
    before = run(model, arguments)
    assert not torch.allclose(check(case, with_lora(model), arguments), before, atol=1e-3)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_controlnet(name):
    case = CASES[name]
    model = case.make()
    arguments = case.arguments(BATCH, REFERENCES if case.references else ())
    control = with_control(name, case, arguments)

    def more(rows):
        def of(value):
            if isinstance(value, dict):
                return {key: of(item) for key, item in value.items()}
            return [of(item) for item in value] if isinstance(value, list) else value[rows]

        return {argument: of(control[argument]) for argument in CONTROLS[name]}

    before = run(model, arguments)
    assert not torch.allclose(check(case, model, arguments, more), before, atol=1e-3)
