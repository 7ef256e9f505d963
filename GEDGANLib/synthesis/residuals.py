r"""What statistical cases lack of real ones: how much, how fine, and where on the template.

A mean of aligned scans is smoother than each of them, and modes hold what scans have in common. Of a case's Laplacian
pyramid (Burt and Adelson, *The Laplacian pyramid as a compact image code*, IEEE Transactions on Communications 31(4),
1983), with bands b from fine to coarse, the mean squares of real cases less those of the statistical cases of the same
scores are what is lacking. White noise of variance 1 on the grid of a refiner's level l, brought to full resolution,
has mean squares :math:`M_{bl}`; at each place of the template

.. math:: a_l^2=\arg\min_{q\ge0}\sum_b\Big(\frac{E|m_b|^2+\sum_lM_{bl}\,q_l}{E|x_b|^2}-1\Big)^2

are the variances of noise that makes up for it: the local spectrum of the population, from the first step on. What a
scanner saw has less power at Nyquist's frequency than a little below it, white noise as much: that of the finest level
is smoothed along each axis by :math:`[t,1-2t,t]`, whose response is :math:`1-2t(1-\cos\omega)`, so that the ratio of
both, of what is lacking, is that of the cases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..alignment.sampling import sample_linear
from ..errors import InputError
from ..networks.blocks import downsample, upsample
from ..networks.build import build_field, refiner_strides
from ..networks.noise import Residuals, smoothed, to_full_resolution
from ..networks.repainting import amplitude_shape
from ..networks.statistical import StatisticalGenerator
from ..planning.plan import Plan
from ..structure.field import median_trace
from ..structure.spectrum import BELOW, near_nyquist
from ..structure.whitening import gains_of
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase, seen_voxels
from .basis import Basis

CASES = 64
"""That are measured at most."""
PRIOR = 4.0
"""Voxels of the mean over all places that each place is taken to have seen beside its own."""
ALIKE = 0.005
"""Root of the mean square difference of cases from their statistical ones up to which these are alike: a four hundredth
of the range of intensities."""
JUDGED = 16
"""Cases whose difference from their statistical ones is measured as the judges see it."""
DRAWS = 8
"""Of noise, to know its bands."""
LEAST = 1e-10
"""Mean square below which a band holds nothing: an intensity is between -1 and 1."""


def residuals_of(basis: Basis, plan: Plan, cases: Sequence[WorkingCase], progress: Progress = quiet) -> Residuals:
    """:func:`measure_residuals` for a plan that repaints what modes make.

    :param cases: among them all that the modes are of, by name.
    :raises InputError: one of these is not there.
    """
    members, scores = _members(basis, cases), torch.stack(list(basis.scores.values())).numpy()
    found = measure_residuals(basis.generator, members, scores, refiner_strides(plan), progress)
    return found._replace(judged=judged_differences(basis.generator, members, scores, plan))


def _members(basis: Basis, cases: Sequence[WorkingCase]) -> list[WorkingCase]:
    """The cases that the modes are of, in the order of their scores.

    :raises InputError: one is not there.
    """
    named = {case.name: case for case in cases}
    if missing := [name for name in basis.scores if name not in named]:
        raise InputError(
            f"{missing[0]}, which the alignment was made with, is not among the cases any more.",
            "Give the same data, or train in a new folder.",
        )
    return [named[name] for name in basis.scores]


def _spread(count: int, most: int) -> np.ndarray:
    """Indices of so many at most, spread evenly."""
    return np.linspace(0, count - 1, min(most, count)).round().astype(int)


@torch.no_grad()
def measure_residuals(
    generator: StatisticalGenerator,
    cases: Sequence[WorkingCase],
    scores: np.ndarray,
    strides: Sequence[Sequence[int]],
    progress: Progress = quiet,
) -> Residuals:
    """The noise that makes up for what statistical cases lack of real ones.

    :param generator: on the CPU.
    :param cases: at least one; :data:`CASES` of them, spread evenly, are looked at.
    :param scores: theirs, (N, at least K).
    :param strides: how each level divides the grid of the one before, see ``blocks.strides_of``.
    """
    chosen = _spread(len(cases), CASES)
    channels, levels = len(generator.template), len(strides) + 1
    shape = amplitude_shape(generator.shape, generator.extent)
    # Sums are NumPy's, which are the same however many threads there are: a run that is repeated is the same.
    bands = 2 * channels * levels
    total = np.zeros((bands + channels + 1, math.prod(shape)))
    spectra = np.zeros((2, len(shape), 2))
    for done, index in enumerate(chosen):
        progress(done, len(chosen), cases[index].name)
        pair, positions = _real_and_made(generator, cases[index], scores[index])
        total += _on_template(pair, positions, cases[index], strides, shape, generator.extent)[0].flatten(1).numpy()
        spectra += np.stack([sum(near_nyquist(channel) for channel in image[0].numpy()) for image in pair])
    progress(len(chosen), len(chosen), "")
    squares, differences, count = total[:bands], total[bands:-1], total[-1:]
    mean = squares.sum(1, keepdims=True) / count.sum()
    real, made = ((squares + PRIOR * mean) / (count + PRIOR)).reshape(2, channels, levels, -1)
    taps = _taps(spectra[0] - spectra[1])
    variances = _variances(real, made, noise_bands(generator.shape, strides, taps))
    amplitudes = torch.from_numpy(np.sqrt(variances)).float().reshape(channels, levels, *shape)
    apart = np.sqrt(differences / np.maximum(count, 1e-6))
    scale = torch.from_numpy(np.where(apart > ALIKE, apart, 0)).float().reshape(channels, *shape)
    return Residuals(amplitudes, taps, torch.zeros(()), scale)


@torch.no_grad()
def judged_differences(
    generator: StatisticalGenerator, cases: Sequence[WorkingCase], scores: np.ndarray, plan: Plan
) -> Tensor:
    """Mean square by which cases differ from their statistical ones as each judge of the plan sees them, summed over
    voxels and channels, (judges,). Parameters as for :func:`measure_residuals`."""
    chosen = _spread(len(cases), JUDGED)
    images = [torch.from_numpy(np.array(cases[index].image)) for index in chosen]
    field = build_field(plan, median_trace(images, plan.field.sigma, plan.field.rho, plan.grid.spacing))
    views = [lambda image: image, *([] if field is None else [field])]
    total = np.zeros(len(views))
    for index in chosen:
        (real, made), _ = _real_and_made(generator, cases[index], scores[index])
        total += [float((view(real) - view(made)).square().sum()) for view in views]
    return torch.from_numpy(total / len(chosen)).float()


@torch.no_grad()
def measure_gains(basis: Basis, cases: Sequence[WorkingCase]) -> tuple[tuple[float, ...], ...]:
    """Of the filter through which the judge of the image sees it, for each channel, see ``structure.whitening``.

    :param cases: among them all that the modes are of, by name.
    :raises InputError: one of these is not there.
    """
    members, scores, differences = _members(basis, cases), list(basis.scores.values()), []
    for index in _spread(len(members), JUDGED):
        (real, made), _ = _real_and_made(basis.generator, members[index], scores[index].numpy())
        differences.append((real - made)[0].numpy())
    return tuple(gains_of([each[channel] for each in differences]) for channel in range(len(differences[0])))


def noise_bands(shape: Sequence[int], strides: Sequence[Sequence[int]], taps: Tensor) -> np.ndarray:
    """M: mean squares (bands, levels) of noise of each level's grid, at full resolution."""
    random = torch.Generator().manual_seed(0)
    columns, side = [], tuple(shape)
    for level in range(len(strides) + 1):
        if level:
            side = tuple(count // each for count, each in zip(side, strides[level - 1]))
        bands = []
        for _ in range(DRAWS):
            noise = torch.randn((1, 1, *side), generator=random)
            noise = to_full_resolution(noise, strides[:level]) if level else smoothed(noise, taps)
            bands.append(_squares(noise, strides)[0, 0].flatten(1).numpy().mean(1, dtype=np.float64))
        columns.append(np.mean(bands, axis=0))
    return np.stack(columns, 1)


def _squares(volume: Tensor, strides: Sequence[Sequence[int]]) -> Tensor:
    """Squares of the bands of (N, C, *grid), (N, C, bands, *grid)."""
    found = []
    for level in range(len(strides) + 1):
        coarser = downsample(volume, strides[level]) if level < len(strides) else None
        band = volume if coarser is None else volume - upsample(coarser, strides[level])
        found.append(to_full_resolution(band.square(), strides[:level]))
        volume = coarser
    return torch.stack(found, 2)


def _real_and_made(
    generator: StatisticalGenerator, case: WorkingCase, scores: np.ndarray
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The image of a case and that of the statistical case of its scores, (1, C, *shape); and where the latter's voxels
    lie on the template."""
    latent = torch.from_numpy(np.array(scores[: len(generator.generators)], np.float32))[None]
    positions = generator.transformations(latent).positions(generator.shape, inverse=True)
    made = generator.deformed(*generator.on_template(latent), positions)[:, : len(generator.template)]
    return (torch.from_numpy(np.array(case.image, np.float32))[None], made), positions


def _on_template(
    pair: tuple[Tensor, Tensor],
    positions: Tensor,
    case: WorkingCase,
    strides: Sequence[Sequence[int]],
    shape: Sequence[int],
    extent: Sequence[float],
) -> Tensor:
    """Squares of the bands of both images and of their difference, summed over the voxels that lie at each place of the
    template, and how many these are, (1, 2 * C * bands + C + 1, *shape); only of what the scan saw."""
    seen = torch.zeros(1, 1, *positions.shape[2:])
    seen[(0, 0, *(slice(first, last + 1) for first, last in seen_voxels(case)))] = 1
    bands = [_squares(each, strides).flatten(1, 2) for each in pair]
    apart = (pair[0] - pair[1]).square()
    squares = torch.cat([*bands, apart], 1) * seen
    # What reads the template off, transposed: each voxel is handed to the places that it would be read from.
    with torch.enable_grad():
        places = torch.zeros(1, squares.shape[1] + 1, *shape, requires_grad=True)
        read = sample_linear(places, positions, extent)
        return torch.autograd.grad((read * torch.cat([squares, seen], 1)).sum(), places)[0]


def _taps(lacking: np.ndarray) -> Tensor:
    """t of each axis, (D,), from the power that is lacking at Nyquist's frequency and below it, (D, 2)."""
    at, below = np.maximum(lacking, 0).T
    ratio = np.where(below > 0, np.sqrt(np.clip(at / np.maximum(below, 1e-30), 0, 1)), 1.0)
    fall = 1 - math.cos(2 * math.pi * sum(BELOW) / 2)
    return torch.from_numpy((1 - ratio) / (4 - 2 * fall * ratio)).float()


def _variances(real: np.ndarray, made: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """q (C, levels, places) of the module's text.

    :param real, made: mean squares, (C, bands, places).
    :param noise: M.
    """
    from scipy.optimize import nnls

    found = np.zeros_like(real)
    for channel, place in np.ndindex(len(real), real.shape[2]):
        if real[channel, :, place].max() > LEAST:
            whole = np.maximum(real[channel, :, place], LEAST)
            found[channel, :, place] = nnls(noise / whole[:, None], 1 - made[channel, :, place] / whole)[0]
    return found
