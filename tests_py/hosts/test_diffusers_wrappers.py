# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""UNets in wrappers: patched inside, whether they are wrapped before or after."""

import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from attach_case import GUIDED, original, prompt
from diffusers.models.attention import BasicTransformerBlock
from diffusers_models import is_original, make_unet, unet_inputs
from test_diffusers_pipelines import make_pipeline
from test_diffusers_pipelines import run as run_pipeline
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn.parallel import DistributedDataParallel

import attnpatch as ap
from attnpatch.hosts.diffusers import share_weights
from attnpatch.hosts.recognition import diffusers_denoiser

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    # FSDP on a CPU, and torch's own future renamings.
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]


def run(model):
    with torch.no_grad():
        return model(**unet_inputs(original())).sample


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    path = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{path}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def ddp(unet):
    return DistributedDataParallel(unet.requires_grad_(True))


def compiled_ddp(unet):
    return torch.compile(ddp(unet), backend="eager")


def fsdp(unet):
    return FullyShardedDataParallel(unet, device_id=torch.device("cpu"))


def fsdp_by_blocks(unet):
    return FullyShardedDataParallel(
        unet,
        device_id=torch.device("cpu"),
        auto_wrap_policy=ModuleWrapPolicy({BasicTransformerBlock}),
    )


def fully_sharded(unet):
    mesh = init_device_mesh("cpu", (1,))
    for part in list(unet.modules()):
        if isinstance(part, BasicTransformerBlock):
            fully_shard(part, mesh=mesh)
    return fully_shard(unet, mesh=mesh)


STACK = [ap.PerturbedAttentionGuidance(2.0), ap.NearSightedAttention()]
WRAPPERS = [nn.DataParallel, ddp, fsdp, fsdp_by_blocks, fully_sharded]


@pytest.fixture(scope="module")
def expected():
    with ap.attach(original(), [prompt(), *STACK], **GUIDED):
        return run(original())


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("late", [False, True])
def test_wrapped_before_and_after(wrap, late, expected):
    unet = make_unet()
    model = unet if late else wrap(unet)
    handle = ap.attach(model, [prompt(), *STACK], **GUIDED)
    model = wrap(unet) if late else model
    assert diffusers_denoiser(model) is unet
    assert torch.equal(run(model), expected)
    assert ap.attached(model) == handle.stack
    assert handle.in_use
    ap.detach(model)
    assert not handle.attached
    assert torch.equal(run(model), run(original()))
    assert is_original(unet)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", [nn.DataParallel, ddp, compiled_ddp])
def test_a_copy_is_in_no_wrapper(wrap, expected):
    twin = ap.patch_model(wrap(make_unet()), [prompt(), *STACK], **GUIDED)
    assert type(twin) is type(original())
    assert torch.equal(run(twin), expected)


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("wrap", [fsdp, fsdp_by_blocks, fully_sharded])
def test_sharded_weights_are_not_shared(wrap):
    name = "fully_shard" if wrap is fully_sharded else "FullyShardedDataParallel"
    with pytest.raises(TypeError, match=f"model: expected .* sharded by {name}; attach"):
        ap.patch_model(wrap(make_unet()), prompt())


def test_rows_that_are_scattered_are_refused():
    """Each device is given some rows of the batch: which of them are uncond is not known."""
    unet = share_weights(original())
    wrapper = nn.DataParallel(unet)
    wrapper.device_ids = [0, 1]
    for model in (wrapper, torch.compile(wrapper), make_pipeline(unet=unet)):
        if not isinstance(model, nn.Module):
            model.unet = wrapper
        with pytest.raises(TypeError, match=r"model: expected .* DataParallel over 2 devices"):
            ap.attach(model, prompt())
    assert is_original(unet)
    wrapper.device_ids = [0]
    with ap.attach(wrapper, prompt(), **GUIDED) as handle:
        # As replicas are made, of a UNet that was patched before it was wrapped.
        replica = unet._replicate_for_data_parallel()
        with pytest.raises(TypeError, match=r"model: expected .* DataParallel scatters"):
            run(replica)
        assert handle.attached


class Engine(nn.Module):
    """A wrapper of training frameworks: `module` holds the model, whose attributes it hands on."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


def compiled(unet):
    made = torch.compile(unet, backend="eager")
    made.forward = made._orig_mod.__call__  # wrapped alone: other tests compile
    return made


@pytest.mark.parametrize(
    "wraps", [[], [compiled], [Engine], [Engine, compiled], [compiled, Engine]]
)
def test_a_pipeline_whose_unet_is_wrapped(wraps):
    pipeline = make_pipeline()
    with ap.attach(pipeline, [prompt(), *STACK]):
        wanted = run_pipeline(pipeline, num_inference_steps=2)
    unet = pipeline.unet
    for wrap in wraps:
        pipeline.unet = wrap(pipeline.unet)
    with ap.attach(pipeline, [prompt(), *STACK]) as handle:
        assert handle.in_use
        assert torch.equal(run_pipeline(pipeline, num_inference_steps=2), wanted)
    assert is_original(unet)
    patched = ap.patch_model(pipeline, [prompt(), *STACK])
    assert torch.equal(run_pipeline(patched, num_inference_steps=2), wanted)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_what_accelerate_prepared(precision):
    try:
        accelerator = accelerate.Accelerator(cpu=True, mixed_precision=precision)
        prepared, reference = (accelerator.prepare(make_unet()) for _ in range(2))
        handle = ap.attach(prepared, prompt(), **GUIDED)
        out = run(prepared)
        twin = ap.patch_model(reference, prompt(), **GUIDED)
        assert torch.equal(run(twin), out)
        assert out.dtype is torch.float32
        handle.detach()
        plain = run(reference)
        assert torch.equal(run(prepared), plain)
        assert (out - plain).abs().max() > 0.05
        assert (precision == "bf16") != torch.equal(plain, run(original()))
    finally:
        accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.slow
def test_two_processes(tmp_path):
    """Each has rows of its own; the gradients that they share are those of all rows."""
    worker = Path(__file__).with_name("data_parallel_worker.py")
    command = [sys.executable, str(worker), str(tmp_path / "store")]
    workers = [
        subprocess.Popen(
            [*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(said)
