"""The plan of a segmentation network: every decision between scans and a training, made from the data and the device.

It is kept in the network's file; see :mod:`.network_file`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..planning.plan import Channel
from ..planning.plan import Plan as AlignmentPlan
from ..planning.typed import build
from ..volumes.case import Label
from .changes import STRONG
from .learner import Recipe
from .unet import FEWEST

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Means:
    """What a device is given.

    :param patch: voxels of a patch at most.
    :param volume: voxels of a scan at most; of a larger one the voxels are made larger.
    :param widths: features a level of the network.
    :param batch: patches an update.
    :param updates: of each training.
    :param seconds: an update for 100 000 voxels of all its patches, about.
    """

    patch: int
    volume: int
    widths: tuple[int, ...]
    batch: int
    updates: int
    seconds: float


MEANS = {
    "cpu": Means(60_000, 600_000, (8, 16, 32), 2, 2000, 0.12),
    "mps": Means(260_000, 6_000_000, (16, 32, 64, 128), 4, 2000, 0.02),
    "cuda": Means(2_100_000, 150_000_000, (32, 64, 128, 256, 320), 2, 4000, 0.003),
}
LONGEST = 512
"""Voxels of a side of a patch at most."""
VARIATIONS = 200
"""Of all labelled scans together."""


@dataclass(frozen=True)
class NetworkPlan:
    """See the module's text.

    :param spacing: of the network's voxels, mm, along the axes closest to right, anterior, superior.
    :param patch: voxels that it sees at once.
    :param widths: features a level, finest first.
    :param batch: patches an update.
    :param updates: of a training.
    :param variations: of all labelled scans together.
    :param channels: how intensities are mapped to [-1, 1].
    :param reasons: why the choices are what they are, in words.
    :param teacher: a network labels the rest first, see :mod:`.job`; takes twice as long.
    :param minutes: that training takes on the device the plan was made for, about.
    """

    spacing: tuple[float, ...]
    patch: tuple[int, ...]
    widths: tuple[int, ...]
    batch: int
    updates: int
    variations: int
    channels: tuple[Channel, ...]
    labels: tuple[Label, ...]
    teacher: bool = False
    reasons: tuple[str, ...] = ()
    minutes: float = 0.0
    format_version: int = FORMAT_VERSION

    def seconds(self, device: str) -> float:
        """An update, about."""
        return MEANS[device].seconds * self.batch * math.prod(self.patch) / 100_000

    @property
    def recipe(self) -> Recipe:
        """How its networks are trained."""
        return Recipe(self.patch, self.updates, self.spacing, self.widths, self.batch, changes=STRONG)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> NetworkPlan:
        """Build a plan from plain JSON types.

        :param source: named in errors.
        :raises InputError: newer version, missing or unknown entries, values that cannot be.
        """
        version = values.get("format_version")
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise InputError(f"{source} was written by a newer GED-GAN, or by something else.", "Update GED-GAN.")
        plan = build(cls, values, source, "")
        check(plan, source)
        return plan


def check(plan: NetworkPlan, source: str) -> None:
    """Refuse a plan that no network can be made of, or one that would not fit into any memory.

    :raises InputError: it is one.
    """
    dims = len(plan.spacing)
    numbers = (*plan.patch, *plan.widths, plan.batch, plan.updates)
    wrong = None
    if dims != 3 or len(plan.patch) != dims:
        wrong = "spacing and patch must have three sides"
    elif not all(1e-3 <= step <= 1e3 for step in plan.spacing):
        wrong = "spacing must be in mm"
    elif min(numbers) < 1 or max(plan.patch) > 1024 or math.prod(plan.patch) > 20_000_000:
        wrong = f"a patch of {' x '.join(map(str, plan.patch))} voxels cannot be"
    elif not 3 <= len(plan.widths) <= 8 or max(plan.widths) > 1024 or plan.batch > 1024:
        wrong = "so large a network cannot be"
    elif not 1 <= len(plan.labels) <= 255 or not 1 <= len(plan.channels) <= 16:
        wrong = "it needs labels and channels"
    elif [label.index for label in plan.labels] != list(range(1, len(plan.labels) + 1)):
        wrong = "labels must be numbered from 1 on"
    if wrong:
        raise InputError(f"{source}: {wrong}.", "Learn to segment again with `gedgan segment`.")


def plan_network(
    aligned: AlignmentPlan,
    labels: Sequence[Label],
    device: str,
    spacing: Sequence[float] | None = None,
    updates: int | None = None,
    variations: int | None = None,
    teacher: bool = False,
    most: int | None = None,
) -> NetworkPlan:
    """Decide everything that a segmentation network needs.

    :param aligned: plan of the alignment of the scans; says how large they are, and maps intensities.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param spacing, updates, variations: instead of a choice.
    :param teacher: see :class:`NetworkPlan`.
    :param most: voxels of a scan, for small trials.
    :raises InputError: no network can be made for such scans, as of too many labels or channels.
    """
    means, reasons = MEANS[device], []
    if most is not None:
        means = replace(means, volume=min(most, means.volume), patch=min(most, means.patch))
    shape = np.array(aligned.data.get("median_shape", aligned.grid.shape), float)
    own = np.array(aligned.data.get("median_spacing", aligned.grid.spacing), float)
    words = " x ".join(f"{step:g}" for step in own)
    if spacing is not None:
        steps = np.array(spacing, float)
        reasons.append("The network's voxels are as was asked for.")
    else:
        steps = own.copy()
        while math.prod(shape * own / steps) > means.volume:
            steps = np.where(steps < 1.5 * steps.min(), steps * 1.02, steps)  # what is fine already grows first
        if (steps > own * 1.01).any():
            reasons.append(
                f"The network's voxels are larger than those of the scans ({words} mm), so that it learns in minutes "
                "here; --spacing asks for others."
            )
        else:
            reasons.append(f"The network's voxels are as large as those of the scans are mostly: {words} mm.")
    steps = np.array([float(f"{step:.3g}") for step in steps])
    sides = np.maximum(np.round(shape * own / steps), 1)
    patch = patch_of(sides, steps, means.patch, len(means.widths))
    batch, wanted = means.batch, updates or means.updates
    if (np.array(patch) >= sides).all():
        reasons.append(f"It sees a scan whole, {' x '.join(map(str, patch))} voxels.")
    else:
        reasons.append(f"It sees {' x '.join(map(str, patch))} voxels at once, of about {_words(sides)}.")
    plan = NetworkPlan(
        tuple(float(step) for step in steps), patch, means.widths, batch, wanted,
        VARIATIONS if variations is None else variations, aligned.channels, tuple(labels), teacher, tuple(reasons),
    )  # fmt: skip
    plan = replace(plan, minutes=round((1 + teacher) * wanted * plan.seconds(device) / 60, 1))
    check(plan, "These scans")
    return plan


def _words(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.0f}" for side in sides)


def patch_of(shape: Sequence[float], spacing: Sequence[float], voxels: int, levels: int) -> tuple[int, ...]:
    """Sides of a patch: those of the scans where these have no more voxels, else as long in mm along all axes.

    Rounded to what the levels of a network can halve.

    :param shape: of scans, voxels.
    :param voxels: at most.
    """
    sides, steps = np.minimum(np.array(shape, float), LONGEST), np.array(spacing, float)
    low, high = 0.0, float((sides * steps).max())
    for _halving in range(40):
        length = (low + high) / 2
        fits = math.prod(np.minimum(sides, length / steps)) <= voxels
        low, high = (length, high) if fits else (low, length)
    wanted = np.minimum(sides, high / steps)
    by = 2 ** (levels - 1)
    # Upwards where the scan is whole in it, to the nearest where it is not.
    rounded = []
    for side, whole in zip(wanted, sides):
        multiple = by
        while multiple > 1 and side < multiple * FEWEST / 2:
            multiple //= 2
        count = math.ceil(side / multiple - 1e-6) if side >= whole - 1e-6 else max(round(side / multiple), 1)
        rounded.append(count * multiple)
    return tuple(int(side) for side in rounded)
