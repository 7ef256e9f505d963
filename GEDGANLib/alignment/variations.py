r"""Variations of one scan: its own texture in other anatomy of its population.

Case i has :math:`\varphi_i=a_i\circ\exp(v_i)`, and the population has the mean velocity :math:`\bar v` and modes
:math:`V_k`. A variation of strength s has

.. math::
   v'=v_i-(1-\rho)(v_i-\bar v)+\max(1,s)\sqrt{1-\rho^2}\sum_k\epsilon_kV_k+\sum_kb_kV_k,\qquad\rho=\max(0,1-s)

with ε standard normal and b what somebody asks for; the affine part stays, :math:`\varphi'=a_i\circ\exp(v')`. So 0 is
the case, 1 another draw of the anatomy that the modes know, and between them the two are correlated by ρ. It is read
off the scan once, on the scan's own voxels, at

.. math:: \psi=\varphi_i\circ\varphi'^{-1}-\varphi_i\circ\varphi_i^{-1}+\mathrm{id}

where the second term, the identity but for rounding, makes a variation of strength 0 the scan itself.

How bright it is where is drawn apart from its shape, which makes better teachers (Zhao et al., *Data augmentation using
learned transformations for one-shot medical image segmentation*, CVPR 2019): the scan less air is multiplied by
:math:`\exp(\text{look}\cdot\ell\circ\varphi'^{-1})` with ℓ a draw of the modes' looks, smoothed within what is tissue
on the template and 0 outside of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import affine
from .lattice import Lattice, Nodes
from .modes import Modes
from .sampling import LabelImage, SmoothImage, identity, sample_linear, shrink
from .transformations import Transformations
from .velocity import finer_exponential, refine, smooth

SMALLEST_JACOBIAN, DRAWS, SHRINKS = 0.1, 10, 20
"""Where a scan would be stretched more than tenfold, or folded, it is drawn again so often, and then varied less."""
SHRUNK = 0.8
NODES = 0.5
"""Between the nodes that a deformation is computed at, in those of the velocities."""
ORDER = 5
"""Of the splines that an image is interpolated by: power near Nyquist's frequency stays what it was, see
``Testing/Benchmarks/variations.py``; cubic ones leave 0.80 to 0.88 of it."""
NODES_IN_A_HURRY, ORDER_IN_A_HURRY = 1.0, 3
"""The same while somebody drags a slider."""
SLAB = 200_000
"""Voxels that are read off at a time where somebody waits for an answer in between: some tenths of a second."""
FLAT = 0.02
"""Share of a volume from which one value is its background."""
TISSUE = 0.05
"""Of the range of intensities, above which the template is no air."""


@dataclass(frozen=True)
class Population:
    """What cases of a population are apart.

    :param modes: see :class:`.modes.Modes`.
    :param extent: of the box, mm.
    :param tissue: share of tissue, (1, *grid of the looks), in [0, 1].
    """

    modes: Modes
    extent: tuple[float, ...]
    tissue: Tensor

    @classmethod
    def of(cls, modes: Modes, template: Tensor, extent: Sequence[float]) -> Population:
        """From modes and the template's image, (C, *grid) in [-1, 1]."""
        tissue = ((template + 1) / 2 > TISSUE).any(0).to(template)
        return cls(modes, tuple(extent), shrink(tissue[None, None], modes.look.shape[1:])[0])

    def drawn_look(self, scores: Tensor) -> Tensor:
        """ℓ of the module's text, (1, C, *grid of the looks), of scores (K,)."""
        shape, tissue = self.modes.look.shape[1:], self.tissue[None]
        drawn = torch.tensordot(scores, self.modes.looks.float(), 1)[None]
        width = self.modes.width or 4 * max(side / count for side, count in zip(self.extent, shape))
        within = smooth(drawn * tissue, width, self.extent) / smooth(tissue, width, self.extent).clamp_min(1e-3)
        # One voxel wide, or there would be an edge where the template's tissue ends and the scan's goes on.
        edge = smooth(tissue, max(side / count for side, count in zip(self.extent, shape)), self.extent)
        return within * torch.where(edge > 0.01, edge, torch.zeros_like(edge))


@dataclass(frozen=True)
class Request:
    """What a variation is to be.

    :param strength: s of the module's text, in [0, 2].
    :param look: of the brightness, in [0, 1]; 0 leaves it as it is.
    :param sliders: b of the module's text, (K,); none when not given.
    """

    strength: float = 1.0
    look: float = 1.0
    sliders: np.ndarray | None = None


