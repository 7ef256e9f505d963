"""The plan: every decision between a data set and a training, in one file that a person can read and edit.

``make_plan`` looks at the fingerprint of the data and at the device; training and synthesis read the plan alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .volumes.case import Label
from .volumes.geometry import compose
from .volumes.pipeline import Fingerprint
from .volumes.writing import explain_unwritable, write_bytes

FORMAT_VERSION = 1
WHOLE_VOLUME_VOXELS = {"cpu": 64**3, "mps": 96**3, "cuda": 128**3}
"""Voxels up to which whole volumes are trained on each kind of device; above, the plan takes larger voxels."""


@dataclass(frozen=True)
class Grid:
    """The working grid.

    :param shape: voxels, axes closest to right, anterior, superior.
    :param spacing: mm.
    :param directions: direction cosines of synthesized cases, 3x3, one axis a column, RAS.
    :param origin: centre of the first voxel of synthesized cases, mm in RAS.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    directions: tuple[tuple[float, ...], ...]
    origin: tuple[float, ...]

    @property
    def affine(self) -> np.ndarray:
        """Affine (4, 4) of synthesized cases."""
        return compose(np.array(self.directions), self.spacing, self.origin)


@dataclass(frozen=True)
class Channel:
    """How the intensities of one image channel are mapped to [-1, 1].

    :param mapping: ``percentiles`` (each case by its own 0.5th and 99.5th) or ``window`` (all cases by ``typical``).
    :param typical: what -1 and 1 stand for in synthesized cases, in the units of the data.
    :param integer: the data are whole numbers, so synthesized cases are written as whole numbers too.
    """

    name: str
    mapping: str
    typical: tuple[float, float]
    integer: bool

    def range_of(self, voxels: np.ndarray) -> tuple[float, float]:
        """What -1 and 1 stand for in a case with these voxels."""
        if self.mapping == "window":
            return self.typical
        low, high = (float(value) for value in np.percentile(voxels, (0.5, 99.5)))
        return (low, high) if high > low else (float(voxels.min()), float(voxels.max()))


@dataclass(frozen=True)
class Networks:
    """Sizes of the two networks.

    :param generator_widths: channels a stage, coarsest first.
    :param discriminator_widths: channels a stage, finest first.
    """

    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    blocks: int
    latent_size: int


@dataclass(frozen=True)
class Field:
    """Scales of the eigen-directional field.

    :param sigma: of the gradient, mm.
    :param rho: of the average, mm.
    """

    sigma: float
    rho: float


@dataclass(frozen=True)
class Training:
    """How the game is played.

    :param penalty_weight: γ of R1 and R2.
    :param learning_rate: of both players at the start; falls to a tenth along a cosine.
    :param ema_share: half-life of the averaged generator as a share of the cases seen so far.
    """

    batch: int
    learning_rate: float
    beta2: float
    penalty_weight: float
    ema_share: float
    precision: str
    volume: str


@dataclass(frozen=True)
class Prediction:
    """What the plan expects on its device; rough figures.

    :param memory_gb: peak memory of the training process, GB (1e9 bytes).
    :param minutes_per_1000_steps: on the device the plan was made for.
    """

    device: str
    memory_gb: float
    minutes_per_1000_steps: float


