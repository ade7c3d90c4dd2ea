# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Hosts are recognised without importing them."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnpatch.hosts import attach, attached, detach, patch_model, report
from attnpatch.hosts.recognition import (
    described,
    diffusers_denoiser,
    is_kind_of,
    unwrapped,
    wrapping,
)

UNET = SimpleNamespace(
    **dict.fromkeys(("down_blocks", "mid_block", "up_blocks", "set_attn_processor"))
)


def test_a_unet_is_told_by_its_blocks():
    compiled = SimpleNamespace(_orig_mod=UNET)
    for model in (UNET, compiled, SimpleNamespace(unet=UNET), SimpleNamespace(unet=compiled)):
        assert diffusers_denoiser(model) is UNET
    controlnet = SimpleNamespace(down_blocks=None, mid_block=None, set_attn_processor=None)
    for model in (controlnet, SimpleNamespace(unet=None), None, 3):
        assert diffusers_denoiser(model) is None


@given(st.lists(st.sampled_from(["_orig_mod", "module"]), max_size=5))
def test_a_unet_is_found_in_any_wrappers(names):
    wrapped = UNET
    for name in names:
        wrapped = SimpleNamespace(**{name: wrapped})
    assert unwrapped(wrapped) is UNET
    assert diffusers_denoiser(wrapped) is UNET
    assert diffusers_denoiser(SimpleNamespace(unet=wrapped)) is UNET
    assert len(list(wrapping(wrapped))) == len(names) + 1


def test_a_wrapper_of_itself_ends():
    wrapper = SimpleNamespace()
    wrapper.module = wrapper
    assert unwrapped(wrapper) is wrapper


def test_kinds_are_told_by_the_names_of_classes():
    class Base:
        pass

    class Derived(Base):
        pass

    assert is_kind_of(Derived(), "Other", "Base")
    assert not is_kind_of(Base(), "Derived")


@pytest.mark.parametrize("unet", [None, SimpleNamespace(weights=1)])
def test_a_pipeline_without_a_unet_is_named_in_the_error(unet):
    pipeline = SimpleNamespace(unet=unet)
    name = "None" if unet is None else "a SimpleNamespace"
    assert described(pipeline) == f"types.SimpleNamespace, whose unet is {name}"
    for function in (attached, detach, report):
        with pytest.raises(TypeError, match=f"model: expected .*whose unet is {name}"):
            function(pipeline)
    for function in (attach, patch_model):
        with pytest.raises(TypeError, match=f"model: expected .*whose unet is {name}"):
            function(pipeline, [])


def test_importing_the_package_imports_no_host_and_no_compiler():
    program = "import sys, attnpatch; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert not {"diffusers", "transformers", "torch._dynamo"} & set(found.stdout.split())
