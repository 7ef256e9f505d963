"""Structure tensor and eigen-decomposition beside their rivals, in one run, in turns.

    .venv/bin/pip install structure-tensor
    .venv/bin/python Testing/Benchmarks/eigen.py [--sides 64 128]

Rivals: the ``structure-tensor`` package (``structure_tensor_3d`` and ``eig_special_3d(full=True)``, NumPy, float32)
and ``torch.linalg.eigh``. All work on the same noise with smooth structure in it. The last table gives the time and
the memory of the eigen-directional field from small volumes to large ones, computed whole and by blocks with a halo.
"""

from __future__ import annotations

import argparse
import resource

import numpy as np
import torch
from common import interleaved, machine, seconds, table

from GEDGANLib.structure.eigen import COMPONENTS, gap_weighted_dyads, symmetric_eigen
from GEDGANLib.structure.field import EigenDirectionalField
from GEDGANLib.structure.tensor import gaussian_gradient, structure_tensor

SIGMA, RHO = 1.0, 2.0


def volume(side: int) -> torch.Tensor:
    """(1, 1, side, side, side) float32: blobs and noise."""
    torch.manual_seed(0)
    coarse = torch.randn(1, 1, side // 8, side // 8, side // 8)
    smooth = torch.nn.functional.interpolate(coarse, size=(side,) * 3, mode="trilinear")
    return smooth + 0.1 * torch.randn_like(smooth)


def matrices(tensor: torch.Tensor) -> torch.Tensor:
    """(1, 6, ...) -> (voxels, 3, 3), for LAPACK."""
    full = tensor.new_zeros(*tensor.shape[2:], 3, 3)
    for channel, (i, j) in enumerate(COMPONENTS[3]):
        full[..., i, j] = full[..., j, i] = tensor[0, channel]
    return full.reshape(-1, 3, 3)


def compare(side: int) -> list[list[str]]:
    from structure_tensor import eig_special_3d, structure_tensor_3d

    image = volume(side)
    array = image[0, 0].numpy()
    tensor = structure_tensor(image, SIGMA, RHO, (1.0,) * 3)[:, 0]
    rival_tensor = structure_tensor_3d(array, SIGMA, RHO).astype(np.float32)
    full = matrices(tensor)
    works = {
        "our tensor": lambda: structure_tensor(image, SIGMA, RHO, (1.0,) * 3),
        "rival's tensor": lambda: structure_tensor_3d(array, SIGMA, RHO),
        "our values and vectors": lambda: symmetric_eigen(tensor),
        "rival's values and vectors": lambda: eig_special_3d(rival_tensor, full=True),
        "our dyads": lambda: gap_weighted_dyads(tensor),
    }
    if side <= 64:
        works["torch.linalg.eigh"] = lambda: torch.linalg.eigh(full)
    spent = interleaved(works, 5 if side <= 64 else 3)
    ours = spent["our tensor"] + spent["our values and vectors"]
    rivals = spent["rival's tensor"] + spent["rival's values and vectors"]
    rows = [[f"{side}³", name, f"{1000 * value:.0f}", ""] for name, value in spent.items()]
    rows.append([f"{side}³", "tensor, values and vectors: ours / structure-tensor", "", f"{ours / rivals:.2f}"])
    if "torch.linalg.eigh" in spent:
        ratio = spent["torch.linalg.eigh"] / spent["our values and vectors"]
        rows.append([f"{side}³", "values and vectors: torch.linalg.eigh / ours", "", f"{ratio:.1f}"])
    return rows


def accuracy(side: int = 48) -> list[list[str]]:
    """Largest error of values relative to the largest value, and of S v - λ v, against float64."""
    from structure_tensor import eig_special_3d

    tensor = structure_tensor(volume(side), SIGMA, RHO, (1.0,) * 3)[:, 0]
    exact = torch.linalg.eigvalsh(matrices(tensor).double()).flip(-1)
    largest = exact[:, :1].clamp_min(1e-30)
    ours = symmetric_eigen(tensor)[0].flatten(2)[0].T
    rival_values = eig_special_3d(tensor[0].numpy().copy(), full=True)[0]  # the same order of components
    rival = torch.from_numpy(np.sort(rival_values.reshape(3, -1).T)[:, ::-1].copy())
    lapack = torch.linalg.eigvalsh(matrices(tensor)).flip(-1)
    return [
        [name, f"{float(((values.double() - exact).abs() / largest).max()):.1e}"]
        for name, values in (("ours", ours), ("structure-tensor", rival), ("torch.linalg.eigh", lapack))
    ]


def scaling(sides: tuple[int, ...]) -> list[list[str]]:
    """Time, peak memory of the process beyond the volume's own start, and the largest difference of the two ways."""
    rows = []
    for side in sides:
        image = volume(side)
        field = EigenDirectionalField((1.0,) * 3, SIGMA, RHO, tau=0.01)
        for name, work in (("by blocks", field.by_blocks), ("whole", field)):
            spent = seconds(lambda work=work, image=image: work(image), 2)
            rows.append([f"{side}³", name, f"{spent:.2f}", f"{1e9 * spent / side**3:.0f}", f"{peak_gb():.2f}"])
        difference = float((field(image) - field.by_blocks(image)).abs().max())
        rows.append([f"{side}³", "largest difference of the two", "", "", f"{difference:.0e}"])
    return rows


def peak_gb() -> float:
    """Peak memory of this process so far, GB (1e9 bytes); small volumes come first, so each adds its own."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--gradient", action="store_true", help="time the gradient alone too")
    arguments = parser.parse_args()
    print(machine() + "\n")
    rows = [row for side in arguments.sides for row in compare(side)]
    print(table(["volume", "work", "ms", "ratio"], rows) + "\n")
    print(table(["values in float32, largest relative error", ""], accuracy()) + "\n")
    print(table(["field of", "", "s", "ns a voxel", "peak memory so far, GB"], scaling((32, 64, 128, 256))))
    if arguments.gradient:
        image = volume(64)
        print(f"\ngradient alone, 64³: {1000 * seconds(lambda: gaussian_gradient(image, SIGMA, (1.0,) * 3)):.0f} ms")


if __name__ == "__main__":
    main()
