"""The kernels of ``fused``, in Triton: imported only where it is installed.

One program takes a block of voxels of one case. A matrix is held as its entries xx, yy, zz, xy, xz, yz, vectors by
their components; all arithmetic is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
SWEEPS = 4


@triton.jit
def _rotation(p, q, off):
    """Cosine and sine that turn [[p, off], [off, q]] diagonal, by the smaller angle."""
    none = off == 0.0
    ratio = (q - p) / (2.0 * tl.where(none, 1.0, off))
    # Where the ratio is so large that its square overflows, the angle is as good as 0.
    ratio = tl.minimum(tl.maximum(ratio, -1e15), 1e15)
    tangent = tl.where(ratio >= 0, 1.0, -1.0) / (tl.abs(ratio) + tl.sqrt(ratio * ratio + 1.0))
    tangent = tl.where(none, 0.0, tangent)
    cosine = 1.0 / tl.sqrt(tangent * tangent + 1.0)
    return tangent, cosine, tangent * cosine


@triton.jit
def _turn(cosine, sine, a, b):
    return cosine * a - sine * b, sine * a + cosine * b


@triton.jit
def _annihilated(p, q, off, r, s, ux, uy, uz, vx, vy, vz):
    """One Jacobi rotation in the plane of u and v: their entries p, q and off, the entries r and s of their rows."""
    tangent, cosine, sine = _rotation(p, q, off)
    p, q, off = p - tangent * off, q + tangent * off, off * 0.0
    r, s = _turn(cosine, sine, r, s)
    ux, vx = _turn(cosine, sine, ux, vx)
    uy, vy = _turn(cosine, sine, uy, vy)
    uz, vz = _turn(cosine, sine, uz, vz)
    return p, q, off, r, s, ux, uy, uz, vx, vy, vz


@triton.jit
def _ordered(a, ax, ay, az, b, bx, by, bz):
    """Two values with their vectors, the larger one first."""
    swap = b > a
    return (
        tl.where(swap, b, a),
        tl.where(swap, bx, ax),
        tl.where(swap, by, ay),
        tl.where(swap, bz, az),
        tl.where(swap, a, b),
        tl.where(swap, ax, bx),
        tl.where(swap, ay, by),
        tl.where(swap, az, bz),
    )


@triton.jit
def _eigen(a, b, c, d, e, f, SWEEPS: tl.constexpr):
    """Values and vectors of [[a, d, e], [d, b, f], [e, f, c]], descending."""
    ux, uy, uz = a * 0.0 + 1.0, a * 0.0, a * 0.0
    vx, vy, vz = a * 0.0, a * 0.0 + 1.0, a * 0.0
    wx, wy, wz = a * 0.0, a * 0.0, a * 0.0 + 1.0
    for _ in tl.static_range(SWEEPS):
        a, b, d, e, f, ux, uy, uz, vx, vy, vz = _annihilated(a, b, d, e, f, ux, uy, uz, vx, vy, vz)
        a, c, e, d, f, ux, uy, uz, wx, wy, wz = _annihilated(a, c, e, d, f, ux, uy, uz, wx, wy, wz)
        b, c, f, d, e, vx, vy, vz, wx, wy, wz = _annihilated(b, c, f, d, e, vx, vy, vz, wx, wy, wz)
    a, ux, uy, uz, b, vx, vy, vz = _ordered(a, ux, uy, uz, b, vx, vy, vz)
    b, vx, vy, vz, c, wx, wy, wz = _ordered(b, vx, vy, vz, c, wx, wy, wz)
    a, ux, uy, uz, b, vx, vy, vz = _ordered(a, ux, uy, uz, b, vx, vy, vz)
    return a, b, c, ux, uy, uz, vx, vy, vz, wx, wy, wz


@triton.jit
def _load(pointer, voxels, inside, count):
    """The six entries that lie ``count`` apart, as a matrix whose largest entry is 1, and what it was divided by."""
    a = tl.load(pointer + voxels, mask=inside, other=0.0)
    b = tl.load(pointer + count + voxels, mask=inside, other=0.0)
    c = tl.load(pointer + 2 * count + voxels, mask=inside, other=0.0)
    d = tl.load(pointer + 3 * count + voxels, mask=inside, other=0.0)
    e = tl.load(pointer + 4 * count + voxels, mask=inside, other=0.0)
    f = tl.load(pointer + 5 * count + voxels, mask=inside, other=0.0)
    size = tl.maximum(tl.maximum(tl.abs(a), tl.abs(b)), tl.maximum(tl.abs(c), tl.abs(d)))
    size = tl.maximum(size, tl.maximum(tl.abs(e), tl.abs(f)))
    size = tl.where(size == 0.0, 1.0, size)
    return a / size, b / size, c / size, d / size, e / size, f / size, size


@triton.jit
def _forward(tensors, fields, tau, count, BLOCK: tl.constexpr, SWEEPS: tl.constexpr):
    case = tl.program_id(1).to(tl.int64)
    voxels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = voxels < count
    a, b, c, d, e, f, size = _load(tensors + case * 6 * count, voxels, inside, count)
    trace = (a + b + c) * size
    first, second, third, ux, uy, uz, _vx, _vy, _vz, wx, wy, wz = _eigen(a, b, c, d, e, f, SWEEPS)
    share = size / (trace + tau)
    surface, tube = (first - second) * share, (second - third) * share
    out = fields + case * 13 * count + voxels
    tl.store(out, surface * ux * ux, mask=inside)
    tl.store(out + count, surface * uy * uy, mask=inside)
    tl.store(out + 2 * count, surface * uz * uz, mask=inside)
    tl.store(out + 3 * count, surface * ux * uy, mask=inside)
    tl.store(out + 4 * count, surface * ux * uz, mask=inside)
    tl.store(out + 5 * count, surface * uy * uz, mask=inside)
    tl.store(out + 6 * count, tube * wx * wx, mask=inside)
    tl.store(out + 7 * count, tube * wy * wy, mask=inside)
    tl.store(out + 8 * count, tube * wz * wz, mask=inside)
    tl.store(out + 9 * count, tube * wx * wy, mask=inside)
    tl.store(out + 10 * count, tube * wx * wz, mask=inside)
    tl.store(out + 11 * count, tube * wy * wz, mask=inside)
    tl.store(out + 12 * count, tl.log(1.0 + trace / tau), mask=inside)


@triton.jit
def _image(a, b, c, d, e, f, x, y, z):
    """The matrix times a vector."""
    return a * x + d * y + e * z, d * x + b * y + f * z, e * x + f * y + c * z


@triton.jit
def _backward(tensors, gradients, results, tau, count, BLOCK: tl.constexpr, SWEEPS: tl.constexpr):
    case = tl.program_id(1).to(tl.int64)
    voxels = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = voxels < count
    a, b, c, d, e, f, size = _load(tensors + case * 6 * count, voxels, inside, count)
    trace = (a + b + c) * size
    first, second, third, ux, uy, uz, vx, vy, vz, wx, wy, wz = _eigen(a, b, c, d, e, f, SWEEPS)
    given = gradients + case * 13 * count + voxels
    # An upper entry's gradient is counted once and stands for two.
    sa = tl.load(given, mask=inside, other=0.0)
    sb = tl.load(given + count, mask=inside, other=0.0)
    sc = tl.load(given + 2 * count, mask=inside, other=0.0)
    sd = tl.load(given + 3 * count, mask=inside, other=0.0) * 0.5
    se = tl.load(given + 4 * count, mask=inside, other=0.0) * 0.5
    sf = tl.load(given + 5 * count, mask=inside, other=0.0) * 0.5
    ta = tl.load(given + 6 * count, mask=inside, other=0.0)
    tb = tl.load(given + 7 * count, mask=inside, other=0.0)
    tc = tl.load(given + 8 * count, mask=inside, other=0.0)
    td = tl.load(given + 9 * count, mask=inside, other=0.0) * 0.5
    te = tl.load(given + 10 * count, mask=inside, other=0.0) * 0.5
    tf = tl.load(given + 11 * count, mask=inside, other=0.0) * 0.5
    of_log = tl.load(given + 12 * count, mask=inside, other=0.0)

    # In the eigen-basis: row 1 of the surface's gradient, row 3 of the tube's.
    x, y, z = _image(sa, sb, sc, sd, se, sf, ux, uy, uz)
    s11, s12, s13 = ux * x + uy * y + uz * z, vx * x + vy * y + vz * z, wx * x + wy * y + wz * z
    x, y, z = _image(ta, tb, tc, td, te, tf, wx, wy, wz)
    t13, t23, t33 = ux * x + uy * y + uz * z, vx * x + vy * y + vz * z, wx * x + wy * y + wz * z
    spread = first - third
    spread = tl.where(spread > 0, spread, 1.0)
    m11, m22, m33 = s11, t33 - s11, -t33
    m12, m23 = s12, -t23
    m13 = s13 * (first - second) / spread - t13 * (second - third) / spread
    # Back: V M V^T.
    px, py, pz = m11 * ux + m12 * vx + m13 * wx, m11 * uy + m12 * vy + m13 * wy, m11 * uz + m12 * vz + m13 * wz
    qx, qy, qz = m12 * ux + m22 * vx + m23 * wx, m12 * uy + m22 * vy + m23 * wy, m12 * uz + m22 * vz + m23 * wz
    rx, ry, rz = m13 * ux + m23 * vx + m33 * wx, m13 * uy + m23 * vy + m33 * wy, m13 * uz + m23 * vz + m33 * wz
    share = 1.0 / (trace + tau)
    # The dyads are divided by trace + τ, and the logarithm is of the trace: both reach the diagonal.
    dyads = ((first - second) * s11 + (second - third) * t33) * size
    of_trace = (of_log - dyads * share) * share
    out = results + case * 6 * count + voxels
    tl.store(out, (ux * px + vx * qx + wx * rx) * share + of_trace, mask=inside)
    tl.store(out + count, (uy * py + vy * qy + wy * ry) * share + of_trace, mask=inside)
    tl.store(out + 2 * count, (uz * pz + vz * qz + wz * rz) * share + of_trace, mask=inside)
    tl.store(out + 3 * count, 2.0 * (ux * py + vx * qy + wx * ry) * share, mask=inside)
    tl.store(out + 4 * count, 2.0 * (ux * pz + vx * qz + wx * rz) * share, mask=inside)
    tl.store(out + 5 * count, 2.0 * (uy * pz + vy * qz + wy * rz) * share, mask=inside)


def _grid(tensor: Tensor) -> tuple[tuple[int, int], int]:
    count = tensor[0, 0].numel()
    return (triton.cdiv(count, BLOCK), len(tensor)), count


def field_forward(tensor: Tensor, field: Tensor, tau: float) -> None:
    """Fill ``field`` (N, 13, ...) from ``tensor`` (N, 6, ...), both contiguous."""
    grid, count = _grid(tensor)
    _forward[grid](tensor, field, tau, count, BLOCK, SWEEPS)


def field_backward(tensor: Tensor, gradient: Tensor, of_tensor: Tensor, tau: float) -> None:
    """Fill ``of_tensor`` (N, 6, ...) with what ``gradient`` (N, 13, ...) becomes behind the field; all contiguous."""
    grid, count = _grid(tensor)
    _backward[grid](tensor, gradient, of_tensor, tau, count, BLOCK, SWEEPS)
