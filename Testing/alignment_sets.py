"""Data sets for which alignment is meaningful, and for which it is not: images (N, 1, *grid), and labels or None."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from GEDGANLib.volumes.cohort import make_case

SHAPE = (24, 28, 24)
SPACING = 7.0  # mm

OFTEN = """
import torch
torch.set_num_threads(1)
from GEDGANLib.alignment import job
job.CHECKPOINT_SECONDS = 0.0
"""
"""Alignments are kept after every iteration."""


def cohort(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Brains of the embedded cohort."""
    cases = [make_case(index, 3, SHAPE, SPACING) for index in range(count)]
    images = np.stack([case.image for case in cases])
    return images / images.max() * 2 - 1, np.stack([case.labels for case in cases])


def balls(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Bright balls of any size at random places, three a case, labelled."""
    random = np.random.default_rng(0)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in SHAPE], indexing="ij"), -1)
    images, labels = [], []
    for _ in range(count):
        found = np.zeros(SHAPE, bool)
        for _ in range(3):
            centre = random.uniform(4, np.array(SHAPE) - 5)
            found |= np.linalg.norm(index - centre, axis=-1) < random.uniform(2, 4.5)
        images.append(ndimage.gaussian_filter(found * 1.0, 0.7) + random.normal(0, 0.05, SHAPE))
        labels.append(found.astype(np.uint8))
    return np.clip(np.stack(images)[:, None] * 1.5 - 0.8, -1, 1), np.stack(labels)


def shuffled(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """The cohort, each brain lying another way."""
    random = np.random.default_rng(0)
    images, labels = cohort(count)
    side = min(SHAPE)
    images, labels = images[:, :, :side, :side, :side], labels[:, :side, :side, :side]
    turned = []
    for image, label in zip(images[:, 0], labels):
        axes, flips = random.permutation(3), random.choice([-1, 1], 3)
        cut = tuple(slice(None, None, int(flip)) for flip in flips)
        turned.append((image.transpose(axes)[cut], label.transpose(axes)[cut]))
    return np.stack([image for image, _ in turned])[:, None], np.stack([label for _, label in turned])


def textures(count: int = 16) -> tuple[np.ndarray, None]:
    """Noise of one grain."""
    random = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(random.standard_normal((count, 1, *SHAPE)), (0, 0, 1.5, 1.5, 1.5))
    return np.clip(noise / (3 * noise.std()), -1, 1), None


def slabs(count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Thick slices of the cohort from random heights, as in scans of whatever part was of interest."""
    random = np.random.default_rng(0)
    cases = [make_case(index, 3, (24, 28, 40), 4.5) for index in range(count)]
    images, labels = [], []
    for case in cases:
        start = int(random.integers(0, 30))
        images.append(case.image[:, :, :, start : start + 10])
        labels.append(case.labels[:, :, start : start + 10])
    found = np.stack(images)
    return found / found.max() * 2 - 1, np.stack(labels)


MEANINGFUL = {"cohort": cohort}
MEANINGLESS = {"balls": balls, "shuffled orientations": shuffled, "textures": textures, "slabs": slabs}
