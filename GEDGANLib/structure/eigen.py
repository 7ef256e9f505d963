r"""Eigen-system of symmetric 2x2 and 3x3 matrix fields in closed form, with derivatives that stay finite.

Values and vectors follow Smith (CACM 4(4), 1961) for the first estimate and then one exact deflation: the isolated
eigenvalue gives its vector as a cross product of rows, the two others come from one Jacobi rotation in the plane
across it, and all values are recomputed as Rayleigh quotients. The last step, not the arc cosine, sets the accuracy.

Derivatives follow Daleckii and Krein: for a symmetric perturbation :math:`\dot S`, in the eigen-basis,

.. math:: \dot\lambda_i = \dot S_{ii}, \qquad
          e_i^T \dot e_j = \dot S_{ij} \frac{d}{d^2 + \varepsilon^2}, \quad d = \lambda_j - \lambda_i

with a small :math:`\varepsilon` relative to the size of the matrix where eigenvalues meet. The gap-weighted dyads
:math:`(\lambda_1-\lambda_2)\,e_1e_1^T` and :math:`(\lambda_2-\lambda_3)\,e_3e_3^T` need no such care: their
derivative is bounded by constants at every gap, 0 included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .tensor import COMPONENTS

RELATIVE_GAP = 1e-3
"""Gaps below this share of the matrix's largest entry count as meeting when an eigenvector is differentiated."""


BLOCK = 65536
"""Matrices decomposed at a time: their intermediate results stay in the processor's cache, and memory stays small."""


def _dot(a: Sequence[Tensor] | Tensor, b: Sequence[Tensor] | Tensor) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:]):
        total = total + x * y
    return total


def _times(matrix: list[list[Tensor]], vector: list[Tensor]) -> list[Tensor]:
    return [_dot(row, vector) for row in matrix]


def _as_rows(entries: Tensor, spatial_dims: int) -> list[list[Tensor]]:
    """Unpack the component axis (axis 1) into rows of a symmetric matrix."""
    rows: list[list[Tensor]] = [[None] * spatial_dims for _ in range(spatial_dims)]  # type: ignore[list-item]
    for channel, (i, j) in enumerate(COMPONENTS[spatial_dims]):
        rows[i][j] = rows[j][i] = entries[:, channel]
    return rows