@dataclass(frozen=True)
class Variation:
    """How a scan is changed; see :meth:`Subject.varied`.

    :param displacement: of the nodes, in voxels of the scan, (1, D, *nodes).
    :param look: look·ℓ at the nodes, (1, C, *nodes); None where brightness stays.
    :param smallest_jacobian: of ψ.
    :param draws: how often it was drawn until nothing folded.
    :param kept: share of what was drawn last that could be kept, 1 where nothing was shrunk.
    """

    displacement: Tensor
    look: Tensor | None
    smallest_jacobian: float
    draws: int
    kept: float


class Subject:
    """A case that is varied: what all of its variations share.

    :param moved: its transformation alone; says on which device it is done.
    :param lattice: voxels of the scan.
    :param spacing: of the nodes, see :data:`NODES`.
    """

    def __init__(
        self, population: Population, moved: Transformations, lattice: Lattice, spacing: float = NODES
    ) -> None:
        self.population, self.lattice, self.velocity = population, lattice, moved.velocities
        self.extent = moved.extent
        control = max(side / count for side, count in zip(self.extent, self.velocity.shape[2:]))
        self.nodes: Nodes = lattice.nodes(spacing * control)
        dims = len(lattice.shape)
        linear = affine.matrix_of(moved.generators, self.extent)[0, :dims, :dims].cpu().double().numpy()
        # From mm on the template's side of the affine part to voxels of the scan.
        turned = torch.from_numpy(np.linalg.inv(lattice.matrix[:, :dims]) @ linear)
        self._to_voxels = turned.to(self.velocity)
        with torch.no_grad():
            back = affine.matrix_of(-moved.generators, self.extent)
            self._before = affine.apply(back, self.nodes.positions(self.velocity))
            self._forward = finer_exponential(self.velocity, self.extent)
            self._own = self._through(self._on_template(self.velocity))
        modes = population.modes
        self._mean = self._on_control(modes.velocity[None])

    def _on_control(self, fields: Tensor) -> Tensor:
        """Fields of the population's velocities on the grid of the case's."""
        return refine(fields.float().to(self.velocity), self.velocity.shape[2:])

    def _on_template(self, velocity: Tensor) -> Tensor:
        r""":math:`\exp(-v)\circ a_i^{-1}` at the nodes, mm."""
        back = finer_exponential(-velocity, self.extent)
        return self._before + sample_linear(back, self._before, self.extent)

    def _through(self, on_template: Tensor) -> Tensor:
        return on_template + sample_linear(self._forward, on_template, self.extent)

    def _mixed(self, scores: np.ndarray) -> Tensor:
        """Σ of the modes' velocities by scores (K,)."""
        weights = torch.from_numpy(np.asarray(scores, np.float32)).to(self.population.modes.velocities.device)
        return self._on_control(torch.tensordot(weights, self.population.modes.velocities.float(), 1)[None])

    def velocity_of(self, request: Request, scores: np.ndarray) -> Tensor:
        """v' of the module's text, (1, D, *control grid), mm.

        :param scores: ε, (K,).
        """
        rho = max(0.0, 1 - request.strength)
        change = -(1 - rho) * (self.velocity - self._mean)
        mixed = max(1.0, request.strength) * math.sqrt(1 - rho**2) * np.asarray(scores, np.float64)
        if request.sliders is not None:
            mixed = mixed + request.sliders
        if mixed.any():
            change = change + self._mixed(mixed)
        return self.velocity + change

    @torch.no_grad()
    def varied(self, request: Request, key: Sequence[int]) -> Variation:
        """A variation; the same of the same key on every machine.

        :param key: whole numbers that its random numbers begin with.
        """
        count, draws, kept = self.population.modes.count, 0, 1.0
        while True:
            random = np.random.default_rng([*key, draws])
            shape, look = (random.standard_normal(count, dtype=np.float32) for _ in range(2))
            draws += 1
            velocity = self.velocity_of(request, shape)
            on_template, displacement, jacobian = self._moved(velocity)
            # Without chance in it another draw is the same one.
            if jacobian >= SMALLEST_JACOBIAN or draws == DRAWS or not request.strength:
                break
        change = velocity - self.velocity
        for _ in range(SHRINKS):
            if jacobian >= SMALLEST_JACOBIAN:
                break
            kept *= SHRUNK
            on_template, displacement, jacobian = self._moved(self.velocity + kept * change)
        shade = None
        if request.look:
            drawn = self.population.drawn_look(torch.from_numpy(look).to(self.population.tissue))
            shade = request.look * sample_linear(drawn.to(on_template), on_template, self.extent)
        return Variation(displacement, shade, jacobian, draws, kept)

    def _moved(self, velocity: Tensor) -> tuple[Tensor, Tensor, float]:
        """:math:`\\varphi'^{-1}` at the nodes, mm but for the affine part, and ψ less the identity, voxels."""
        on_template = self._on_template(velocity)
        moved = self._through(on_template) - self._own
        displacement = (self._to_voxels @ moved.flatten(2)).unflatten(2, moved.shape[2:])
        return on_template, displacement, self.nodes.smallest_jacobian(displacement)


