r"""Eigen-directions of the anatomy: along which the cases of an alignment differ from each other most.

Principal components of the blocks of :mod:`.blocks` together. With :math:`G_b` the inner products of the cases'
differences from their mean in block b, the eigenvectors u (of length 1) of

.. math:: G=\sum_b w_b\,\frac{G_b}{\operatorname{tr}G_b}

are N numbers each, one a case, and :math:`z_{ik}=\sqrt{N-1}\,u_{ik}` are its scores, of variance 1. A mode is what the
cases have of it, :math:`V_k=\sum_iu_{ik}(v_i-\bar v)/\sqrt{N-1}`, so that :math:`v_i=\bar v+\sum_kz_{ik}V_k` with all
of them; with fewer it is as near as so few can come. :math:`G_b` is of smoothed fields, see :data:`.blocks.SMOOTHED`;
the modes are mixed of the fields as they are. (The small matrix in place of the large one: Turk and Pentland,
*Eigenfaces for recognition*, Journal of Cognitive Neuroscience 3(1), 1991.) All that is computed of the cases are their
inner products, so that rows can be left out again in milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .blocks import Blocks, smoothing_width
from .velocity import smooth

WEIGHTS = (0.1, 1.0, 1.0)
"""w of affine part, velocity and look: how a head lies is the least interesting of it."""
SMALLEST = 1e-7
"""Of the largest eigenvalue, below which one is rounding."""
CHUNK = 20_000_000
"""Numbers of all cases that are multiplied at a time."""


def products_of(blocks: Blocks, members: Sequence[int], extent: Sequence[float]) -> np.ndarray:
    """Inner products of the cases' smoothed differences from the mean of ``members``, (blocks, N, N) float64.

    :param extent: of the box, mm.
    """
    width = smoothing_width(extent, blocks.looks.shape[2:])
    found = np.zeros((len(WEIGHTS), len(blocks), len(blocks)))
    for number, block in enumerate(blocks.all()):
        flat = (block if number == 0 else smooth(block, width, extent)).flatten(1)
        step = max(CHUNK // len(blocks), 1)
        for start in range(0, flat.shape[1], step):
            part = flat[:, start : start + step]
            part = part - part[list(members)].mean(0)
            found[number] += (part @ part.T).double().numpy()
    return found


@dataclass(frozen=True)
class Components:
    """Of the members among N cases, the strongest first.

    :param members: which cases they are of.
    :param values: eigenvalues (K,) of G; they sum to the weights' sum where K is as large as can be.
    :param coefficients: of all N cases along each component, (N, K), in the units of G's square root.
    :param squares: squared distance of all N cases from the members' mean, (N,).
    :param weights: of the blocks, w over the trace.
    """

    members: tuple[int, ...]
    values: np.ndarray
    coefficients: np.ndarray
    squares: np.ndarray
    weights: np.ndarray

    @property
    def count(self) -> int:
        return len(self.values)

    @property
    def strengths(self) -> np.ndarray:
        """How wide each component is beside the widest, (K,) in [0, 1]."""
        return np.sqrt(self.values / self.values[0])

    def units(self) -> np.ndarray:
        """Eigenvectors u of the module's text, (n, K), a row a member."""
        return self.coefficients[list(self.members)] / np.sqrt(self.values)

    def scores(self) -> np.ndarray:
        """z of all N cases, (N, K): of members with mean 0 and variance 1."""
        return self.coefficients * np.sqrt((len(self.members) - 1) / self.values)

    def explained(self) -> np.ndarray:
        """Share of a case's difference from the mean that the first 1, 2, ... components tell, (N, K) in [0, 1]."""
        shares = np.cumsum(self.coefficients**2, 1) / np.maximum(self.squares, 1e-30)[:, None]
        return np.clip(shares, 0, 1)

    def leverages(self) -> np.ndarray:
        r"""Leverage :math:`h_i=\sum_ku_{ik}^2` of the members in the first 1, 2, ... components, (n, K) in [0, 1]: how
        much a component is of one case alone (Hoaglin and Welsch, *The hat matrix in regression and ANOVA*, The
        American Statistician 32, 1978)."""
        return np.cumsum(self.units() ** 2, 1)

    def first(self, count: int) -> Components:
        """The strongest of them."""
        return replace(self, values=self.values[:count], coefficients=self.coefficients[:, :count])


