"""How much of each spatial frequency cases hold: blur shows as too little of the high ones, a checkerboard as too much.

Frequencies are counted in cycles a voxel; 0.5 along an axis is the Nyquist frequency, the finest that the grid holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BINS = 16
BELOW = (0.34, 0.44)
"""Cycles a voxel that count as a little below Nyquist's frequency, and that its window does not reach."""
FINEST = 0.4
"""Cycles a voxel above which a frequency counts as near Nyquist's."""


def radial_power(images: Sequence[np.ndarray], bins: int | None = None) -> np.ndarray:
    """Mean power of ``images`` over shells of equal frequency, up to 0.5 cycles a voxel.

    A window (Hann) takes the borders away, whose jump would otherwise look like high frequencies.

    :param images: N of (*grid).
    :param bins: shells; as many as the grid fills when not given.
    :returns: (bins,), from the lowest frequency to the highest.
    """
    grid = images[0].shape
    bins = bins or bins_of(grid)
    window = np.ones(grid)
    for axis in range(len(grid)):
        window = window * _window(axis, grid)
    shell = np.minimum((radius_of(grid) / 0.5 * bins).astype(int), bins)  # the corners beyond 0.5 go into a last shell
    total = np.zeros(bins + 1)
    for image in images:
        power = np.abs(np.fft.fftn((image - image.mean()) * window)) ** 2
        total += np.bincount(shell.ravel(), power.ravel(), minlength=bins + 1)
    return (total / np.bincount(shell.ravel(), minlength=bins + 1) / len(images))[:bins]


def radius_of(grid: Sequence[int], half: bool = False) -> np.ndarray:
    """Cycles a voxel of each coefficient of a Fourier transform of (*grid); of one of real numbers where ``half``."""
    axes = [np.fft.fftfreq(side) for side in grid]
    if half:
        axes[-1] = np.fft.rfftfreq(grid[-1])
    return np.sqrt(sum(axis**2 for axis in np.meshgrid(*axes, indexing="ij")))


def nyquist_excess(images: Sequence[np.ndarray]) -> float:
    """Power at Nyquist's frequency over that a little below it, along the axis where it is largest.

    What repeats every second voxel, a checkerboard, has all its power there; what a scanner saw has about as much as
    just below, or less. The axes are windowed as in :func:`radial_power`.

    :param images: N of (*grid).
    """
    at, below = sum(near_nyquist(image) for image in images).T
    return float((at / np.maximum(below, 1e-12)).max())


def near_nyquist(image: np.ndarray) -> np.ndarray:
    """Power of (*grid) at Nyquist's frequency along each axis and a little below it, (D, 2); 0 below where a side is
    too short to tell."""
    found = []
    for axis, side in enumerate(image.shape):
        power = np.abs(np.fft.rfft((image - image.mean()) * _window(axis, image.shape), axis=axis)) ** 2
        power = np.moveaxis(power, axis, 0).reshape(power.shape[axis], -1).mean(1)
        frequency = np.fft.rfftfreq(side)
        below = power[(frequency > BELOW[0]) & (frequency < BELOW[1])]
        found.append((power[-1], below.mean() if len(below) else 0.0))
    return np.array(found)


def _window(axis: int, grid: tuple[int, ...]) -> np.ndarray:
    """Hann's, along one axis."""
    return _along(axis, grid, np.hanning(grid[axis] + 2)[1:-1])


def _along(axis: int, grid: tuple[int, ...], values: np.ndarray) -> np.ndarray:
    """Values of one axis, shaped to go with an array of the grid."""
    return values.reshape([side if other == axis else 1 for other, side in enumerate(grid)])


def bins_of(grid: tuple[int, ...]) -> int:
    """Shells that a grid can fill: two voxels of its shortest side each, :data:`BINS` at most."""
    return max(min(BINS, min(grid) // 2), 1)


def fine_power_ratio(real: Sequence[np.ndarray], made: Sequence[np.ndarray]) -> float:
    """Power above :data:`FINEST` of synthesized images over that of real ones; 1 is as real, 0 is blur.

    :param real: N of (*grid).
    :param made: M of them, on the same grid.
    """
    bins = bins_of(real[0].shape)
    finest = slice(min(round(FINEST / 0.5 * bins), bins - 1), None)
    return float(radial_power(made)[finest].mean() / max(radial_power(real)[finest].mean(), 1e-12))
