"""Batches of cases, fetched while the step before is still being computed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..volumes.pipeline import WorkingCase, coarse_of, seen_voxels

AHEAD = 2
"""Batches that are fetched before they are asked for."""


@dataclass(frozen=True)
class Batch:
    """Cases as they lie in memory, on the CPU.

    :param images: (N, C, *grid) float32 in [-1, 1].
    :param labels: (N, *grid) uint8; zeros where there are none.
    :param labelled: (N,) bool.
    :param classes: (N,) index of the class, -1 where it is not known.
    :param starts: (N, D) first voxels of the parts, where cases are looked at in parts. Then ``images`` and ``labels``
        are those of the coarse whole, the latter shares (N, labels + 1, *grid / 4), and these are of the parts:
    :param part_images: (N, C, *part).
    :param part_labels: (N, *part) uint8.
    :param fields: (N, D, 2) first and last voxel that the scan saw along each axis, where that is asked for.
    """

    images: Tensor
    labels: Tensor
    labelled: Tensor
    classes: Tensor
    starts: Tensor | None = None
    part_images: Tensor | None = None
    part_labels: Tensor | None = None
    fields: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def pinned(self) -> Batch:
        """The same in memory from which a GPU copies while other work goes on."""
        return replace(self, **{name: value.pin_memory() for name, value in self.tensors().items()})


class Loader:
    """Gives the batch of a step; with workers, the next ones are read meanwhile.

    Reading is copying from mapped files, during which other threads run, so threads are enough: they work everywhere,
    Slicer and Windows included. What a batch holds does not depend on how many there are.

    :param choose: step -> indices of its cases.
    :param class_names: whose positions :attr:`Batch.classes` tells.
    :param workers: threads; 0 reads when the batch is asked for.
    :param part: voxels of a part, where cases are looked at in parts.
    :param starts: step -> first voxels of the parts of its cases.
    :param label_count: labels without background.
    :param with_fields: whether batches tell what the scans saw.
    :param pinned: whether batches are for a GPU, see :meth:`Batch.pinned`.
    """

    def __init__(
        self,
        cases: Sequence[WorkingCase],
        choose: Callable[[int], Tensor],
        class_names: Sequence[str] = (),
        workers: int = 1,
        part: Sequence[int] | None = None,
        starts: Callable[[int], Tensor | None] = lambda step: None,
        label_count: int = 0,
        pinned: bool = False,
        with_fields: bool = False,
    ) -> None:
        self._cases = cases
        self._choose, self._starts = choose, starts
        self._part, self._label_count, self._pinned = part, label_count, pinned
        self._with_fields = with_fields
        self._class_index = {name: index for index, name in enumerate(class_names)}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cases") if workers else None
        self._pending: OrderedDict[int, Future[Batch]] = OrderedDict()
        self.waited = 0.0
        """Seconds that steps have waited for their cases."""

    def batch(self, step: int) -> Batch:
        """The cases of ``step``."""
        start = time.perf_counter()
        batch = self._batch(step)
        self.waited += time.perf_counter() - start
        return batch

    def _batch(self, step: int) -> Batch:
        if self._pool is None:
            return self.read(self._choose(step), self._starts(step))
        for ahead in range(step, step + 1 + AHEAD):
            if ahead not in self._pending:
                self._pending[ahead] = self._pool.submit(self.read, self._choose(ahead), self._starts(ahead))
        result = self._pending.pop(step).result()
        for earlier in [number for number in self._pending if number < step]:
            del self._pending[earlier]
        return result

    def read(self, chosen: Tensor, starts: Tensor | None = None) -> Batch:
        """The cases with these indices; of their fine voxels the parts that begin at ``starts``, or none."""
        batch = self._read(chosen, starts)
        return batch.pinned() if self._pinned else batch

    def _read(self, chosen: Tensor, starts: Tensor | None) -> Batch:
        cases = [self._cases[int(index)] for index in chosen]
        about = {
            "labelled": torch.tensor([case.labels is not None for case in cases]),
            "classes": torch.tensor([self._class_index.get(case.class_name, -1) for case in cases]),
        }
        if self._with_fields:
            about["fields"] = torch.from_numpy(np.stack([seen_voxels(case) for case in cases]))
        if self._part is None:
            return Batch(*self._stacked(cases, [()] * len(cases)), **about)
        coarse = [case.coarse or coarse_of(case, self._label_count) for case in cases]
        images, labels = (torch.from_numpy(np.stack(arrays)) for arrays in zip(*coarse))
        if starts is None:
            return Batch(images, labels, **about)
        places = [
            tuple(slice(first, first + side) for first, side in zip(start, self._part)) for start in starts.tolist()
        ]
        part_images, part_labels = self._stacked(cases, places)
        return Batch(images, labels, **about, starts=starts, part_images=part_images, part_labels=part_labels)

    @staticmethod
    def _stacked(cases: Sequence[WorkingCase], places: Sequence[tuple[slice, ...]]) -> tuple[Tensor, Tensor]:
        images = [case.image[(slice(None), *place)] for case, place in zip(cases, places)]
        labels = [
            np.zeros(image.shape[1:], np.uint8) if case.labels is None else case.labels[place]
            for case, image, place in zip(cases, images, places)
        ]
        return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))

    def close(self) -> None:
        """Let go of the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
