# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""What of a sampler guidance asks for: batching of conditionings, with areas and controls.

It plays the modules ``comfy.samplers`` and ``comfy.conds`` for the small host.
"""

from __future__ import annotations

import functools
import math
import sys
from types import ModuleType, SimpleNamespace

import torch


class Shaped:
    """A conditioning's tensor that is cut like the latent."""

    def __init__(self, cond):
        self.cond = cond

    def at(self, area):
        return cut(self.cond, area)


class Whole:
    """A conditioning's tensor that is handed over as it is."""

    def __init__(self, cond):
        self.cond = cond

    def at(self, area):
        return self.cond


def cut(x, area):
    if area is None:
        return x
    height, width, top, left = area
    return x[:, :, top : top + height, left : left + width]


class Sampler:
    """Runs steps of a patched model.

    Parameters
    ----------
    monkeypatch
        Puts it in the place of ComfyUI's modules.
    chunks
        How many conditionings a call may hold at most.
    first
        Whether uncond (1) or cond (0) comes first.
    """

    def __init__(self, monkeypatch=None, chunks=8, first=1):
        self.chunks = chunks
        self.first = first
        self.calls = []  # for each call of a UNet the kinds that the host gave its chunks
        self.controlled = []  # what controls were given
        if monkeypatch is not None:
            self._stand_in(monkeypatch)

    def _stand_in(self, monkeypatch):
        modules = {"comfy.samplers": self, "comfy.conds": SimpleNamespace(CONDNoiseShape=Shaped)}
        for name, parts in modules.items():
            module = ModuleType(name)
            for part in ("calc_cond_batch", "CONDNoiseShape"):
                if hasattr(parts, part):
                    setattr(module, part, getattr(parts, part))
            monkeypatch.setitem(sys.modules, name, module)

    def calc_cond_batch(self, model, conds, x, sigma, model_options):
        run = wrapped(self._batch, model_options["transformer_options"], "calc_cond_batch")
        return run(model, conds, x, sigma, model_options)

    def _batch(self, model, conds, x, sigma, model_options):
        todo = [(i, entry) for i, entries in enumerate(conds) for entry in entries or ()]
        if self.first:
            todo.reverse()
        results = [torch.zeros_like(x) for _ in conds]
        counts = [torch.full_like(x, 1e-37) for _ in conds]
        while todo:
            alike = [c for c in todo if self._alike(c[1], todo[0][1])][: self.chunks]
            todo = [c for c in todo if not any(c is other for other in alike)]
            outputs = self._run(model, alike, x, sigma, model_options).chunk(len(alike))
            for (i, entry), output in zip(alike, outputs, strict=True):
                cut(results[i], entry.get("area"))[:] += output
                cut(counts[i], entry.get("area"))[:] += 1
        return [result / count for result, count in zip(results, counts, strict=True)]

    def _alike(self, a, b):
        size = [entry.get("area", (0, 0))[:2] for entry in (a, b)]
        return size[0] == size[1] and a.get("control") is b.get("control")

    def _run(self, model, conds, x, sigma, model_options):
        inputs = torch.cat([cut(x, entry.get("area")) for _, entry in conds])
        kinds = [i for i, _ in conds]
        names = conds[0][1]["model_conds"]
        assert all(entry["model_conds"].keys() == names.keys() for _, entry in conds)
        c = {
            name: joined([e["model_conds"][name].at(e.get("area")) for _, e in conds])
            for name in names
        }
        c["transformer_options"] = model_options["transformer_options"] | {
            "cond_or_uncond": list(kinds),
            "uuids": [entry["uuid"] for _, entry in conds],
            "sigmas": sigma,
        }
        self.calls.append(kinds)
        if conds[0][1].get("control"):
            self.controlled.append(inputs)
        timestep = torch.cat([sigma] * len(conds))

        def run_model(x, t, c_concat, c_crossattn, control, transformer_options):
            shape = (-1,) + (1,) * 3
            scaled = x / (1 + t.view(shape) ** 2) ** 0.5
            steps = model.model_sampling.timestep(t)
            options = dict(transformer_options)
            noise = model.diffusion_model(scaled, steps, c_crossattn, transformer_options=options)
            return x - t.view(shape) * noise

        def apply_model(x, t, c_crossattn, transformer_options):
            run = wrapped(run_model, transformer_options, "apply_model")
            return run(x, t, None, c_crossattn, None, transformer_options)

        wrapper = model_options.get("model_function_wrapper")
        if wrapper is None:
            return apply_model(inputs, timestep, **c)
        args = {"input": inputs, "timestep": timestep, "c": c, "cond_or_uncond": kinds}
        return wrapper(apply_model, args)

    @torch.no_grad()
    def step(self, model, x, conds, level=2.0, scale=3.0):
        """Return the guided prediction of a step; conds is (cond, uncond), each of entries."""
        sigma = torch.full((len(x),), level)
        options = model.model_options
        cond, uncond = conds
        if scale == 1.0 and not options.get("disable_cfg1_optimization"):
            uncond = None
        found = self.calc_cond_batch(model.model, [cond, uncond], x, sigma, options)
        result = found[1] + (found[0] - found[1]) * scale if uncond is not None else found[0]
        for function in options.get("sampler_post_cfg_function", ()):
            result = function(
                {
                    "denoised": result,
                    "cond": cond,
                    "uncond": uncond,
                    "cond_scale": scale,
                    "model": model.model,
                    "uncond_denoised": found[1],
                    "cond_denoised": found[0],
                    "sigma": sigma,
                    "model_options": options,
                    "input": x,
                }
            )
        return result


def joined(tensors):
    """Join what chunks have; texts of unlike lengths are repeated until they are equally long."""
    if tensors[0].dim() != 3:
        return torch.cat(tensors)
    tokens = math.lcm(*(tensor.shape[1] for tensor in tensors))
    return torch.cat([tensor.repeat(1, tokens // tensor.shape[1], 1) for tensor in tensors])


def wrapped(function, options, place):
    """Put the wrappers of a place around a function, the first outermost."""
    found = options.get("wrappers", {}).get(place, {})
    for wrapper in reversed([w for ws in found.values() for w in ws]):
        function = functools.partial(wrapper, function)
    return function


def entry(context, uuid, **more):
    """Make one conditioning."""
    return {"model_conds": {"c_crossattn": Whole(context)}, "uuid": uuid, **more}