def background_of(voxels: np.ndarray) -> float | None:
    """What lies flat around the anatomy, as behind a skull that was stripped or a field of view that was padded: the
    value of most corners, where it fills much of the volume; None where nothing does."""
    corners = voxels[np.ix_(*[(0, -1)] * voxels.ndim)].ravel()
    values, counts = np.unique(corners, return_counts=True)
    value = values[counts.argmax()]
    return float(value) if float((voxels == value).mean()) > FLAT else None


class Scan:
    """The voxels of a case, prepared so that variations are read off them.

    :param image: (C, *lattice of the subject), in its own units.
    :param labels: (*lattice), whole numbers; None without segmentation.
    :param air: intensity of air in each channel; None where the scale is absolute, as of CT, and brightness stays.
    :param order: of the splines, 3 or 5.
    """

    def __init__(
        self,
        subject: Subject,
        image: np.ndarray,
        labels: np.ndarray | None,
        air: Sequence[float | None],
        order: int = ORDER,
    ) -> None:
        self.subject, self.air = subject, air
        self.shape = subject.lattice.shape
        self.volume = torch.from_numpy(np.array(image, np.float32))[None].to(subject.velocity)
        with torch.inference_mode():
            flat = [background_of(channel) for channel in image]
            flat = torch.tensor([math.nan if value is None else value for value in flat])
            # In a box of which every voxel is 1 mm.
            self._image = SmoothImage(self.volume, self.shape, order, flat)
            self.labels = None if labels is None else torch.from_numpy(np.array(labels)).to(self.volume.device)
            self._labels = None if self.labels is None else LabelImage(self.labels)

    def slabs(self) -> list[slice]:
        """Parts along the first axis of some :data:`SLAB` voxels."""
        thick = max(SLAB // math.prod(self.shape[1:]), 1)
        return [slice(start, min(start + thick, self.shape[0])) for start in range(0, self.shape[0], thick)]

    @torch.inference_mode()
    def varied(
        self, variation: Variation, slab: slice | None = None, then: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Image (C, *lattice) float32 and labels (*lattice) of a variation.

        :param slab: along the first axis, this part alone.
        :param then: an affine change that follows, composed into the same displacement so that nothing is interpolated
            twice: (D, D + 1), from voxels of the result to voxels before it.
        """
        slab = slab or slice(0, self.shape[0])
        positions, turned = self._positions(variation.displacement, slab, then)
        if positions is None:  # nothing moves: nothing is interpolated
            moved = self.volume[0, :, slab].clone()
            labels = None if self.labels is None else self.labels[slab]
        else:
            moved = self._image.at(positions)[0]
            middle = positions.new_tensor([(side - 1) / 2 for side in self.shape]).reshape(-1, 1, 1, 1)
            labels = None if self._labels is None else self._labels.at(positions[0] + middle)
        if variation.look is not None:
            if turned is None:
                shade = self.subject.nodes.refined(variation.look, slab)[0]
            else:
                shade = sample_linear(self.subject.nodes.refined(variation.look), turned, self.shape)[0]
            for channel, darkest in enumerate(self.air):
                if darkest is None:
                    continue
                brightened = darkest + (moved[channel] - darkest) * shade[channel].exp()
                brightened = brightened.clamp_min(float(self._image.low[0, channel]))  # nothing is darker than it was
                moved[channel] = torch.where(shade[channel] == 0, moved[channel], brightened)
        return moved.cpu().numpy(), None if labels is None else labels.cpu().numpy()

    def _positions(
        self, displacement: Tensor, slab: slice, then: np.ndarray | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Where voxels are read off, mm from the middle of a box of which every voxel is 1 mm, None for where they are;
        and where what follows leads to."""
        still, nodes = not displacement.any(), self.subject.nodes
        here = identity(self.shape, self.shape, displacement)[:, :, slab]
        if then is None:
            return None if still else here + nodes.refined(displacement, slab), None
        matrix, dims = torch.from_numpy(then).to(displacement), len(self.shape)
        middle = displacement.new_tensor([(side - 1) / 2 for side in self.shape])[:, None]
        turned = (matrix[:, :dims] @ (here.flatten(2) + middle) + matrix[:, dims:] - middle).reshape(here.shape)
        return turned if still else turned + sample_linear(nodes.refined(displacement), turned, self.shape), turned
