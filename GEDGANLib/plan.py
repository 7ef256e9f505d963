"""The plan: every decision between a data set and a training, in one file that a person can read and edit.

``planning`` makes it from the data and the device; training and synthesis read nothing else.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .volumes.case import Label
from .volumes.geometry import compose
from .volumes.writing import explain_unwritable, write_bytes

FORMAT_VERSION = 1
METHODS = ("ged", "article")
ARTICLE_STRIDE = 8
OBJECTIVES = ("relativistic", "bce", "hinge", "wasserstein", "article")
FIELD_KINDS = ("eigen-directional", "tensor", "gradient", "none")
OPTIMIZERS = ("adam", "PRP+", "FR", "HS", "DY", "HZ")


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

    :param generator_widths: channels a stage, coarsest first; empty for the article's, which are fixed.
    :param discriminator_widths: channels a stage, finest first; empty for the article's.
    """

    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    blocks: int
    latent_size: int


@dataclass(frozen=True)
class Field:
    """What the discriminator sees beside the case.

    :param sigma: scale of the gradient, mm.
    :param rho: scale of the average, mm.
    :param kind: one of :data:`FIELD_KINDS`, see ``structure.field``.
    :param stage: of the discriminator, at which it enters; stage s has 1/2^(s+1) of the grid's resolution.
    """

    sigma: float
    rho: float
    kind: str = "eigen-directional"
    stage: int = 0

    @property
    def stride(self) -> int:
        """Voxels of the grid to one of the field, along each axis."""
        return 2 ** (self.stage + 1)


@dataclass(frozen=True)
class Training:
    """How the game is played.

    :param objective: one of :data:`OBJECTIVES`, see ``training.objectives``.
    :param optimizer: ``adam``, or a variant of the conjugate-gradient updates in ``training.conjugate``.
    :param penalty_weight: γ of the gradient penalty; 0 for none.
    :param penalty_interval: k; the penalty is taken at every k-th step, k times as heavy.
    :param beta1: of Adam; above 0 it is momentum.
    :param learning_rate: of both players at the start; falls to a tenth along a cosine.
    :param statistics_weight: of the distance from the data's mean case and field in the generator's objective.
    :param ema_share: half-life of the averaged generator as a share of the cases seen so far.
    """

    batch: int
    learning_rate: float
    beta2: float
    penalty_weight: float
    statistics_weight: float
    ema_share: float
    precision: str
    volume: str
    objective: str = "relativistic"
    optimizer: str = "adam"
    beta1: float = 0.0
    penalty_interval: int = 1


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
    """See the module's text.

    :param method: ``ged``, or ``article`` for the baseline.
    :param reasons: why the choices are what they are, in words.
    """

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
    method: str = "ged"
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
                    name: _frozen(values[name])
                    for name in ("description", "data", "reasons", "method", "format_version")
                    if name in values
                },
            )
            plan._check(source)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{source} is not a complete plan: {str(error).splitlines()[0]}.", "Make a new one with `gedgan plan`."
            ) from error
        return plan

    @property
    def stride(self) -> int:
        """Voxels of the grid to one of the coarsest maps of the networks."""
        return ARTICLE_STRIDE if self.method == "article" else 2 ** len(self.networks.generator_widths)

    def _check(self, source: str) -> None:
        stride = self.stride
        if len(self.networks.discriminator_widths) != len(self.networks.generator_widths):
            raise InputError(f"{source}: the generator and the discriminator need equally many widths.", "Edit them.")
        if any(side % stride or side < stride for side in self.grid.shape):
            raise InputError(
                f"{source}: the grid {' x '.join(map(str, self.grid.shape))} does not fit its networks.",
                f"Every side must be a multiple of {stride}.",
            )
        for name, value, known in (
            ("method", self.method, METHODS),
            ("objective", self.training.objective, OBJECTIVES),
            ("optimizer", self.training.optimizer, OPTIMIZERS),
            ("kind of field", self.field.kind, FIELD_KINDS),
        ):
            if value not in known:
                raise InputError(f"{source}: there is no {name} called {value}.", f"Choose {', '.join(known)}.")
        if self.method != "article" and not 0 <= self.field.stage < len(self.networks.discriminator_widths):
            raise InputError(f"{source}: the field enters at stage {self.field.stage}, which is not there.", "Edit it.")
        training = self.training
        numbers = [training.batch, training.penalty_interval, training.learning_rate, self.field.sigma]
        if min(*numbers, *self.grid.spacing) <= 0 or self.training.penalty_weight < 0:
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
