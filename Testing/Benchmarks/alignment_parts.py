"""The parts of alignment beside libraries that have such: cubic sampling, local correlation, the exponential.

    python Testing/Benchmarks/alignment_parts.py     # uses torch-interpol and hf-deepali where they are installed

Each row: what is computed, of how many voxels, by whom, seconds (the shortest of some, taken in turns), ours over it,
and how far the result is from a reference: SciPy's in double precision for sampling; for the exponential the mean
distance, in voxels, that a way there and back ends from where it began.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from common import interleaved, machine, table

from GEDGANLib.alignment.sampling import identity, sample_linear, sample_spline, spline_coefficients
from GEDGANLib.alignment.similarity import LocalCorrelation
from GEDGANLib.alignment.velocity import exponential, smooth, steps_for


def rows_of(what: str, size: str, works: dict[str, Callable], far: dict[str, float], repeats: int) -> list[list[str]]:
    times = interleaved(works, repeats)
    ours = next(iter(times.values()))
    return [
        [what, size, name, f"{time:.3f}", f"{ours / time:.2f}", f"{far[name]:.2g}" if name in far else ""]
        for name, time in times.items()
    ]


def sampling(side: int, repeats: int) -> list[list[str]]:
    """Cubic B-splines through a volume, read off at scattered places."""
    from scipy import ndimage

    random = torch.Generator().manual_seed(0)
    volume = torch.randn(1, 1, side, side, side, generator=random)
    extent = (float(side),) * 3
    bend = smooth(torch.randn(1, 3, side // 8, side // 8, side // 8, generator=random), side / 8, extent) * 20
    positions = identity((side,) * 3, extent, volume)
    positions = positions + torch.nn.functional.interpolate(bend, (side,) * 3, mode="trilinear")
    index = (positions + side / 2 - 0.5).clamp(0, side - 1)

    works: dict[str, Callable] = {"ours": lambda: sample_spline(spline_coefficients(volume), positions, extent)}
    array, places = volume[0, 0].double().numpy(), index[0].double().numpy()
    reference = ndimage.map_coordinates(array, places, order=3, mode="mirror")
    far = {"ours": float(np.abs(works["ours"]()[0, 0].numpy() - reference).max())}
    works["scipy"] = lambda: ndimage.map_coordinates(volume[0, 0].numpy(), index[0].numpy(), order=3, mode="mirror")
    works["linear"] = lambda: sample_linear(volume, positions, extent)
    try:
        import interpol

        def by_interpol() -> torch.Tensor:
            options = {"interpolation": 3, "bound": "dct1", "prefilter": True, "extrapolate": True}
            return interpol.grid_pull(volume, index.movedim(1, -1), **options)

        works["torch-interpol"] = by_interpol
        far["torch-interpol"] = float(np.abs(by_interpol()[0, 0].numpy() - reference).max())
    except ImportError:
        pass
    return rows_of("cubic sampling", f"{side}³", works, far, repeats)


def correlation(side: int, repeats: int) -> list[list[str]]:
    """Local normalised cross-correlation in windows of five voxels, forward and backward, four cases."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    random = torch.Generator().manual_seed(0)
    fixed = torch.randn(1, 1, side, side, side, generator=random)
    moving = torch.randn(4, 1, side, side, side, generator=random).requires_grad_()
    compare, theirs = LocalCorrelation(fixed, 5), LocalNormalizedCrossCorrelationLoss(3, 5)
    works = {
        "ours": lambda: torch.autograd.grad(compare(moving).mean(), moving),
        "MONAI": lambda: torch.autograd.grad(theirs(moving, fixed.expand_as(moving)), moving),
    }
    return rows_of("local correlation", f"4 x {side}³", works, {}, repeats)


def exponentials(side: int, repeats: int) -> list[list[str]]:
    """Four velocity fields of at most six voxels, forward and backward."""
    from monai.networks.blocks import DVF2DDF

    random = torch.Generator().manual_seed(0)
    extent = (float(side),) * 3
    velocity = smooth(torch.randn(4, 3, side, side, side, generator=random), side / 10, extent)
    velocity = (6 * velocity / velocity.abs().amax()).requires_grad_()
    steps = steps_for(velocity, extent)
    found: dict[str, Callable] = {"ours": lambda v: exponential(v, extent, steps)}
    theirs = DVF2DDF(num_steps=steps, mode="bilinear", padding_mode="border")
    found["MONAI"] = theirs
    try:
        from deepali.core import flow

        def by_deepali(v: torch.Tensor) -> torch.Tensor:
            scaled = v.flip(1) * (2 / side)  # its cube runs from -1 to 1, its first component along the last axis
            return flow.expv(scaled, steps=steps, align_corners=False).flip(1) * (side / 2)

        found["deepali"] = by_deepali
    except ImportError:
        pass
    here, far = identity((side,) * 3, extent, velocity.detach()), {}
    for name, work in found.items():
        with torch.no_grad():
            there, back = work(velocity), work(-velocity)
            rest = there + sample_linear(back, here + there, extent)
            far[name] = float(rest.norm(dim=1).mean())
    works = {
        name: lambda work=work: torch.autograd.grad(work(velocity).square().mean(), velocity)
        for name, work in found.items()
    }
    return rows_of("exponential", f"4 x {side}³, {steps} steps", works, far, repeats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for side in arguments.sides:
        rows += sampling(side, arguments.repeats)
        rows += correlation(side, arguments.repeats)
        rows += exponentials(side // 2, arguments.repeats)
    print(machine())
    print(table(["what", "voxels", "by", "seconds", "ours over it", "away"], rows))
