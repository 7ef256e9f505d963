"""A segmentation network applied to scans: probabilities on its own grid, a segmentation on theirs, and how far to
trust it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..alignment.carrying import dice
from ..device import half_precision_is_right, half_type

OVERLAP = 0.5
AT_A_TIME = 4
"""Patches that the network sees at once."""


def half_where_right(device: str) -> AbstractContextManager:
    """Half precision on a CUDA GPU whose 3D convolutions are right in it; nothing elsewhere."""
    kind = _half(device)
    return nullcontext() if kind is None else torch.autocast(device, kind)


@cache
def _half(device: str) -> torch.dtype | None:
    if device != "cuda":
        return None
    # Not float16, whose gradients would have to be scaled.
    kind = half_type()
    return kind if kind == torch.bfloat16 and half_precision_is_right(device, kind) else None


@torch.inference_mode()
def probabilities(network: nn.Module, image: Tensor, patch: Sequence[int]) -> Tensor:
    """Probability of each label, background first, (label_count + 1, *grid) float32, on the CPU.

    :param image: (C, *grid) in [-1, 1]; a grid smaller than the patch is filled up by repeating its edge.
    """
    from monai.inferers import sliding_window_inference

    device = next(network.parameters()).device
    shape = image.shape[1:]
    before = [max(side - own, 0) // 2 for own, side in zip(shape, patch)]
    after = [max(side - own, 0) - first for own, side, first in zip(shape, patch, before)]
    padding = [each for pair in zip(reversed(before), reversed(after)) for each in pair]
    whole = functional.pad(image.float()[None], padding, mode="replicate").to(device)

    def predict(part: Tensor) -> Tensor:
        with half_where_right(device.type):
            return network(part).float().softmax(1)

    if tuple(whole.shape[2:]) == tuple(patch):
        found = predict(whole)
    else:
        found = sliding_window_inference(
            whole, tuple(patch), AT_A_TIME, predict, overlap=OVERLAP, mode="gaussian", device=torch.device("cpu")
        )
    return found[0][(slice(None), *(slice(first, first + own) for first, own in zip(before, shape)))].cpu()


def overlaps(found: np.ndarray, truth: np.ndarray, label_count: int) -> np.ndarray:
    """Dice coefficient of each label, (label_count,); NaN where the truth does not have it."""
    labels = range(1, label_count + 1)
    return np.array([dice(found, truth, label) if (truth == label).any() else np.nan for label in labels])
