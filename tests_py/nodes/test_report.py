# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
from running import run

from attnpatch.hosts.comfyui.schedule import SigmaSchedule
from attnpatch.hosts.comfyui.unet.install import find_patched_model


def test_report_of_a_patched_model(model, image, raw_adapter, clip_vision):
    (patched,) = run("IPAdapterAdvanced", model=model(), ipadapter=raw_adapter(), image=image(),
                     weight_type="style transfer", clip_vision=clip_vision)  # fmt: skip
    found = run("AttentionPatchesReport", model=patched)
    same, text = found["result"]
    assert same is patched
    assert found["ui"] == {"text": (text,)}
    assert "11 of 16 layers patched" in text
    assert "the weight gives this layer nothing" in text


def test_report_of_a_model_without_patches(model):
    _, text = run("AttentionPatchesReport", model=model())["result"]
    assert "0 of 0 layers patched" in text


def test_nodes_patch_by_comfyuis_own_host(model, image, raw_adapter, clip_vision):
    (patched,) = run("IPAdapterAdvanced", model=model(), ipadapter=raw_adapter(), image=image(),
                     clip_vision=clip_vision)  # fmt: skip
    assert isinstance(find_patched_model(patched).schedule, SigmaSchedule)
