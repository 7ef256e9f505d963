"""What keeps a GPU busy: steps recorded once and replayed, and figures that are read without waiting.

A step of this game is some thousand small operations. Started one by one they leave a GPU idle most of the time; a
CUDA graph starts them all at once (NVIDIA, *CUDA C++ Programming Guide*, "CUDA Graphs"; ``torch.cuda.graph``).
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Hashable

import torch
from torch import Tensor

WARM_UP = 2
"""Times that a function runs as it is before it is recorded: libraries set themselves up in the first."""
SWITCH = "GEDGAN_CUDA_GRAPHS"
"""Environment variable; 0 lets every operation be started on its own, should a driver have trouble with graphs."""

Tensors = dict[str, Tensor]


def steps_to_warm_up(device: str, interval: int) -> int:
    """Steps of a training until they take the time that they are going to: on CUDA until each kind is recorded.

    :param interval: steps from one gradient penalty to the next.
    """
    return 1 + interval * WARM_UP if device == "cuda" else 1


class Recorder:
    """Runs functions of tensors, on CUDA as recorded graphs from the third call with a key on.

    What a function returns of a recorded run is valid until any recorded function runs again, since all recordings
    share their memory.

    :param device: what the functions run on.
    :param enabled: False to run all functions as they are.
    """

    def __init__(self, device: torch.device, enabled: bool = True) -> None:
        self.device = device
        self.enabled = enabled and device.type == "cuda" and os.environ.get(SWITCH, "1") != "0"
        self.refusal: str | None = None
        """Why a function could not be recorded, in the words of PyTorch; None while none was refused."""
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensors, Tensors]] = {}
        self._pool = None

    def run(self, key: Hashable, function: Callable[[Tensors], Tensors], inputs: Tensors) -> Tensors:
        """``function(inputs)``.

        :param key: of the function and all that it depends on besides; the same key, the same shapes of ``inputs``.
        :param inputs: tensors anywhere; the function gets them on :attr:`device`.
        """
        if key in self._recordings:
            graph, kept, outputs = self._recordings[key]
            for name, tensor in inputs.items():
                kept[name].copy_(tensor, non_blocking=True)
            graph.replay()
            return outputs
        # Elsewhere than on CUDA a copy may outrun who lets go of its source.
        there = {
            name: tensor.to(self.device, non_blocking=self.device.type == "cuda") for name, tensor in inputs.items()
        }
        if not self.enabled or self._calls[key] < WARM_UP:
            self._calls[key] += 1
            return function(there)
        if self._recorded(key, function, there):
            return self.run(key, function, inputs)
        gc.collect()
        return function(there)

    def _recorded(self, key: Hashable, function: Callable[[Tensors], Tensors], inputs: Tensors) -> bool:
        """Record, or give up recording for good; whether it was recorded."""
        stream = torch.cuda.current_stream(self.device) if torch.cuda.is_available() else None
        try:
            self._record(key, function, inputs)
        except RuntimeError as error:
            cause = error.__context__ or error  # the end of a recording that was broken off fails too
            self.enabled, self.refusal = False, str(cause).splitlines()[0]
            self._recordings.clear()
            if stream is not None:  # which a recording that fails does not put back
                torch.cuda.set_stream(stream)
            return False
        return True

    def _record(self, key: Hashable, function: Callable[[Tensors], Tensors], inputs: Tensors) -> None:
        kept = {name: tensor.clone() for name, tensor in inputs.items()}
        torch.cuda.synchronize(self.device)
        gc.collect()
        torch.cuda.empty_cache()  # or what the runs before the recording took would stay beside it
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # Other threads read cases meanwhile, into memory that they ask CUDA for.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = function(kept)
        self._recordings[key] = graph, kept, outputs


class Reading:
    """A few numbers on their way from a device: to be read later, without waiting for what it was given since.

    :param numbers: (n,).
    """

    def __init__(self, numbers: Tensor) -> None:
        self._event = None
        if numbers.is_cuda:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._numbers = numbers.detach().clone()

    def take(self) -> list[float]:
        """The numbers; waits until they are here."""
        if self._event is not None:
            self._event.synchronize()
        return self._numbers.tolist()
