"""The plan: every decision between a data set and a training, in one file that a person can read and edit.

``planning`` makes it from the data and the device; training and synthesis read nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .typed import build
from .volumes.case import Label
from .volumes.geometry import compose
from .volumes.pipeline import percentile_range
from .volumes.writing import explain_unwritable, write_bytes

FORMAT_VERSION = 1
METHODS = ("ged", "article")
ARTICLE_STRIDE = 8
OBJECTIVES = ("relativistic", "bce", "hinge", "wasserstein", "article")
PRECISIONS, VOLUMES = ("float32", "bfloat16", "float16"), ("whole", "parts")
MAPPINGS = ("percentiles", "window")
HEADS, PAIR_SEES = ("shared", "separate"), ("image", "field", "both")
FIELD_KINDS = ("eigen-directional", "tensor", "gradient", "none")
OPTIMIZERS = ("adam", "PRP+", "FR", "HS", "DY", "HZ")
AUGMENTATIONS = ("shift", "scale", "rotation", "intensity", "noise", "cut-out")


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
    :param kind: type of these whole numbers, as numpy names it.
    """

    name: str
    mapping: str
    typical: tuple[float, float]
    integer: bool
    kind: str = "int16"

    def range_of(self, voxels: np.ndarray) -> tuple[float, float]:
        """What -1 and 1 stand for in a case with these voxels."""
        if self.mapping == "window":
            return self.typical
        return percentile_range(voxels)


@dataclass(frozen=True)
class Networks:
    """Sizes of the two networks.

    :param generator_widths: channels a stage, coarsest first; empty for the article's, which are fixed.
    :param discriminator_widths: channels a stage, finest first; empty for the article's.
    :param heads: ``shared``, one discriminator for image and labels; or ``separate``, one of the image, which learns
        from all cases, and one of the pair, which learns from labelled ones.
    :param strides: how each stage divides the grid along each axis, finest first, 1 or 2; none for 2 everywhere.
    :param pair_sees: of a separate pair head, beside the labels: the ``image``, its ``field``, or ``both``.
    """

    generator_widths: tuple[int, ...]
    discriminator_widths: tuple[int, ...]
    blocks: int
    latent_size: int
    heads: str = "shared"
    pair_sees: str = "both"
    strides: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Field:
    """What the discriminator sees beside the case.

    :param sigma: scale of the gradient, mm.
    :param rho: scale of the average, mm.
    :param kind: one of :data:`FIELD_KINDS`, see ``structure.field``.
    :param stage: of the discriminator, at which it enters; stage s usually has 1/2^(s+1) of the grid's resolution.
    :param agreement: show too whether label boundaries lie along image surfaces, see ``structure.agreement``.
    """

    sigma: float
    rho: float
    kind: str = "eigen-directional"
    stage: int = 0
    agreement: bool = False


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
    :param labelled_share: of each batch that is drawn from labelled cases alone, so that few of them are seen often.
    :param precision: of the networks on CUDA: ``float32``, ``bfloat16`` or ``float16``. The field, logits and losses
        are always in float32, and so is a discriminator's step with float16. Other devices always compute in float32.
    :param held_out: cases that teach nothing: they steer the augmentation and show over-fitting.
    :param balance: how much more often cases of rare classes and with rare labels are drawn: 0 as often as there are
        such cases, 1 all groups equally often. See ``training.sampling``.
    :param volume: ``whole``, or ``parts``: all of a case coarsely and a part of it finely, see ``networks.parts``.
    :param part: voxels of such a part, multiples of 4.
    :param frozen_stages: of the discriminator, finest first, that keep their weights when a model is trained further.
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
    labelled_share: float = 0.0
    held_out: int = 0
    balance: float = 0.0
    frozen_stages: int = 0
    part: tuple[int, ...] = ()


