"""Feature vectors of cases, from an encoder trained on the real training cases alone.

No weights are downloaded: networks trained on photographs judge medical volumes unreliably (Woodland et al., MICCAI
2024), and many users work without a network. The encoder is the descending half of a U-Net that has learned to segment
the real training cases; mean and standard deviation of its maps over the voxels, at every level, are the features,
standardised and projected to the first principal components of the real training cases. The components keep their
variances: scaled to equal ones, the smallest, which are hardly more than rounding, would count like the first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from .segmentation import Pairs, train_segmenter

COMPONENTS = 32
"""Most principal components that are kept; fewer where there are few cases."""
KIND = "encoder of a U-Net trained to segment the real training cases"


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
    def train(cls, pairs: Pairs, label_count: int, steps: int = 400, seed: int = 0, device: str = "cpu") -> Encoder:
        """Train the encoder on real training cases."""
        network = train_segmenter(pairs, label_count, steps, seed, device, normalisation="batch")
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