def _choose(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """``torch.where`` for finite values, several times as fast on a CPU: exact, as ``lerp`` is at both its ends."""
    return torch.lerp(no, yes, condition.to(no.dtype))


def _rotate_plane(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle that diagonalises [[a, c], [c, b]], the larger value first."""
    angle = 0.5 * torch.atan2(2 * c, a - b)
    return angle.cos(), angle.sin()


def _plane_values(a: Tensor, b: Tensor, c: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Rayleigh quotients of [[a, c], [c, b]] for the vectors (cosine, sine) and (-sine, cosine)."""
    along, across = torch.addcmul(cosine * a, sine, c), torch.addcmul(cosine * c, sine, b)
    larger = torch.addcmul(cosine * along, sine, across)
    along, across = torch.addcmul(cosine * c, sine, a, value=-1), torch.addcmul(cosine * b, sine, c, value=-1)
    return larger, torch.addcmul(cosine * across, sine, along, value=-1)


def _decompose_2d(entries: Tensor) -> tuple[Tensor, Tensor]:
    """(3, n) with largest entry 1 -> values (2, n), vectors (2, 2, n)."""
    a, b, c = entries
    cosine, sine = _rotate_plane(a, b, c)
    vectors = torch.stack([torch.stack([cosine, sine]), torch.stack([-sine, cosine])])
    return torch.stack(_plane_values(a, b, c, cosine, sine)), vectors


def _isolated_value(a: Tensor, b: Tensor, c: Tensor, off_square: Tensor, entries: Tensor) -> tuple[Tensor, Tensor]:
    """The extreme eigenvalue on the side that stands alone, and where that is the largest one (Smith 1961)."""
    d, e, f = entries[3:]
    mean = (a + b + c) / 3
    x, y, z = a - mean, b - mean, c - mean
    # Without cancellation: differences of the diagonal, not squares of the trace.
    half_norm = ((a - b).square_() + (b - c).square_() + (c - a).square_()).div_(6).add_(off_square)
    radius = half_norm.div_(3).sqrt_()
    determinant = torch.addcmul(x * y * z, d * e, f, value=2)
    determinant.addcmul_(x, f * f, value=-1).addcmul_(y, e * e, value=-1).addcmul_(z, d * d, value=-1)
    cosine = determinant.div_((radius * radius * radius).mul_(2).clamp_min_(1e-30)).clamp_(-1, 1)
    is_largest = cosine >= 0
    distance = cosine.abs_().acos_().div_(3).cos_().mul_(radius).mul_(2)
    return _choose(is_largest, mean + distance, mean - distance), is_largest


def _decompose_3d(entries: Tensor) -> tuple[Tensor, Tensor]:
    """(6, n) with largest entry 1 -> values (3, n), vectors (3, 3, n)."""
    a, b, c, d, e, f = entries
    dd, ee, ff = d * d, e * e, f * f
    isolated, is_largest = _isolated_value(a, b, c, dd + ee + ff, entries)

    # The adjugate of S - λ is a multiple of v vᵀ: any column is v, the one with the largest diagonal entry best.
    x, y, z = a - isolated, b - isolated, c - isolated
    first = torch.stack([y * z - ff, e * f - d * z, d * f - e * y])
    second = torch.stack([first[1], x * z - ee, d * e - x * f])
    third = torch.stack([first[2], second[2], x * y - dd])
    sizes = first[0].abs(), second[1].abs(), third[2].abs()
    axis = _choose(sizes[0] >= sizes[1], first, second)
    axis = _choose(sizes[2] > torch.maximum(sizes[0], sizes[1]), third, axis)
    length = axis.square().sum(0)
    # A multiple of the identity has no isolated direction; any will do, the x axis then.
    degenerate = length <= 1e-24
    axis = axis * length.masked_fill(degenerate, 1.0).rsqrt_()
    axis[0].masked_fill_(degenerate, 1.0)
    axis[1:].masked_fill_(degenerate, 0.0)

    # Orthonormal basis across the axis (Duff et al., JCGT 6(1), 2017), then one Jacobi rotation in that plane.
    sign = torch.ones_like(a).copysign_(axis[2])
    scale = -(sign + axis[2]).reciprocal_()
    mixed = axis[0] * axis[1] * scale
    signed = sign * axis[0]
    first = torch.stack([(signed * axis[0]).mul_(scale).add_(1), sign * mixed, -signed])
    second = torch.stack([mixed, torch.addcmul(sign, axis[1] * axis[1], scale), -axis[1]])
    rows = entries[[0, 3, 4, 3, 1, 5, 4, 5, 2]].unflatten(0, (3, 3))

    def image_of(vector: Tensor) -> Tensor:
        return torch.addcmul(rows[:, 0] * vector[0], rows[:, 1], vector[1]).addcmul_(rows[:, 2], vector[2])

    image_first = image_of(first)
    plane = (
        (first * image_first).sum(0),
        (second * image_of(second)).sum(0),
        (second * image_first).sum(0),
    )
    cosine, sine = _rotate_plane(*plane)
    larger, smaller = _plane_values(*plane, cosine, sine)
    alone = (axis * image_of(axis)).sum(0)
    larger_vector = torch.addcmul(cosine * first, sine, second)
    smaller_vector = torch.addcmul(cosine * second, sine, first, value=-1)
    values = [
        _choose(is_largest, alone, larger),
        _choose(is_largest, larger, smaller),
        _choose(is_largest, smaller, alone),
    ]
    vectors = [
        _choose(is_largest, axis, larger_vector),
        _choose(is_largest, larger_vector, smaller_vector),
        _choose(is_largest, smaller_vector, axis),
    ]
    return torch.stack(values), torch.stack(vectors)


def _decompose_block(entries: Tensor) -> tuple[Tensor, Tensor]:
    """(components, n) -> values (D, n), descending, and vectors (D, D, n)."""
    # Structure tensors live anywhere between 1e-12 and 1e6: work on a matrix whose largest entry is 1.
    size = entries.abs().amax(0)
    scaled = entries / torch.where(size > 0, size, 1.0)
    values, vectors = (_decompose_3d if len(entries) == 6 else _decompose_2d)(scaled)
    for k in range(1, len(values)):  # values that are equal but for rounding may come out in the wrong order
        torch.minimum(values[k - 1], values[k], out=values[k])
    return values.mul_(size), vectors


def _blockwise(entries: Tensor, function: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
    """Apply ``function``, (components, n) -> tensors (..., n), to a field (N, components, *spatial), in blocks.

    :returns: one tensor (N, ..., *spatial) for each of the function's.
    """
    results: list[Tensor] = []
    for sample in range(len(entries)):
        flat = entries[sample].reshape(entries.shape[1], -1)
        for start in range(0, flat.shape[1], BLOCK):
            part = slice(start, start + BLOCK)
            outputs = function(flat[:, part])
            if not results:
                results = [o.new_empty(len(entries), *o.shape[:-1], flat.shape[1]) for o in outputs]
            for result, output in zip(results, outputs):
                result[sample, ..., part] = output
    return [result.reshape(*result.shape[:-1], *entries.shape[2:]) for result in results]


def _decompose(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, D, ...) in descending order and vectors (N, D, D, ...), vector k at [:, k]. Not differentiable."""
    values, vectors = _blockwise(entries, _decompose_block)
    return values, vectors


def _to_basis(matrix: list[list[Tensor]], vectors: Tensor) -> list[list[Tensor]]:
    """V^T M V for a symmetric M given as rows; vectors (N, D, D, ...)."""
    basis = [list(vector.unbind(1)) for vector in vectors.unbind(1)]
    images = [_times(matrix, vector) for vector in basis]
    return [[_dot(basis[i], images[j]) for j in range(len(basis))] for i in range(len(basis))]


def _from_basis(matrix: list[list[Tensor]], vectors: Tensor) -> Tensor:
    """Gradient entries of V M V^T for any M: symmetrised, upper entries doubled, channel order of COMPONENTS."""
    basis = [list(vector.unbind(1)) for vector in vectors.unbind(1)]
    size = len(basis)
    # columns[a][j] = sum_i e_i[a] M[i][j]
    columns = [[sum(basis[i][a] * matrix[i][j] for i in range(size)) for j in range(size)] for a in range(size)]
    entries = []
    for a, b in COMPONENTS[size]:
        entry = sum(columns[a][j] * basis[j][b] for j in range(size))
        if a != b:
            entry = entry + sum(columns[b][j] * basis[j][a] for j in range(size))
        entries.append(entry)
    return torch.stack(entries, 1)


class _SymmetricEigen(torch.autograd.Function):
    @staticmethod
    def forward(ctx, entries: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = _decompose(entries)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(ctx, value_gradient: Tensor, vector_gradient: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        size = values.shape[1]
        zero = torch.zeros_like(values[:, 0])
        matrix = [[zero] * size for _ in range(size)]
        floor = (RELATIVE_GAP * values.abs().amax(1)).detach() ** 2 + torch.finfo(values.dtype).tiny
        for j in range(size):
            matrix[j][j] = value_gradient[:, j]
            for i in range(size):
                if i != j:
                    gap = values[:, j] - values[:, i]
                    turn = (vectors[:, i] * vector_gradient[:, j]).sum(1)
                    matrix[i][j] = turn * gap / (gap * gap + floor)
        return _from_basis(matrix, vectors)


def symmetric_eigen(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of a field of symmetric matrices.

    :param entries: shape (N, 3, ...) for 2x2 or (N, 6, ...) for 3x3, channel order :data:`COMPONENTS`.
    :returns: values, shape (N, D, ...), descending; vectors, shape (N, D, D, ...), unit length, vector k at ``[:, k]``.
        The sign of a vector means nothing; where values meet, neither does its direction.
    """
    with torch.autocast(entries.device.type, enabled=False):
        return _SymmetricEigen.apply(entries if entries.dtype == torch.float64 else entries.float())


class _GapWeightedDyads(torch.autograd.Function):
    r"""(λ1-λ2) e1 e1^T and, in 3D, (λ2-λ3) e3 e3^T, stacked in the channel axis.

    Both are isotropic functions of S with the eigenvalues φ of the result linear in those of S, so in the eigen-basis
    their derivative is that of φ on the diagonal and (φi-φj)/(λi-λj), always within [0, 1] in size, off it.
    """

    @staticmethod
    def forward(ctx, entries: Tensor) -> Tensor:
        ctx.save_for_backward(entries)
        (dyads,) = _blockwise(entries, lambda block: (_dyads(*_decompose_block(block)),))
        return dyads

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (entries,) = ctx.saved_tensors
        values, vectors = symmetric_eigen(entries)
        size = values.shape[1]
        zero = torch.zeros_like(values[:, 0])
        total = [[zero] * size for _ in range(size)]
        if size == 3:
            spread = values[:, 0] - values[:, 2]
            spread = torch.where(spread > 0, spread, torch.ones_like(spread))
            upper_share = (values[:, 0] - values[:, 1]) / spread
            lower_share = (values[:, 1] - values[:, 2]) / spread
        # Upstream gradients count an upper entry once, though it stands for two: halve it to get a symmetric matrix.
        halves = torch.tensor([1.0 if i == j else 0.5 for i, j in COMPONENTS[size]], dtype=values.dtype)
        halves = halves.to(values.device).view(-1, *[1] * (gradient.ndim - 2))
        channels = len(COMPONENTS[size])
        surface = _to_basis(_as_rows(gradient[:, :channels] * halves, size), vectors)
        total[0][0] = total[0][0] + surface[0][0]
        total[1][1] = total[1][1] - surface[0][0]
        total[0][1] = total[1][0] = surface[0][1]
        if size == 3:
            tube = _to_basis(_as_rows(gradient[:, channels:] * halves, size), vectors)
            total[1][1] = total[1][1] + tube[2][2]
            total[2][2] = -tube[2][2]
            total[0][2] = total[2][0] = surface[0][2] * upper_share - tube[0][2] * lower_share
            total[1][2] = total[2][1] = -tube[1][2]
        return _from_basis(total, vectors)


def _dyads(values: Tensor, vectors: Tensor) -> Tensor:
    """Values (D, n) and vectors (D, D, n) -> gap-weighted dyads (3 or 12, n)."""
    size = len(values)
    weighted = [((values[0] - values[1]) * vectors[0], vectors[0])]
    if size == 3:
        weighted.append(((values[1] - values[2]) * vectors[2], vectors[2]))
    return torch.stack([left[i] * right[j] for left, right in weighted for i, j in COMPONENTS[size]])


def gap_weighted_dyads(entries: Tensor) -> Tensor:
    """(λ1-λ2) e1 e1^T, and in 3D also (λ2-λ3) e3 e3^T: direction of surfaces and of tubes, as strong as they are.

    :param entries: shape (N, 3, ...) or (N, 6, ...), as for :func:`symmetric_eigen`.
    :returns: shape (N, 3, ...) in 2D, (N, 12, ...) in 3D; same unit as ``entries``; sign-free, 0 where isotropic.
    """
    with torch.autocast(entries.device.type, enabled=False):
        return _GapWeightedDyads.apply(entries if entries.dtype == torch.float64 else entries.float())