@dataclass(frozen=True)
class Augmentation:
    """How real and synthesized cases are changed alike before the discriminator sees them.

    The strength is the probability of each change. With held-out cases it is steered by what the discriminator knows
    of its training cases by heart; without, it grows to half of ``largest`` along a cosine. See
    ``training.augmentation``.

    :param kinds: of change, among :data:`AUGMENTATIONS`; none for no augmentation.
    :param flips: axes along which a mirrored case is a possible case too; 0 is right to left.
    :param largest: strength, in [0, 1].
    :param target: over-fitting that the strength is to keep: 0 when held-out cases look as real to the discriminator
        as training cases, 1 when as little as synthesized ones.
    :param ramp_cases: training cases seen until the strength may have grown from 0 to 1.
    """

    kinds: tuple[str, ...] = ()
    flips: tuple[int, ...] = ()
    largest: float = 0.8
    target: float = 0.5
    ramp_cases: int = 8000


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

    :param classes: names of the kinds of cases the generator can be asked for; none for one kind.
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
    classes: tuple[str, ...] = ()
    augmentation: Augmentation = field(default_factory=Augmentation)
    format_version: int = FORMAT_VERSION

    @property
    def spatial_dims(self) -> int:
        return len(self.grid.shape)

    @property
    def whole_numbers(self) -> str:
        """Type of the data, and so of synthesized cases, where they are whole numbers in every channel; else ""."""
        if not all(channel.integer for channel in self.channels):
            return ""
        return np.result_type(*(channel.kind for channel in self.channels)).name

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
        plan = build(cls, values, source, "")
        plan._check(source)
        return plan

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels of the grid, along each axis, to one of the coarsest maps of the networks."""
        if self.method == "article":
            return (ARTICLE_STRIDE,) * self.spatial_dims
        return self._stride_to(len(self.networks.generator_widths))

    @property
    def field_stride(self) -> tuple[int, ...]:
        """Voxels of the grid, along each axis, to one of the field."""
        return self._stride_to(self.field.stage + 1)

    def _stride_to(self, stages: int) -> tuple[int, ...]:
        strides = self.networks.strides[:stages] or ((2,) * self.spatial_dims,) * stages
        return tuple(math.prod(along) for along in zip(*strides))

    def _check(self, source: str) -> None:
        """:raises InputError: values that have the right type and cannot be all the same."""
        grid, networks, training = self.grid, self.networks, self.training
        dims = len(grid.shape)

        def refuse(words: str, hint: str = "Edit it, or make a new plan with `gedgan plan`.") -> None:
            raise InputError(f"{source}: {words}.", hint)

        if dims not in (2, 3) or not len(grid.spacing) == len(grid.origin) == len(grid.directions) == dims:
            refuse("grid needs shape, spacing, origin and directions for each of 2 or 3 axes")
        if any(len(row) != dims for row in grid.directions) or abs(np.linalg.det(grid.directions)) < 1e-6:
            refuse("grid.directions is not a matrix of direction cosines")
        if not self.channels or any(len(channel.typical) != 2 for channel in self.channels):
            refuse("every channel needs two typical intensities")
        if sorted(label.index for label in self.labels) != list(range(1, len(self.labels) + 1)):
            refuse("the indices of the labels must run from 1 on without a gap")
        if len(networks.discriminator_widths) != len(networks.generator_widths):
            refuse("the generator and the discriminator need equally many widths")
        if networks.strides and (
            len(networks.strides) != len(networks.generator_widths)
            or any(len(each) != dims or set(each) - {1, 2} or set(each) == {1} for each in networks.strides)
        ):
            refuse("networks.strides needs one entry a stage, each with 1 or 2 for every axis and not 1 alone")
        stride = self.stride
        if any(side % each or side < each for side, each in zip(grid.shape, stride)):
            refuse(
                f"the grid {' x '.join(map(str, grid.shape))} does not fit its networks",
                f"Its sides must be a multiple of {' x '.join(map(str, stride))}.",
            )
        choices = [
            ("method", self.method, METHODS),
            ("networks.heads", networks.heads, HEADS),
            ("networks.pair_sees", networks.pair_sees, PAIR_SEES),
            ("field.kind", self.field.kind, FIELD_KINDS),
            ("training.objective", training.objective, OBJECTIVES),
            ("training.optimizer", training.optimizer, OPTIMIZERS),
            ("training.precision", training.precision, PRECISIONS),
            ("training.volume", training.volume, VOLUMES),
            *(("channels.mapping", channel.mapping, MAPPINGS) for channel in self.channels),
            *(("augmentation.kinds", kind, AUGMENTATIONS) for kind in self.augmentation.kinds),
            *(("augmentation.flips", axis, tuple(range(dims))) for axis in self.augmentation.flips),
        ]
        for name, value, known in choices:
            if value not in known:
                refuse(f"{name} is {value!r}", f"Choose {', '.join(map(str, known))}.")
        if self.method != "article" and not 0 <= self.field.stage < len(networks.discriminator_widths):
            refuse(f"field.stage is {self.field.stage}, but there are {len(networks.discriminator_widths)} stages")
        if training.volume == "parts":
            if self.method == "article" or len(networks.generator_widths) < 3:
                refuse("training on parts needs the method ged and at least 3 stages", "Set training.volume to whole.")
            if self.field.stage or self.augmentation.flips or networks.strides:
                refuse("on parts field.stage must be 0, and augmentation.flips and networks.strides empty")
            fits = len(training.part) == dims and all(
                side > 0 and side % 4 == 0 and side <= whole for side, whole in zip(training.part, grid.shape)
            )
            if not fits:
                refuse(f"training.part {training.part} does not fit", "Its sides must be multiples of 4 in the grid.")
        if networks.heads == "separate" and not self.labels:
            refuse("separate heads need labels, and there are none", "Set networks.heads to shared.")
        if networks.heads == "separate" and networks.pair_sees != "image" and self.field.kind == "none":
            refuse("the pair head is to see a field, and there is none", "Set networks.pair_sees to image.")
        if self.field.agreement and not self.labels:
            refuse("field.agreement needs labels, and there are none", "Set it to false.")
        if self.method == "article" and (self.classes or self.augmentation.kinds):
            refuse("the article's baseline knows neither classes nor augmentation")
        shares = {
            "training.labelled_share": training.labelled_share,
            "training.balance": training.balance,
            "augmentation.largest": self.augmentation.largest,
            "augmentation.target": self.augmentation.target,
        }
        for name, number in shares.items():
            if not 0 <= number <= 1:
                refuse(f"{name} is {number} and must be from 0 to 1")
        above_zero = {
            "grid.spacing": min(grid.spacing),
            "networks widths": min((*networks.generator_widths, *networks.discriminator_widths), default=1),
            "networks.latent_size": networks.latent_size,
            "networks.blocks": networks.blocks,
            "field.sigma": self.field.sigma,
            "field.rho": self.field.rho,
            "training.batch": training.batch,
            "training.penalty_interval": training.penalty_interval,
            "training.learning_rate": training.learning_rate,
            "augmentation.ramp_cases": self.augmentation.ramp_cases,
        }
        from_zero = {
            "training.penalty_weight": training.penalty_weight,
            "training.statistics_weight": training.statistics_weight,
            "training.ema_share": training.ema_share,
            "training.held_out": training.held_out,
            "training.frozen_stages": training.frozen_stages,
        }
        for name, number in above_zero.items():
            if not number > 0:
                refuse(f"{name} is {number} and must be above 0")
        for name, number in from_zero.items():
            if not number >= 0:
                refuse(f"{name} is {number} and must not be below 0")
        for name, number in (("beta1", training.beta1), ("beta2", training.beta2)):
            if not 0 <= number < 1:
                refuse(f"training.{name} is {number} and must be from 0 to below 1")

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
