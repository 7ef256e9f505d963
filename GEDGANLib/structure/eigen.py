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
from functools import lru_cache

import torch
from torch import Tensor

from .tensor import COMPONENTS

RELATIVE_GAP = 1e-3
"""Gaps below this share of the matrix's largest entry count as meeting when an eigenvector is differentiated."""

BLOCK = {"cpu": 65536}
"""Matrices decomposed at a time on a kind of device: on a CPU their intermediate results stay in the cache. Elsewhere
:data:`LARGE_BLOCK`, since every launch costs."""
LARGE_BLOCK = 2**22


def _dot(a: Sequence[Tensor] | Tensor, b: Sequence[Tensor] | Tensor) -> Tensor:
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:]):
        total = torch.addcmul(total, x, y)
    return total


def _times(matrix: list[list[Tensor]], vector: list[Tensor]) -> list[Tensor]:
    return [_dot(row, vector) for row in matrix]


def _as_rows(entries: Tensor, spatial_dims: int) -> list[list[Tensor]]:
    """Unpack the component axis (axis 1) into rows of a symmetric matrix."""
    rows: list[list[Tensor]] = [[None] * spatial_dims for _ in range(spatial_dims)]  # type: ignore[list-item]
    for channel, (i, j) in enumerate(COMPONENTS[spatial_dims]):
        rows[i][j] = rows[j][i] = entries[:, channel]
    return rows


