r"""Changes of real and synthesized cases alike, so that few cases do not let the discriminator learn them by heart.

Karras et al., *Training Generative Adversarial Networks with Limited Data* (NeurIPS 2020): every change is applied
with probability p to whatever the discriminator sees, so that it never sees an unchanged case more often than a
synthesized one, and the generator is asked for unchanged cases as long as p stays clear of 1. Image and label
probabilities move together; the field is taken of the changed image, so its tensors turn with it.

Which change and how much is drawn first (:meth:`Augmentation.draw`) and applied afterwards (:func:`apply`), so that
a step can be repeated.

**Strength.** With the mean gaps :math:`\Delta=D(x)-D(\tilde x)` of training and of held-out cases, each from
synthesized cases of the same class and labelling, over-fitting is

.. math:: r = \frac{\mathbb E\,\Delta_{train} - \mathbb E\,\Delta_{held\,out}}{\mathbb E\,\Delta_{train}}

(section 3.1 there): 0 when held-out cases look as real as those it was trained with, 1 when as little as synthesized
ones. Only gaps within a kind of case enter, which is all that a relativistic discriminator defines. p rises while r is
above its target and falls while it is below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

SHIFT = 0.125
"""Largest shift, as a share of each side; whole voxels."""
LOG2_SCALE, LOG2_STRETCH = 0.15, 0.07
"""Standard deviations of the logarithm (base 2) of the size, and of the stretch of each axis."""
ROTATION = 8.0
"""Standard deviation of the rotation about each axis, degrees."""
LOG2_CONTRAST, BRIGHTNESS, LOG2_GAMMA, NOISE = 0.3, 0.15, 0.3, 0.1
"""Standard deviations: of contrast (base 2), brightness and noise in units of the image's [-1, 1], gamma (base 2)."""
CUT = 0.5
"""Side of the box that is cut out, as a share of the grid's."""
STEERED_EVERY = 4
MEMORY = 0.95
"""Share that the measure of over-fitting keeps of itself from one measurement to the next."""


