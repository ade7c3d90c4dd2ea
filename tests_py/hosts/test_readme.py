# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""The first programs of README and docs/patches.md run as they stand there, with small models."""

import re
from pathlib import Path

import pipeline_zoo as zoo
import pytest
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import attnpatch as ap
from attnpatch.adapters import load_image_adapter

ROOT = Path(__file__).parents[2]
FILES = {
    ("h94/IP-Adapter", "models/image_encoder"): "encoder",
    ("h94/IP-Adapter", "models", "ip-adapter_sd15.safetensors"): "adapter",
}
ENCODER = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 56,
    "projection_dim": 8,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_the_programs_run(tmp_path, monkeypatch):
    pipeline = zoo.make_pipeline("StableDiffusionPipeline")
    texts = [zoo.noise(1, zoo.TOKENS, zoo.CONTEXT, seed=seed) for seed in (7, 8)]
    monkeypatch.setattr(type(pipeline), "encode_prompt", lambda *_, **__: texts)
    asked = []

    def adapter_of(repository, *, subfolder, weight_name):
        asked.append(FILES[repository, subfolder, weight_name])
        return load_image_adapter(zoo.make_adapter_state(pipeline.unet))

    def encoder_of(repository, *, subfolder):
        asked.append(FILES[repository, subfolder])
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**ENCODER)).eval()

    monkeypatch.setattr(ap, "load_image_adapter", adapter_of)
    monkeypatch.setattr("transformers.CLIPVisionModelWithProjection.from_pretrained", encoder_of)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "teal").save("picture.png")
    names = {"pipeline": pipeline}
    for page in ("README.md", "docs/patches.md"):  # the second goes on where the first ends
        text = (ROOT / page).read_text(encoding="utf-8")
        program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        exec(compile(program, page, "exec"), names)
    assert asked == ["encoder", "adapter"]
    assert not names["prompt"].keys_values.requires_grad
    assert names["image"].size == (zoo.SIZE, zoo.SIZE)
    assert names["attachment"].report.matched
    assert list(ap.attached(names["patched"])) == [names["prompt"]]
    assert not ap.attached(pipeline)