def _rotate_plane(a: Tensor, b: Tensor, c: Tensor, sign: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angle that diagonalises [[a, c], [c, b]], the larger value first; where ``sign`` is -1
    the smaller one."""
    twice, difference = 2 * c, a - b
    if sign is not None:
        twice, difference = twice.mul_(sign), difference.mul_(sign)
    angle = torch.atan2(twice, difference).mul_(0.5)
    return angle.cos(), angle.sin_()


def _plane_value(a: Tensor, b: Tensor, c: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rayleigh quotient of [[a, c], [c, b]] for the vector (cosine, sine)."""
    return (cosine * torch.addcmul(cosine * a, sine, c)).addcmul_(sine, torch.addcmul(cosine * c, sine, b))


def _decompose_2d(entries: Tensor, values: Tensor, vectors: Tensor) -> None:
    """(3, n) with largest entry 1 -> values (2, n), vectors (2, 2, n), written in place."""
    a, b, c = entries
    cosine, sine = _rotate_plane(a, b, c)
    values[0] = _plane_value(a, b, c, cosine, sine)
    values[1] = _plane_value(a, b, c, -sine, cosine)
    vectors[0, 0] = vectors[1, 1] = cosine
    vectors[0, 1] = sine
    vectors[1, 0] = -sine


def _isolated_value(entries: Tensor, squares: Tensor) -> tuple[Tensor, Tensor]:
    """The extreme eigenvalue on the side that stands alone, and 1 where that is the largest one, else -1.

    Smith (CACM 4(4), 1961). A first estimate: a Rayleigh quotient takes its place once there is a vector.
    """
    a, b, c, d, e, f = entries
    mean = (a + b).add_(c).div_(3)
    x, y, z = centred = entries[:3] - mean
    # Without cancellation: the centred diagonal, not squares of the trace.
    radius = squares.sum(0).add_(centred.square().sum(0), alpha=0.5).div_(3).sqrt_()
    determinant = (x * y).mul_(z).addcmul_(d * e, f, value=2)
    determinant.addcmul_(x, squares[2], value=-1).addcmul_(y, squares[1], value=-1).addcmul_(z, squares[0], value=-1)
    cosine = determinant.div_((radius * radius).mul_(radius).mul_(2).clamp_min_(1e-30)).clamp_(-1, 1)
    side = torch.ones_like(cosine).copysign_(cosine)
    distance = cosine.abs_().acos_().div_(3).cos_().mul_(radius).mul_(side)
    return mean.add_(distance, alpha=2), side


def _decompose_3d(entries: Tensor, values: Tensor, vectors: Tensor) -> None:
    """(6, n) with largest entry 1 -> values (3, n), vectors (3, 3, n), written in place.

    Products are written out entry by entry and results into their place: memory traffic is what costs here.
    """
    a, b, c, d, e, f = entries
    squares = entries[3:].square()
    isolated, side = _isolated_value(entries, squares)

    # The adjugate of S - λ is a multiple of v vᵀ: any column is v, the one with the largest diagonal entry best.
    x, y, z = entries[:3] - isolated
    diagonal = (y * z).sub_(squares[2]), (x * z).sub_(squares[1]), (x * y).sub_(squares[0])
    upper = (e * f).addcmul_(d, z, value=-1)
    corner = (d * f).addcmul_(e, y, value=-1)
    lower = (d * e).addcmul_(x, f, value=-1)
    first_is_best = (diagonal[0] >= diagonal[1]).to(entries.dtype)
    third_is_best = (diagonal[2] > torch.maximum(diagonal[0], diagonal[1])).to(entries.dtype)
    axis = torch.empty_like(vectors[0])
    columns_of = ((diagonal[0], upper, corner), (upper, diagonal[1], lower), (corner, lower, diagonal[2]))
    for out, columns in zip(axis, columns_of):
        # lerp is torch.where for finite values: exact at both ends, and several times as fast on a CPU.
        torch.lerp(torch.lerp(columns[1], columns[0], first_is_best), columns[2], third_is_best, out=out)
    length = axis.square().sum(0)
    # A multiple of the identity has no isolated direction; any will do, the x axis then.
    degenerate = length <= 1e-24
    axis.mul_(length.masked_fill_(degenerate, 1.0).rsqrt_())
    axis[0].masked_fill_(degenerate, 1.0)
    axis[1:].masked_fill_(degenerate, 0.0)

    # Orthonormal basis across the axis (Duff et al., JCGT 6(1), 2017), then one Jacobi rotation in that plane.
    sign = torch.ones_like(a).copysign_(axis[2])
    scale = (sign + axis[2]).reciprocal_().neg_()
    signed = sign * axis[0]
    mixed = (axis[0] * axis[1]).mul_(scale)
    first = ((signed * axis[0]).mul_(scale).add_(1), sign * mixed, signed.neg_())
    second = (mixed, (axis[1] * axis[1]).mul_(scale).add_(sign), -axis[1])
    image = _image(entries, first)
    plane_a, plane_c = _dot(first, image), _dot(second, image)
    plane_b = _dot(second, _image(entries, second))
    # Rotated so that the middle eigenvector comes first, whichever side the isolated one is on.
    cosine, sine = _rotate_plane(plane_a, plane_b, plane_c, side)
    alone = (a + b).add_(c).sub_(plane_a).sub_(plane_b)
    far_value = _plane_value(plane_a, plane_b, plane_c, -sine, cosine)
    is_largest = side.add_(1).mul_(0.5)
    values[1] = _plane_value(plane_a, plane_b, plane_c, cosine, sine)
    torch.lerp(far_value, alone, is_largest, out=values[0])
    torch.lerp(alone, far_value, is_largest, out=values[2])
    for index in range(3):
        torch.addcmul(cosine * first[index], sine, second[index], out=vectors[1, index])
        far = (cosine * second[index]).addcmul_(sine, first[index], value=-1)
        torch.lerp(far, axis[index], is_largest, out=vectors[0, index])
        torch.lerp(axis[index], far, is_largest, out=vectors[2, index])


def _image(entries: Tensor, vector: Sequence[Tensor]) -> tuple[Tensor, ...]:
    a, b, c, d, e, f = entries
    u, v, w = vector
    return (
        (a * u).addcmul_(d, v).addcmul_(e, w),
        (d * u).addcmul_(b, v).addcmul_(f, w),
        (e * u).addcmul_(f, v).addcmul_(c, w),
    )


def _decompose_block(entries: Tensor, values: Tensor, vectors: Tensor) -> None:
    """(components, n) -> values (D, n), descending, and vectors (D, D, n), written in place."""
    # Structure tensors live anywhere between 1e-12 and 1e6: work on a matrix whose largest entry is 1.
    size = entries.abs().amax(0)
    scaled = entries / size.masked_fill(size == 0, 1.0)
    (_decompose_3d if len(entries) == 6 else _decompose_2d)(scaled, values, vectors)
    for k in range(1, len(values)):  # values that are equal but for rounding may come out in the wrong order
        torch.minimum(values[k - 1], values[k], out=values[k])
    values.mul_(size)


def _by_blocks(entries: Tensor, results: Sequence[Tensor], function: Callable[..., None]) -> list[Tensor]:
    """Apply ``function`` to a field in blocks of matrices, see :data:`BLOCK`.

    :param entries: (N, components, *spatial).
    :param results: memory for what comes out, each (..., number of matrices).
    :param function: (components, n) and a block (..., n) of each result, which it fills.
    :returns: the results as (N, ..., *spatial).
    """
    # All samples in one row: a view for one sample, one copy for several.
    flat = entries.reshape(*entries.shape[:2], -1).transpose(0, 1).reshape(entries.shape[1], -1)
    block = BLOCK.get(entries.device.type, LARGE_BLOCK)
    for start in range(0, flat.shape[1], block):
        part = slice(start, start + block)
        function(flat[:, part], *(result[..., part] for result in results))
    by_sample = [result.unflatten(-1, (len(entries), -1)).movedim(-2, 0) for result in results]
    return [result.reshape(*result.shape[:-1], *entries.shape[2:]) for result in by_sample]


def _decompose(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Values (N, D, *spatial), descending, and vectors (N, D, D, *spatial), vector k at [:, k]. Not differentiable."""
    size, count = (3 if entries.shape[1] == 6 else 2), entries[:, 0].numel()
    results = entries.new_empty(size, count), entries.new_empty(size, size, count)
    return tuple(_by_blocks(entries, results, _decompose_block))


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


@lru_cache(maxsize=32)
def _halves(size: int, device: str, dtype: torch.dtype) -> Tensor:
    """1 for entries on the diagonal and ½ for those above it; kept, since a copy to a GPU costs a wait."""
    with torch.inference_mode(False):
        return torch.tensor([1.0 if i == j else 0.5 for i, j in COMPONENTS[size]], dtype=dtype, device=device)


class _GapWeightedDyads(torch.autograd.Function):
    r"""(λ1-λ2) e1 e1^T and, in 3D, (λ2-λ3) e3 e3^T, stacked in the channel axis.

    Both are isotropic functions of S with the eigenvalues φ of the result linear in those of S, so in the eigen-basis
    their derivative is that of φ on the diagonal and (φi-φj)/(λi-λj), always within [0, 1] in size, off it.
    """

    @staticmethod
    def forward(ctx, entries: Tensor) -> Tensor:
        ctx.save_for_backward(entries)
        channels = 3 if entries.shape[1] == 3 else 12
        return _by_blocks(entries, [entries.new_empty(channels, entries[:, 0].numel())], _fill_dyads)[0]

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
        halves = _halves(size, str(values.device), values.dtype).view(-1, *[1] * (gradient.ndim - 2))
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


def _fill_dyads(entries: Tensor, dyads: Tensor) -> None:
    """(components, n) -> gap-weighted dyads (3 or 12, n), written in place."""
    size = 3 if len(entries) == 6 else 2
    values, vectors = entries.new_empty(size, entries.shape[1]), entries.new_empty(size, size, entries.shape[1])
    _decompose_block(entries, values, vectors)
    channels = iter(dyads)
    for upper, lower, vector in ((0, 1, vectors[0]), (1, 2, vectors[-1]))[: size - 1]:
        weighted = (values[upper] - values[lower]) * vector
        for i, j in COMPONENTS[size]:
            torch.mul(weighted[i], vector[j], out=next(channels))


def gap_weighted_dyads(entries: Tensor) -> Tensor:
    """(λ1-λ2) e1 e1^T, and in 3D also (λ2-λ3) e3 e3^T: direction of surfaces and of tubes, as strong as they are.

    :param entries: shape (N, 3, ...) or (N, 6, ...), as for :func:`symmetric_eigen`.
    :returns: shape (N, 3, ...) in 2D, (N, 12, ...) in 3D; same unit as ``entries``; sign-free, 0 where isotropic.
    """
    with torch.autocast(entries.device.type, enabled=False):
        return _GapWeightedDyads.apply(entries if entries.dtype == torch.float64 else entries.float())
