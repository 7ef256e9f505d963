"""Feature vectors of cases, from an encoder trained on the real training cases alone.

No weights are downloaded: networks trained on photographs judge medical volumes unreliably (Woodland et al., MICCAI
2024), and many users work without a network. The encoder is the descending half of a U-Net that has learned to segment
the real training cases; mean and standard deviation of its maps over the voxels, at every level, are the features,
standardised and projected to the first principal components of the real training cases. The components keep their
variances: scaled to equal ones, the smallest, which are hardly more than rounding, would count like the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..segmentation.learner import Recipe
from ..segmentation.pairs import BATCH, Pairs, coarsened, coarsened_pairs, train_segmenter
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase

COMPONENTS = 32
"""Most principal components that are kept; fewer where there are few cases."""
FEWEST_PAIRS = 4
RECIPE = Recipe((), 0, batch=8, learning_rate=5e-3, normalisation="batch")
"""How the encoder is trained: statistics of a batch keep how bright a case is in the features, and ask for many."""
INTENSITY_CLASSES = 4
"""Of the pseudo-segmentation that an encoder learns where there are no labels."""


class Encoder:
    """Images -> features; made by :meth:`train`.

    :param network: trained to segment.
    :param reference: images of the real training cases, (N, C, *grid); they fix the standardisation.
    """

    def __init__(self, network: nn.Module, reference: Tensor) -> None:
        self.network = network
        raw = self._raw(reference)
        self._mean, self._scale = raw.mean(0), raw.std(0) + 1e-6
        standard = (raw - self._mean) / self._scale
        _, values, components = np.linalg.svd(standard, full_matrices=False)
        kept = min(COMPONENTS, len(reference) // 4 + 1, len(components))
        self._components = components[:kept].T / np.sqrt((values[:kept] ** 2).mean() / len(reference))

    @classmethod
    def train(
        cls,
        pairs: Pairs,
        label_count: int,
        steps: int = 400,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress = quiet,
    ) -> Encoder:
        """Train the encoder on real training cases."""
        network = train_segmenter(pairs, label_count, steps, seed, device, RECIPE, progress=progress)
        return cls(network, pairs.images)

    def __call__(self, images: Tensor) -> np.ndarray:
        """Features of ``images`` (N, C, *grid), (N, d) float64, of mean variance 1 over the real training cases."""
        return (self._raw(images) - self._mean) / self._scale @ self._components

    @torch.inference_mode()
    def _raw(self, images: Tensor) -> np.ndarray:
        maps: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda module, inputs, output: maps.append(output))
            for layer in (self.network.input_block, *self.network.downsamples, self.network.bottleneck)
        ]
        device = next(self.network.parameters()).device
        features = []
        for part in images.split(16):
            maps.clear()
            self.network(part.to(device))
            flat = [level.flatten(2) for level in maps]
            features.append(torch.cat([*(level.mean(2) for level in flat), *(level.std(2) for level in flat)], 1).cpu())
        for handle in handles:
            handle.remove()
        return torch.cat(features).double().numpy()


Encode = Callable[[Sequence[np.ndarray]], np.ndarray]
"""N images (C, *grid) -> features (N, d)."""


def encoder_for(
    training: Sequence[WorkingCase], label_count: int, steps: int, seed: int, device: str, progress: Progress = quiet
) -> tuple[Encode, str]:
    """An encoder that was trained on the training cases, and its kind in words."""
    labelled = [case for case in training if case.labels is not None and label_count]
    if len(labelled) >= FEWEST_PAIRS:
        known, classes = labelled, label_count
        kind = f"the encoder of a U-Net that learned to segment the {len(labelled)} labelled training cases"
    else:
        classes = INTENSITY_CLASSES - 1
        known = [replace(case, labels=_classes(case)) for case in training]
        kind = (
            f"the encoder of a U-Net that learned to tell {INTENSITY_CLASSES} ranges of smoothed intensity apart in "
            "the training cases, which have no segmentations: weaker than one of anatomy"
        )
    pairs, block = coarsened_pairs(known, classes, device)
    encoder = Encoder.train(pairs, classes, steps, seed, device, progress)

    def encode(images: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate([encoder(small(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])

    def small(images: Sequence[np.ndarray]) -> Tensor:
        group = torch.from_numpy(np.stack(images))
        return coarsened(Pairs(group, torch.zeros(len(group), *group.shape[2:])), 0, device)[0].images

    return encode, kind + (f", in blocks of {' x '.join(map(str, block))} voxels" if max(block) > 1 else "")


def _classes(case: WorkingCase) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(np.asarray(case.image[0]), 1.0)
    borders = np.quantile(smooth, np.arange(1, INTENSITY_CLASSES) / INTENSITY_CLASSES)
    return np.digitize(smooth, borders).astype(np.uint8)