@dataclass(frozen=True)
class Plan:
    """See the module's text. ``reasons`` says in words why the choices are what they are."""

    grid: Grid
    channels: tuple[Channel, ...]
    labels: tuple[Label, ...]
    networks: Networks
    field: Field
    training: Training
    prediction: Prediction
    description: str
    data: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def spatial_dims(self) -> int:
        return len(self.grid.shape)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> Plan:
        """Build a plan from plain JSON types.

        :param source: named in errors, a file for example.
        :raises InputError: newer version, missing or unknown entries, values that cannot be.
        """
        version = values.get("format_version")
        if not isinstance(version, int):
            raise InputError(f"{source} is not a plan of GED-GAN.", "Make one with `gedgan plan DATA -o plan.json`.")
        if version > FORMAT_VERSION:
            raise InputError(
                f"{source} was written by a newer GED-GAN (plan version {version}, this one reads {FORMAT_VERSION}).",
                "Update GED-GAN.",
            )
        try:
            plan = cls(
                grid=Grid(**_frozen(values["grid"])),
                channels=tuple(Channel(**_frozen(channel)) for channel in values["channels"]),
                labels=tuple(Label(**_frozen(label)) for label in values["labels"]),
                networks=Networks(**_frozen(values["networks"])),
                field=Field(**values["field"]),
                training=Training(**values["training"]),
                prediction=Prediction(**values["prediction"]),
                **{
                    entry.name: _frozen(values[entry.name])
                    for entry in fields(cls)
                    if entry.name in ("description", "data", "reasons", "format_version") and entry.name in values
                },
            )
            plan._check(source)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} is not a complete plan: {str(error).splitlines()[0]}.", "Make a new one with `gedgan plan`."
            ) from error
        return plan

    def _check(self, source: str) -> None:
        stride = 2 ** len(self.networks.generator_widths)
        if len(self.networks.discriminator_widths) != len(self.networks.generator_widths):
            raise InputError(f"{source}: the generator and the discriminator need equally many widths.", "Edit them.")
        if any(side % stride or side < stride for side in self.grid.shape):
            raise InputError(
                f"{source}: the grid {' x '.join(map(str, self.grid.shape))} does not fit networks of "
                f"{len(self.networks.generator_widths)} stages.",
                f"Every side must be a multiple of {stride}.",
            )
        numbers = [self.training.batch, self.training.learning_rate, self.field.sigma, *self.grid.spacing]
        if min(numbers) <= 0 or self.training.penalty_weight < 0:
            raise InputError(f"{source}: batch, learning rate, scales and spacing must be above 0.", "Edit them.")

    def save(self, path: Path) -> None:
        """Write the plan as JSON.

        :raises InputError: the file cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain_unwritable(path, error) from error
        write_bytes(path, (json.dumps(self.to_dict(), indent=1) + "\n").encode("utf-8"))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan.

        :raises InputError: missing file, not JSON, not a plan.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
        except ValueError as error:
            raise InputError(f"{path} is not JSON ({error}).", "Check what was edited last.") from error
        if not isinstance(values, dict):
            raise InputError(f"{path} is not a plan of GED-GAN.", "Make one with `gedgan plan DATA -o plan.json`.")
        return cls.from_dict(values, str(path))


def _frozen(value: Any) -> Any:
    """Lists of a JSON value as tuples, so that plans compare and hash."""
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return {key: _frozen(part) for key, part in value.items()} if isinstance(value, dict) else value


def choose_device(wanted: str = "auto") -> str:
    """``cuda``, ``mps`` or ``cpu``: the best there is, or the one that is asked for.

    :raises InputError: the one asked for is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, there in available.items() if there)
    if wanted not in available:
        raise InputError(f"There is no kind of device called {wanted}.", "Choose auto, cuda, mps or cpu.")
    if not available[wanted]:
        reason = "" if wanted != "cuda" or torch.version.cuda else " (this PyTorch was built without CUDA)"
        raise InputError(f"No {wanted} device can be used here{reason}.", "Use --device auto, or repair the driver.")
    return wanted


def make_plan(
    fingerprint: Fingerprint,
    device: str = "cpu",
    grid_shape: Sequence[int] | None = None,
    spacing: Sequence[float] | None = None,
) -> Plan:
    """Decide everything that training needs.

    :param device: ``cuda``, ``mps`` or ``cpu``.
    :param grid_shape: voxels of the working grid, instead of a choice; rounded up to what the networks take.
    :param spacing: voxel size in mm, instead of a choice.
    """
    reasons: list[str] = []
    grid, stages = _choose_grid(fingerprint, device, grid_shape, spacing, reasons)
    channels = tuple(_choose_mapping(fingerprint, index, reasons) for index in range(len(fingerprint.channel_names)))
    base = {"cpu": 16, "mps": 24, "cuda": 32}[device]
    widths = tuple(min(base * 2**stage, 8 * base) for stage in range(stages))
    batch = {"cpu": 4, "mps": 8, "cuda": 16}[device]
    reasons.append(
        f"Widths from {widths[0]} to {widths[-1]} and batches of {batch}: what a {device} trains in reasonable time."
    )
    networks = Networks(widths[::-1], widths, 1, 128)
    step = float(min(grid.spacing))
    # A gradient over about a voxel, averaged over about two: finer is noise, coarser blurs neighbouring surfaces.
    scales = Field(sigma=step, rho=2 * step)
    training = Training(
        batch=batch,
        learning_rate=5e-4,
        beta2=0.9,
        penalty_weight=_penalty_weight(grid.shape),
        ema_share=0.05,
        precision="float32",
        volume="whole",
    )
    plan = Plan(
        grid=grid,
        channels=channels,
        labels=fingerprint.labels,
        networks=networks,
        field=scales,
        training=training,
        prediction=Prediction(device, 0.0, 0.0),
        description=fingerprint.description,
        data={
            "cases": len(fingerprint.cases),
            "labelled": sum(case.labelled for case in fingerprint.cases),
            "median_shape": tuple(int(x) for x in np.median([case.shape for case in fingerprint.cases], axis=0)),
            "median_spacing": tuple(
                round(float(x), 4) for x in np.median([case.spacing for case in fingerprint.cases], axis=0)
            ),
        },
        reasons=tuple(reasons),
    )
    from dataclasses import replace

    from .networks.cost import predict

    memory_gb, minutes = predict(plan, device)
    return replace(plan, prediction=Prediction(device, round(memory_gb, 2), round(minutes, 1)))


