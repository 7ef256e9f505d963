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

import torch
from torch import Tensor

from .tensor import COMPONENTS

RELATIVE_GAP = 1e-3
"""Gaps below this share of the matrix's largest entry count as meeting when an eigenvector is differentiated."""


def _cross(a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _dot(a: list[Tensor], b: list[Tensor]) -> Tensor:
    return sum(x * y for x, y in zip(a[1:], b[1:])) + a[0] * b[0]


def _times(matrix: list[list[Tensor]], vector: list[Tensor]) -> list[Tensor]:
    return [_dot(row, vector) for row in matrix]


def _select(condition: Tensor, a: list[Tensor], b: list[Tensor]) -> list[Tensor]:
    return [torch.where(condition, x, y) for x, y in zip(a, b)]


def _as_rows(entries: Tensor, spatial_dims: int) -> list[list[Tensor]]:
    """Unpack the component axis (axis 1) into rows of a symmetric matrix."""
    rows: list[list[Tensor]] = [[None] * spatial_dims for _ in range(spatial_dims)]  # type: ignore[list-item]
    for channel, (i, j) in enumerate(COMPONENTS[spatial_dims]):
        rows[i][j] = rows[j][i] = entries[:, channel]
    return rows


def _rotate_plane(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle that diagonalises [[a, c], [c, b]], the larger value first."""
    angle = 0.5 * torch.atan2(2 * c, a - b)
    return torch.cos(angle), torch.sin(angle)


def _decompose_2d(rows: list[list[Tensor]]) -> tuple[list[Tensor], list[list[Tensor]]]:
    cosine, sine = _rotate_plane(rows[0][0], rows[1][1], rows[0][1])
    vectors = [[cosine, sine], [-sine, cosine]]
    return [_dot(vector, _times(rows, vector)) for vector in vectors], vectors


def _decompose_3d(rows: list[list[Tensor]]) -> tuple[list[Tensor], list[list[Tensor]]]:
    (a, d, e), (_, b, f), (_, _, c) = rows
    # Without cancellation: differences of the diagonal, not squares of the trace.
    half_norm = ((a - b) ** 2 + (b - c) ** 2 + (c - a) ** 2) / 6 + d * d + e * e + f * f
    radius = (half_norm / 3).sqrt()
    mean = (a + b + c) / 3
    x, y, z = a - mean, b - mean, c - mean
    determinant = x * (y * z - f * f) - d * (d * z - e * f) + e * (d * f - e * y)
    cosine = (determinant / (2 * radius**3).clamp_min(1e-30)).clamp(-1, 1)
    # The extreme value on the side that stands alone: its vector is well conditioned whatever the other two do.
    largest_is_isolated = cosine >= 0
    isolated = mean + 2 * radius * torch.cos(torch.acos(cosine.abs()) / 3) * torch.where(largest_is_isolated, 1.0, -1.0)

    shifted = [[a - isolated, d, e], [d, b - isolated, f], [e, f, c - isolated]]
    axis, length = None, None
    for i, j in ((0, 1), (1, 2), (2, 0)):
        candidate = _cross(shifted[i], shifted[j])
        candidate_length = _dot(candidate, candidate)
        if axis is None:
            axis, length = candidate, candidate_length
        else:
            longer = candidate_length > length
            axis = _select(longer, candidate, axis)
            length = torch.where(longer, candidate_length, length)
    # A multiple of the identity has no isolated direction; any will do, the x axis then.
    degenerate = length <= 1e-24
    inverse_length = torch.where(degenerate, torch.ones_like(length), length).rsqrt()
    axis = [component * inverse_length for component in axis]
    axis = _select(degenerate, [torch.ones_like(a), torch.zeros_like(a), torch.zeros_like(a)], axis)

    # Orthonormal basis across the axis (Duff et al., JCGT 6(1), 2017), then one Jacobi rotation in that plane.
    sign = torch.where(axis[2] >= 0, 1.0, -1.0).to(a.dtype)
    scale = -1.0 / (sign + axis[2])
    mixed = axis[0] * axis[1] * scale
    first = [1 + sign * axis[0] * axis[0] * scale, sign * mixed, -sign * axis[0]]
    second = [mixed, sign + axis[1] * axis[1] * scale, -axis[1]]
    image_first, image_second = _times(rows, first), _times(rows, second)
    cosine, sine = _rotate_plane(_dot(first, image_first), _dot(second, image_second), _dot(first, image_second))
    larger = [cosine * p + sine * q for p, q in zip(first, second)]
    smaller = [cosine * q - sine * p for p, q in zip(first, second)]

    vectors = [
        _select(largest_is_isolated, axis, larger),
        _select(largest_is_isolated, larger, smaller),
        _select(largest_is_isolated, smaller, axis),
    ]
    return [_dot(vector, _times(rows, vector)) for vector in vectors], vectors


def _decompose(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, D, ...) in descending order and vectors (N, D, D, ...), vector k at [:, k]. Not differentiable."""
    spatial_dims = 3 if entries.shape[1] == 6 else 2
    # Structure tensors live anywhere between 1e-12 and 1e6: work on a matrix whose largest entry is 1.
    size = entries.abs().amax(1, keepdim=True)
    scaled = entries / torch.where(size > 0, size, torch.ones_like(size))
    values, vectors = (_decompose_3d if spatial_dims == 3 else _decompose_2d)(_as_rows(scaled, spatial_dims))
    values = torch.stack(values, 1) * size
    order = values.argsort(dim=1, descending=True)  # equal values may come out swapped by rounding
    vectors = torch.stack([torch.stack(vector, 1) for vector in vectors], 1)
    return values.gather(1, order), vectors.gather(1, order.unsqueeze(2).expand_as(vectors))


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
        values, vectors = _decompose(entries)
        return torch.cat(_dyads(values, vectors), 1)

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


def _dyads(values: Tensor, vectors: Tensor) -> list[Tensor]:
    size = values.shape[1]
    weighted = [(values[:, 0] - values[:, 1], vectors[:, 0])]
    if size == 3:
        weighted.append((values[:, 1] - values[:, 2], vectors[:, 2]))
    return [
        torch.stack([weight * vector[:, i] * vector[:, j] for i, j in COMPONENTS[size]], 1)
        for weight, vector in weighted
    ]


def gap_weighted_dyads(entries: Tensor) -> Tensor:
    """(λ1-λ2) e1 e1^T, and in 3D also (λ2-λ3) e3 e3^T: direction of surfaces and of tubes, as strong as they are.

    :param entries: shape (N, 3, ...) or (N, 6, ...), as for :func:`symmetric_eigen`.
    :returns: shape (N, 3, ...) in 2D, (N, 12, ...) in 3D; same unit as ``entries``; sign-free, 0 where isotropic.
    """
    with torch.autocast(entries.device.type, enabled=False):
        return _GapWeightedDyads.apply(entries if entries.dtype == torch.float64 else entries.float())