@dataclass(frozen=True)
class Drawn:
    """What is done to each case of a batch; tensors of N entries, on the CPU.

    :param moved: which cases are moved, (N,) bool.
    :param placement: (N, D, D + 1), of a moved voxel the place in the case before, in mm from its centre: a matrix,
        and behind it a shift in voxels.
    :param mirrored: (N, D) bool.
    :param contrast, brightness, gamma: (N, C).
    :param noise: (N,), standard deviation.
    :param noise_seeds: (N,), of the noise itself.
    :param cut_start, cut_end: (N, D), voxels of the box that is emptied; equal for none.
    """

    moved: Tensor
    placement: Tensor
    mirrored: Tensor
    contrast: Tensor
    brightness: Tensor
    gamma: Tensor
    noise: Tensor
    noise_seeds: Tensor
    cut_start: Tensor
    cut_end: Tensor

    def part(self, chosen: slice) -> Drawn:
        """The same for some of the cases."""
        return Drawn(**{name: value[chosen] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Augmentation:
    """Draws changes.

    :param kinds: of change, see :data:`GEDGANLib.planning.words.AUGMENTATIONS`.
    :param flips: axes along which cases may be mirrored.
    :param shape: voxels of the grid.
    """

    kinds: Sequence[str]
    flips: Sequence[int]
    shape: Sequence[int]

    def draw(self, count: int, channels: int, strength: float, random: torch.Generator) -> Drawn:
        """Changes for ``count`` cases, each kind with probability ``strength``."""
        dims = len(self.shape)

        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=random)

        def uniform(*size: int) -> Tensor:
            return torch.rand(size, generator=random)

        # Everything is drawn, whether it is used or not: what one kind does never depends on the others.
        fires = {name: uniform(count) < strength for name in ("shift", "scale", "rotation", "noise", "cut-out")}
        fires = {name: fired if name in self.kinds else torch.zeros_like(fired) for name, fired in fires.items()}
        intensity = (uniform(3, count, channels) < strength) & ("intensity" in self.kinds)
        may_flip = torch.zeros(dims, dtype=torch.bool)
        may_flip[list(self.flips)] = True
        mirrored = (uniform(count, dims) < strength / 2) & may_flip

        sides = torch.tensor(self.shape, dtype=torch.float32)
        shift = (uniform(count, dims) * 2 - 1).mul(SHIFT * sides).round() * fires["shift"][:, None]
        size = 2 ** (normal(count, 1) * LOG2_SCALE + normal(count, dims) * LOG2_STRETCH)
        size = torch.where(fires["scale"][:, None], size, 1.0)
        angles = normal(count, 3 if dims == 3 else 1) * math.radians(ROTATION) * fires["rotation"][:, None]
        matrix = torch.matrix_exp(_antisymmetric(angles)) / size[:, None]
        strengths = normal(3, count, channels) * intensity
        side = (CUT * sides).round()
        start = (uniform(count, dims) * sides).floor() - (side / 2).floor()
        end = torch.where(fires["cut-out"][:, None], start + side, start)
        return Drawn(
            moved=fires["shift"] | fires["scale"] | fires["rotation"],
            placement=torch.cat([matrix, shift[:, :, None]], 2),
            mirrored=mirrored,
            contrast=2 ** (strengths[0] * LOG2_CONTRAST),
            brightness=strengths[1] * BRIGHTNESS,
            gamma=2 ** (strengths[2] * LOG2_GAMMA),
            noise=normal(count).abs() * NOISE * fires["noise"],
            noise_seeds=torch.randint(2**62, (count,), generator=random),
            cut_start=start.long(),
            cut_end=end.long(),
        )


def _antisymmetric(angles: Tensor) -> Tensor:
    """Generators of rotations by ``angles`` (N, 3) about each axis, or (N, 1) in the plane, radians."""
    if angles.shape[1] == 1:
        zero = torch.zeros_like(angles[:, 0])
        return torch.stack([torch.stack([zero, -angles[:, 0]], 1), torch.stack([angles[:, 0], zero], 1)], 1)
    x, y, z = angles.unbind(1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, 1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, 1)


def apply(case: Tensor, drawn: Drawn, image_channels: int, spacing: Sequence[float]) -> Tensor:
    """Return the cases changed as drawn; differentiable.

    :param case: (N, image_channels + labels, *grid); labels as probabilities.
    :param spacing: of the grid, mm, so that rotations are rotations where voxels are longer one way.
    """
    case = _mirror(case, drawn.mirrored)
    case = _move(case, drawn, spacing)
    case = torch.cat([_recolour(case[:, :image_channels], drawn), case[:, image_channels:]], 1)
    if bool((drawn.cut_end > drawn.cut_start).any()):
        # An emptied box is mid-grey, and its labels are shut: all zero, not even background.
        outside = outside_boxes(drawn.cut_start, drawn.cut_end, case.shape[2:])
        case = case * outside.to(device=case.device, dtype=case.dtype)
    return case


def _mirror(case: Tensor, mirrored: Tensor) -> Tensor:
    for axis in range(mirrored.shape[1]):
        chosen = mirrored[:, axis]
        if bool(chosen.any()):
            which = chosen.to(case.device).reshape(-1, *[1] * (case.ndim - 1))
            case = torch.where(which, case.flip(axis + 2), case)
    return case


def sampling_matrices(drawn: Drawn, shape: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """The placements as ``affine_grid`` takes them, (N, D, D + 1): -1 to 1 over the grid, the last axis first."""
    sides = torch.tensor(shape, dtype=torch.float32)
    half = sides * torch.tensor(spacing, dtype=torch.float32) / 2
    matrix = drawn.placement[:, :, :-1] * half[None, None, :] / half[None, :, None]
    shift = drawn.placement[:, :, -1:] * 2 / sides[None, :, None]
    return torch.cat([matrix.flip(1, 2), shift.flip(1)], 2)


def curved(image: Tensor, gamma: Tensor) -> Tensor:
    """The image within [-1, 1] with its intensities to the power of ``gamma``."""
    # The slope of a power below 1 is infinite at 0; a small offset bounds it.
    unit = ((image + 1) / 2).clamp(0, 1) + 1e-2
    return 2 * (unit**gamma - 1e-2) - 1


def _move(case: Tensor, drawn: Drawn, spacing: Sequence[float]) -> Tensor:
    indices = drawn.moved.nonzero()[:, 0]
    if not len(indices):
        return case
    theta = sampling_matrices(drawn, case.shape[2:], spacing)[indices].to(device=case.device, dtype=case.dtype)
    indices = indices.to(case.device)
    grid = functional.affine_grid(theta, [len(indices), *case.shape[1:]], align_corners=False)
    moved = functional.grid_sample(case[indices], grid, padding_mode="border", align_corners=False)
    return case.index_copy(0, indices, moved)


def _recolour(image: Tensor, drawn: Drawn) -> Tensor:
    def column(values: Tensor) -> Tensor:
        shaped = values.reshape(*values.shape, *[1] * (image.ndim - values.ndim))
        return shaped.to(device=image.device, dtype=image.dtype)

    if bool((drawn.gamma != 1).any()):
        image = torch.where(column(drawn.gamma) == 1, image, curved(image, column(drawn.gamma)))
    if bool((drawn.contrast != 1).any() or (drawn.brightness != 0).any()):
        image = image * column(drawn.contrast) + column(drawn.brightness)
    if bool((drawn.noise > 0).any()):
        noise = torch.zeros_like(image)
        for index in drawn.noise.nonzero()[:, 0].tolist():
            random = torch.Generator(image.device).manual_seed(int(drawn.noise_seeds[index]))
            noise[index] = torch.randn(image.shape[1:], generator=random, device=image.device)
        image = image + noise * column(drawn.noise)
    return image


def outside_boxes(start: Tensor, end: Tensor, shape: Sequence[int]) -> Tensor:
    """0 in the boxes from ``start`` to ``end``, each (N, D) voxels, 1 elsewhere: (N, 1, *shape)."""
    inside = None
    for axis, side in enumerate(shape):
        position = torch.arange(side, device=start.device)[None]
        within = (position >= start[:, axis, None]) & (position < end[:, axis, None])
        within = within.reshape(len(within), *[side if other == axis else 1 for other in range(len(shape))])
        inside = within if inside is None else inside & within
    return ~inside[:, None]


class Strength:
    """The probability of each change, steered by over-fitting.

    :param largest: the probability never exceeds it.
    :param target: see :class:`GEDGANLib.planning.plan.Augmentation`.
    :param ramp_cases: cases seen in which it may go from 0 to 1.
    """

    def __init__(self, largest: float, target: float, ramp_cases: int) -> None:
        self.largest, self.target, self.ramp_cases = largest, target, ramp_cases
        self.value = 0.0
        self._sums = [0.0, 0.0, 0.0]  # of weights, of gaps of training and of held-out cases

    @property
    def overfitting(self) -> float | None:
        """r of the module's text, over about the last 20 measurements; None before the first."""
        weight, training, held_out = self._sums
        if not weight:
            return None
        # While the discriminator tells nothing apart there is nothing that it could know by heart.
        return (training - held_out) / training if training > 1e-3 * weight else 0.0

    def measure(self, training: float, held_out: float, cases: int) -> None:
        """Take a measurement in and adapt.

        :param training, held_out: mean gaps.
        :param cases: seen since the last measurement.
        """
        for index, figure in enumerate((1.0, training, held_out)):
            self._sums[index] = MEMORY * self._sums[index] + (1 - MEMORY) * figure
        change = cases / self.ramp_cases
        self.value += change if self.overfitting > self.target else -change
        self.value = min(max(self.value, 0.0), self.largest)

    def follow(self, progress: float) -> None:
        """Without held-out cases: grow to half of the largest over the run."""
        self.value = 0.5 * self.largest * 0.5 * (1 - math.cos(math.pi * min(max(progress, 0.0), 1.0)))

    def state(self) -> Tensor:
        """All numbers, to go on later."""
        return torch.tensor([self.value, *self._sums], dtype=torch.float64)

    def load_state(self, numbers: Tensor) -> None:
        self.value, *self._sums = numbers.tolist()