def _penalty_weight(shape: Sequence[int]) -> float:
    """γ for a grid: 100 at 32x40x32, where it was found to train steadily, and in proportion to the voxels."""
    return float(f"{100 * math.prod(shape) / (32 * 40 * 32):.2g}")


def _choose_grid(
    fingerprint: Fingerprint,
    device: str,
    grid_shape: Sequence[int] | None,
    wanted_spacing: Sequence[float] | None,
    reasons: list[str],
) -> tuple[Grid, int]:
    cases = fingerprint.cases
    extents = np.array([np.array(case.shape) * np.array(case.spacing) for case in cases])
    # All of the labels, and the field of view of the median case.
    extent = np.maximum(np.median(extents, axis=0), 2 * np.max([case.label_reach for case in cases], axis=0))
    spacing = np.median([case.spacing for case in cases], axis=0)
    if wanted_spacing is not None:
        spacing = np.array(wanted_spacing, dtype=float)
        reasons.append(f"Spacing {_words(spacing)} mm, as asked for.")
    else:
        budget = WHOLE_VOLUME_VOXELS[device]
        if np.prod(extent / spacing) > budget * 1.05:
            finest = spacing.copy()
            # Larger voxels along the finest axes first, so that thick slices keep their in-plane resolution longest.
            low, high = spacing.min(), (np.prod(extent) / budget) ** (1 / 3) * 4
            for _ in range(60):
                middle = (low + high) / 2
                low, high = (middle, high) if np.prod(extent / np.maximum(spacing, middle)) > budget else (low, middle)
            spacing = np.maximum(spacing, math.ceil(high * 100) / 100)
            reasons.append(
                f"Spacing {_words(spacing)} mm instead of the data's {_words(finest)} mm, so that a whole volume fits "
                f"what a {device} trains."
            )
        else:
            spacing = np.round(spacing, 4)
            reasons.append(f"Spacing {_words(spacing)} mm: that of the median case.")
    voxels = np.array(grid_shape) if grid_shape is not None else np.ceil(extent / spacing - 0.05)
    stages = int(np.clip(math.floor(math.log2(max(voxels.min(), 8) / 4)), 1, 5))
    if grid_shape is None:
        # A coarser stride would pad more than an eighth of the volume: take fewer stages then.
        while stages > 2 and np.prod(_round_up(voxels, 2**stages) / voxels) > 1.5:
            stages -= 1
    shape = _round_up(voxels, 2**stages)
    reasons.append(
        f"Grid {' x '.join(map(str, shape))}: "
        + ("as asked for" if grid_shape is not None else "holds the median field of view and every label")
        + f", rounded up to multiples of {2**stages} for networks of {stages} stages."
    )
    directions = np.array(cases[_medoid([np.array(case.directions) for case in cases])].directions)
    centre = np.median([case.centre for case in cases], axis=0)
    origin = centre - directions @ ((np.array(shape) - 1) / 2 * spacing)
    grid = Grid(
        shape=tuple(int(side) for side in shape),
        spacing=tuple(float(side) for side in spacing),
        directions=tuple(tuple(float(x) for x in row) for row in directions),
        origin=tuple(float(x) for x in origin),
    )
    return grid, stages


def _round_up(voxels: np.ndarray, stride: int) -> np.ndarray:
    return (np.ceil(np.asarray(voxels) / stride) * stride).astype(int)


def _words(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _medoid(matrices: list[np.ndarray]) -> int:
    """Index of the matrix nearest to all others (an existing case's directions, so always a rotation)."""
    stack = np.stack(matrices).reshape(len(matrices), -1)
    return int(np.abs(stack[:, None] - stack[None]).sum((1, 2)).argmin())


def _choose_mapping(fingerprint: Fingerprint, index: int, reasons: list[str]) -> Channel:
    name = fingerprint.channel_names[index]
    lows, highs = zip(*(case.percentiles[index] for case in fingerprint.cases))
    integer = all(case.integer for case in fingerprint.cases)
    is_ct = name.strip().lower() in ("ct", "computed tomography") or (
        integer and np.median([case.minimum for case in fingerprint.cases]) <= -900
    )
    if is_ct:
        window = (math.floor(np.median(lows) / 10) * 10.0, math.ceil(np.median(highs) / 10) * 10.0)
        reasons.append(
            f"Channel {name}: one window for all, {window[0]:g} to {window[1]:g}, since CT numbers are absolute."
        )
        return Channel(name, "window", window, integer)
    reasons.append(f"Channel {name}: each case by its own 0.5th and 99.5th percentile, since its scale is arbitrary.")
    return Channel(name, "percentiles", (float(np.median(lows)), float(np.median(highs))), integer)
