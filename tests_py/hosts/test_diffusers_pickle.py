# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""A patched UNet can be pickled, saved whole, and sent to another process."""

import copy
import io
import multiprocessing
import pickle

import pytest
import torch
from attach_case import GUIDED, original, prompt, run
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers_models import CONTEXT, is_original, make_unet

from attnpatch import PerturbedAttentionGuidance, SlothfulAttention
from attnpatch.hosts import attach, patch_model, report
from attnpatch.hosts.diffusers import read_layer_table

STACKS = {
    "prompt": lambda: [prompt()],
    "reduction": lambda: [SlothfulAttention()],
    "both": lambda: [SlothfulAttention(), prompt(), PerturbedAttentionGuidance(2.0)],
}


def saved_whole(unet):
    buffer = io.BytesIO()
    torch.save(unet, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {"pickle": lambda unet: pickle.loads(pickle.dumps(unet)), "torch.save": saved_whole}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", STACKS)
def test_the_copy_computes_the_same(name, way):
    patched = patch_model(original(), STACKS[name](), **GUIDED)
    expected = run(patched)
    assert not torch.equal(expected, run(original()))
    loaded = WAYS[way](patched)
    assert torch.equal(run(loaded), expected)
    assert str(report(loaded)) == str(report(patched))


def test_it_may_be_attached_at_that_time_and_the_copy_is_independent():
    unet = copy.deepcopy(original())
    plain = run(unet)
    attached = attach(unet, prompt(), **GUIDED)
    expected = run(unet)
    loaded = pickle.loads(pickle.dumps(unet))
    attached.detach()
    assert is_original(unet)
    assert torch.equal(run(unet), plain)
    assert torch.equal(run(loaded), expected)
    with attach(loaded, prompt(seed=7)):
        both = run(loaded)
    with attach(unet, [prompt(), prompt(seed=7)], **GUIDED):
        assert torch.equal(run(unet), both)
    assert torch.equal(run(loaded), expected)
    assert torch.equal(run(unet), plain)
    again = pickle.loads(pickle.dumps(copy.deepcopy(loaded)))
    assert torch.equal(run(again), expected)


class Doubled:
    """A processor of someone else's."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        return 2.0 * AttnProcessor2_0()(attn, x, encoder_hidden_states, attention_mask)


def with_ip_adapter_processors(unet):
    """Give cross-attention diffusers' own processors, which are modules with weights."""
    for layer in read_layer_table(unet):
        attn = unet.get_submodule(layer.name).attn2
        attn.set_processor(IPAdapterAttnProcessor2_0(attn.inner_dim, CONTEXT, num_tokens=(4,)))
    return unet


def test_processors_of_others_come_along():
    doubled = copy.deepcopy(original())
    doubled.set_attn_processor(Doubled())
    patched = patch_model(doubled, prompt(), **GUIDED)
    assert torch.equal(run(pickle.loads(pickle.dumps(patched))), run(patched))


def test_weights_of_processors_come_along():
    unet = with_ip_adapter_processors(make_unet())
    patched = patch_model(unet, prompt(), **GUIDED)
    loaded = pickle.loads(pickle.dumps(patched))
    found, expected = loaded.state_dict(), unet.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # The stand-in and what it stands for have one set of weights, in the copy as well.
    for layer in read_layer_table(loaded):
        stand_in = loaded.get_submodule(layer.name).attn2.processor
        stand_in.to_k_ip[0].weight.data.fill_(2.0)
        assert (stand_in.attnpatch_original.to_k_ip[0].weight == 2.0).all()


def test_a_processor_without_a_layer_comes_along_as_what_it_is_of():
    """diffusers makes new processors by the class of those it finds: these have no layer."""
    unet = copy.deepcopy(original())
    with attach(unet, prompt(), **GUIDED):
        expected = run(unet)
        for processor in unet.attn_processors.values():
            assert isinstance(processor, AttnProcessor2_0)
        attn = unet.mid_block.attentions[0].transformer_blocks[0].attn2
        attn.set_processor(type(attn.processor)())
        for loaded in (pickle.loads(pickle.dumps(unet)), copy.deepcopy(unet)):
            assert torch.equal(run(loaded), expected)


def _run_in_child(unet, queue):
    torch.set_num_threads(1)
    queue.put(run(unet).numpy())


@pytest.mark.slow
def test_another_process_gets_it():
    context = multiprocessing.get_context("spawn")
    patched = patch_model(original(), STACKS["both"](), **GUIDED)
    queue = context.Queue()
    child = context.Process(target=_run_in_child, args=(patched, queue))
    child.start()
    found = torch.from_numpy(queue.get(timeout=300))
    child.join()
    assert child.exitcode == 0
    torch.testing.assert_close(found, run(patched), rtol=0, atol=1e-5)


def test_saved_weights_are_those_of_an_unpatched_unet(tmp_path):
    unet = with_ip_adapter_processors(make_unet())
    unet.save_pretrained(tmp_path / "plain")
    patch_model(unet, STACKS["both"](), **GUIDED).save_pretrained(tmp_path / "patched")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "patched").iterdir())
    for name in names:
        plain, patched = ((tmp_path / kind / name).read_bytes() for kind in ("plain", "patched"))
        assert plain == patched, name


def test_what_a_patched_unet_saved_loads_without_patches(tmp_path):
    patch_model(original(), prompt(), **GUIDED).save_pretrained(tmp_path)
    assert torch.equal(run(UNet2DConditionModel.from_pretrained(tmp_path)), run(original()))