def components_of(products: np.ndarray, members: Sequence[int]) -> Components:
    """Principal components of some of the cases, and where all of them lie along these.

    :param products: from :func:`products_of`, for whatever members.
    :param members: at least two.
    :raises ValueError: fewer, or all of them are the same.
    """
    members = tuple(members)
    if len(members) < 2:
        raise ValueError("one case has no directions")
    chosen = np.array(members)
    total, weights = np.zeros(products.shape[1:]), np.zeros(len(WEIGHTS))
    for number, (weight, product) in enumerate(zip(WEIGHTS, products)):
        rows = product[:, chosen].mean(1)
        centred = product - rows[:, None] - rows[None] + product[np.ix_(chosen, chosen)].mean()
        trace = float(np.trace(centred[np.ix_(chosen, chosen)]))
        if trace > 0:
            weights[number] = weight / trace
            total += weights[number] * centred
    values, vectors = np.linalg.eigh(total[np.ix_(chosen, chosen)])
    values, vectors = values[::-1], vectors[:, ::-1]
    if values[0] <= 0:
        raise ValueError("all cases are the same")
    count = min(int(np.sum(values > SMALLEST * values[0])), len(members) - 1)
    values, vectors = values[:count], vectors[:, :count]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])  # the same on every machine
    coefficients = total[:, chosen] @ vectors / np.sqrt(values)
    return Components(members, values, coefficients, np.diag(total).copy(), weights)


@dataclass(frozen=True)
class Modes:
    """What one standard deviation along each of K directions changes, on grids over the box of the alignment.

    :param generator, velocity, look: means, (D, D+1), (D, *control grid), mm, and (C, *grid).
    :param weights: of the blocks in G, (3,): w over the trace.
    :param width: of the Gaussian over fields by which cases are compared, mm.
    :param is_smooth: the modes' fields are smoothed themselves.
    :param generators: (K, D, D+1), mm.
    :param velocities: (K, D, *control grid), mm.
    :param looks: (K, C, *grid), logarithms of intensities.
    :param labels: (K, L + 1, *grid), logarithms of probabilities; None where labels are only deformed.
    """

    generator: Tensor
    velocity: Tensor
    look: Tensor
    weights: Tensor
    generators: Tensor
    velocities: Tensor
    looks: Tensor
    labels: Tensor | None = None
    width: float = 0.0
    is_smooth: bool = False

    @property
    def count(self) -> int:
        return len(self.generators)

    def on(self, device: str | torch.device) -> Modes:
        """The same on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)

    def recombined(self, matrix: np.ndarray, shift: np.ndarray) -> Modes:
        """Modes of other scores: new mode l is :math:`\\sum_k` ``matrix[l, k]`` of the old ones, and the means move by
        :math:`\\sum_k` ``shift[k]``."""
        weights, moved = torch.from_numpy(matrix).float(), torch.from_numpy(shift).float()

        def mixed(fields: Tensor) -> Tensor:
            return torch.tensordot(weights, fields.float(), 1)

        return replace(
            self,
            generator=self.generator + torch.tensordot(moved, self.generators.float(), 1),
            velocity=self.velocity + torch.tensordot(moved, self.velocities.float(), 1),
            look=self.look + torch.tensordot(moved, self.looks.float(), 1),
            generators=mixed(self.generators),
            velocities=mixed(self.velocities),
            looks=mixed(self.looks),
            labels=None if self.labels is None else mixed(self.labels),
        )

    def of_components(self, components: Components, scores: np.ndarray) -> Modes:
        """The modes of other components, made of these; without labels, and on the device of these.

        :param components: of some of the cases that these are of, or all.
        :param scores: along these modes, of all cases, (N, K).
        """
        old = scores[list(components.members)]
        matrix = components.units().T @ old / np.sqrt(len(old) - 1)
        made = replace(self.on("cpu"), labels=None).recombined(matrix, old.mean(0))
        return replace(made, weights=torch.from_numpy(components.weights).float()).on(self.velocities.device)


def modes_of(blocks: Blocks, components: Components, extent: Sequence[float]) -> Modes:
    """The modes of :class:`Components`, without labels.

    :param extent: of the box, mm.
    """
    members = list(components.members)
    weights = torch.from_numpy(components.units().T / np.sqrt(len(members) - 1)).float()
    fields = []
    for block in blocks.all():
        mode = block.new_zeros(components.count, *block.shape[1:])
        flat, into = block.flatten(1), mode.flatten(1)
        step = max(CHUNK // len(blocks), 1)
        for start in range(0, flat.shape[1], step):
            part = flat[members, start : start + step]
            into[:, start : start + step] = weights @ (part - part.mean(0))
        fields.append(mode)
    means = blocks.generators[members].mean(0), blocks.velocities[members].mean(0), blocks.look
    width = smoothing_width(extent, blocks.looks.shape[2:])
    return Modes(*means, torch.from_numpy(components.weights).float(), *fields, width=width)
