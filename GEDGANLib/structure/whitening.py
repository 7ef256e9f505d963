r"""Images filtered so that what is to be learned of them differs alike at all spatial frequencies.

What brains differ by from their statistical cases is coarse for the most part: its power near Nyquist's frequency is
less than a thousandth of that of its lowest. A penalty on the gradient of a judge bounds what it may know of a
frequency by how much cases differ there, so that of the finest it knows nothing, and nothing of it is learned. With
P(r) the mean power of the differences at r cycles a voxel, the image that the judge sees is multiplied in frequency by

.. math:: g(r)=c\,\min\Big(\sqrt{P_{\max}/P(r)},\,G\Big)

with c such that the differences keep their energy, and with that the penalty its unit. (Whitening of natural images:
Olshausen and Field, *Sparse coding with an overcomplete basis set*, Vision Research 37(23), 1997, section 3.2.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .spectrum import bins_of, radial_power, radius_of

SHELLS = 12
"""Of equal frequency, up to 0.5 cycles a voxel, at most."""
STRONGEST = 16.0
"""G: how much more than the frequency of most power any other one is raised."""


def gains_of(differences: Sequence[np.ndarray]) -> tuple[float, ...]:
    """g at the middle of each shell, from the lowest frequency to the highest.

    :param differences: N of (*grid).
    :returns: as many as the grid fills, :data:`SHELLS` at most; ones where there is no difference.
    """
    shape = differences[0].shape
    shells = min(SHELLS, bins_of(shape))
    power = radial_power(differences, shells)
    if not np.isfinite(power).all() or power.max() <= 0:
        return (1.0,) * shells
    gains = np.sqrt(power.max() / np.maximum(power, power.max() / STRONGEST**2))
    # What is finer than the last shell, along diagonals, is raised as that is.
    number = np.minimum((radius_of(shape) * 2 * shells).astype(int), shells - 1)
    energy = np.bincount(number.ravel(), minlength=shells) * power
    return tuple(float(gain) for gain in gains * np.sqrt(energy.sum() / (gains**2 * energy).sum()))


class Whitening:
    """The filter of the module's text; the grid goes on at its other end.

    :param gains: g of each channel, see :func:`gains_of`.
    :param shape: of the grid.
    """

    def __init__(self, gains: Sequence[Sequence[float]], shape: Sequence[int]) -> None:
        self.shape, self.axes = tuple(shape), tuple(range(-len(shape), 0))
        radius = radius_of(shape, half=True)
        of_channels = [np.interp(radius, (np.arange(len(each)) + 0.5) / (2 * len(each)), each) for each in gains]
        self._gains = torch.from_numpy(np.stack(of_channels)).float()

    def __call__(self, image: Tensor) -> Tensor:
        """The image (N, C, *shape) filtered, float32."""
        self._gains = self._gains.to(image.device)  # kept there
        spectrum = torch.fft.rfftn(image.float(), dim=self.axes) * self._gains
        return torch.fft.irfftn(spectrum, s=self.shape, dim=self.axes)
