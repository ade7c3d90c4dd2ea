# SPDX-FileCopyrightText: 2026 The attnpatch authors
# SPDX-License-Identifier: Apache-2.0
"""Several calls of UNets side by side: each goes on by one block, then it is the next one's turn.

What disturbs a busy machine lasts longer than a block, and so it disturbs all of them alike.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

SamplingClock = Callable[[], float]

_TRANSFORMER = "BasicTransformerBlock"
_BLOCKS = (_TRANSFORMER, "ResBlock", "ResnetBlock2D")


@dataclass
class SelfAttention:
    """One self-attention: all between its two norms but the projections of queries and output."""

    block: str
    """The block's name in its UNet."""
    tokens: int
    channels: int
    heads: int
    seconds: float = 0.0
    projections: float = 0.0
    """Of these, the projections of keys and values."""


@dataclass
class Times:
    """What one call took."""

    seconds: float = 0.0
    sites: list[SelfAttention] = field(default_factory=list)

    @property
    def attention(self) -> float:
        """Seconds of all self-attention."""
        return sum(site.seconds for site in self.sites)


def _projections(transformer: Any) -> tuple[nn.Module, ...]:
    attention = transformer.attn1
    return attention.to_q, attention.to_k, attention.to_v, attention.to_out[0]


class Lane(threading.Thread):
    """One call in a thread of its own, which runs when it is its turn."""

    def __init__(
        self, call: Callable[[], Tensor], clock: SamplingClock, names: dict[int, str]
    ) -> None:
        super().__init__(daemon=True)
        self.times = Times()
        self.error: BaseException | None = None
        self.over = False
        self._call, self._clock, self._names = call, clock, names
        self._turn, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._threads = torch.get_num_threads()
        self._since = 0.0
        self._transformer: Any = None
        self._site: SelfAttention | None = None

    def go_on(self) -> None:
        """Let it run to its next block; called from outside."""
        self._turn.release()
        self._waits.acquire()
        if self.error is not None:
            raise self.error

    def run(self) -> None:
        """Make the call."""
        self._turn.acquire()
        torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                self._since = self._clock()
                self._call()
                self._take()
        except BaseException as error:
            self.error = error
        self.over = True
        self._waits.release()

    def before(self, module: nn.Module) -> None:
        """See what begins."""
        transformer = self._transformer
        if type(module).__name__ in _BLOCKS:
            self._wait()
            if type(module).__name__ == _TRANSFORMER:
                self._transformer = module
        elif transformer is None:
            return
        elif module is transformer.norm2:
            self._take()
            self._site = self._transformer = None
            self._wait()
        elif module in _projections(transformer):
            self._take()

    def after(self, module: nn.Module, states: Tensor) -> None:
        """See what has ended."""
        transformer = self._transformer
        if transformer is None:
            return
        if module is transformer.norm1:
            self._take()
            name, heads = self._names[id(transformer)], transformer.attn1.heads
            self._site = SelfAttention(name, states.shape[1], states.shape[2], heads)
            self.times.sites.append(self._site)
        elif module in (transformer.attn1.to_q, transformer.attn1.to_out[0]):
            self._take(attention=False)
        elif self._site is not None and module in _projections(transformer):
            before = self._site.seconds
            self._take()
            self._site.projections += self._site.seconds - before

    def _take(self, attention: bool = True) -> None:
        """Add the time since the last one."""
        now = self._clock()
        self.times.seconds += now - self._since
        if attention and self._site is not None:
            self._site.seconds += now - self._since
        self._since = now

    def _wait(self) -> None:
        self._take()
        self._waits.release()
        self._turn.acquire()
        self._since = self._clock()


def run(
    calls: dict[str, Callable[[], Tensor]], unets: list[nn.Module], clock: SamplingClock
) -> dict[str, Times]:
    """Make each call once, in turns.

    Parameters
    ----------
    calls
        Of UNets of one structure.
    unets
        The UNets that they call.
    clock
        Gives seconds.

    Returns
    -------
    dict of str to Times
        What each took.
    """
    names = {
        id(module): name
        for unet in unets
        for name, module in unet.named_modules()
        if type(module).__name__ == _TRANSFORMER
    }
    lanes = {name: Lane(call, clock, names) for name, call in calls.items()}

    def running() -> Any:
        return threading.current_thread()

    handles = (
        hooks.register_module_forward_pre_hook(lambda module, _: running().before(module)),
        hooks.register_module_forward_hook(lambda module, _, out: running().after(module, out)),
    )
    order = random.Random(0)
    try:
        for lane in lanes.values():
            lane.start()
        going = list(lanes.values())
        while going:
            # Who comes first finds the block's weights out of the caches: each of them at times.
            order.shuffle(going)
            for lane in going:
                lane.go_on()
            going = [lane for lane in going if not lane.over]
    finally:
        for handle in handles:
            handle.remove()
    return {name: lane.times for name, lane in lanes.items()}
