"""The plan: every decision between a data set and a training, in one file that a person can read and edit.

``planning`` makes it from the data and the device; training and synthesis read nothing else.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..jobs.writing import explain_unwritable, write_bytes
from ..volumes.case import Label
from ..volumes.fingerprint import foreground_range, percentile_range
from ..volumes.geometry import compose
from .checking import check
from .typed import build
from .words import ARTICLE_STRIDE

FORMAT_VERSION = 1


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

    def at(self, shape: tuple[int, ...]) -> Grid:
        """The box of this grid in other voxels; the centre of the first one moves with their size."""
        spacing = tuple(step * count / other for step, count, other in zip(self.spacing, self.shape, shape))
        moved = np.array(self.directions) @ ((np.array(spacing) - self.spacing) / 2)
        origin = tuple(float(first + by) for first, by in zip(self.origin, moved))
        return Grid(tuple(shape), spacing, self.directions, origin)


@dataclass(frozen=True)
class Channel:
    """How the intensities of one image channel are mapped to [-1, 1].

    :param mapping: ``foreground`` (each case from its own 0.5th percentile to the 99.5th of what is no air, see
        :func:`.fingerprint.foreground_range`), ``percentiles`` (to the 99.5th of all voxels, in plans of before) or
        ``window`` (all cases by ``typical``).
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
        return (foreground_range if self.mapping == "foreground" else percentile_range)(voxels)


@dataclass(frozen=True)
class Alignment:
    """Whether and how cases are brought to a common template, see ``alignment``.

    :param kind: one of :data:`.words.ALIGNMENTS`: ``template``, or ``none`` where the same place does not mean the same
        anatomy, or nobody looked.
    :param window: of local correlations, voxels, odd.
    :param squared: weight of the squared difference beside them.
    :param stiffness: weight of the roughness of velocities.
    :param control: voxels between two velocities.
    :param smoothing: of velocities, in their own voxels.
    """

    kind: str = "none"
    window: int = 3
    squared: float = 0.3
    stiffness: float = 0.15
    control: float = 2.0
    smoothing: float = 1.0


@dataclass(frozen=True)
class Statistical:
    """Grids over the box of the working grid on which a statistical model keeps what it knows, see
    ``networks.statistical``; () in a plan of the first generator, and before the cases are aligned.

    :param modes: how many of the latent's numbers are scores of modes, where a refiner takes the rest; 0 for all.
    :param labels: of the labels' modes; () where labels are only deformed.
    :param relative: whether a refiner paints in units of how much cases differ from their statistical ones, and the
        penalty of a judge is in units of how much that is of all that it sees; False in plans of before.
    :param shared: whether the modes are those of a model for sharing, which give little of single cases away.
    :param whitened: whether the judge of the image sees it filtered so that what cases differ by from their statistical
        ones differs alike at all frequencies, see ``structure.whitening``; False in plans of before.
    :param gains: of that filter, for each channel, measured where the cases are aligned.
    """

    template: tuple[int, ...] = ()
    velocity: tuple[int, ...] = ()
    look: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()
    modes: int = 0
    relative: bool = False
    shared: bool = False
    whitened: bool = False
    gains: tuple[tuple[float, ...], ...] = ()

    def on_grids_of(self, other: Statistical, modes: int) -> Statistical:
        """The same, on the grids of another one and with so many modes."""
        grids = {name: getattr(other, name) for name in ("template", "velocity", "look", "labels")}
        return replace(self, modes=modes, **grids)


@dataclass(frozen=True)
class Networks:
    """Sizes of the two networks.

    :param generator: one of :data:`.words.GENERATORS`: the ``trunk`` makes a case of the latent alone, the ``refiner``
        repaints what an alignment makes of it.
    :param generator_widths: channels a stage, coarsest first, the refiner's last one at full resolution; empty for the
        article's, which are fixed.
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
    generator: str = "trunk"


@dataclass(frozen=True)
class Field:
    """What the discriminator sees beside the case.

    :param sigma: scale of the gradient, mm.
    :param rho: scale of the average, mm.
    :param kind: one of :data:`.words.FIELD_KINDS`, see ``structure.field``.
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

    :param objective: one of :data:`.words.OBJECTIVES`, see ``training.objectives``.
    :param optimizer: ``adam``, or a variant of the conjugate-gradient updates in ``training.conjugate``.
    :param penalty_weight: γ of the gradient penalty; 0 for none. Of a plan that repaints it is relative, see
        ``statistical.relative``.
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
    :param matched: share of each batch in which a made case that is repainted has the anatomy of the real one that it
        is paired with, see ``training.anatomy``; 0 in plans of before.
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
    matched: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """How real and synthesized cases are changed alike before the discriminator sees them.

    The strength is the probability of each change. With held-out cases it is steered by what the discriminator knows
    of its training cases by heart; without, it grows to half of ``largest`` along a cosine. See
    ``training.augmentation``.

    :param kinds: of change, among :data:`.words.AUGMENTATIONS`; none for no augmentation.
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
    :param method: ``ged``; ``article`` for the baseline; or ``modes`` for a statistical model, which is aligned and not
        trained.
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
    alignment: Alignment = field(default_factory=Alignment)
    statistical: Statistical = field(default_factory=Statistical)
    format_version: int = FORMAT_VERSION

    @property
    def spatial_dims(self) -> int:
        return len(self.grid.shape)

    @property
    def extent(self) -> tuple[float, ...]:
        """Sides of the box that the working grid fills, mm."""
        return tuple(float(side * step) for side, step in zip(self.grid.shape, self.grid.spacing))

    @property
    def whole_numbers(self) -> str:
        """Type of the data, and so of synthesized cases, where they are whole numbers in every channel; else ""."""
        if not all(channel.integer for channel in self.channels):
            return ""
        return np.result_type(*(channel.kind for channel in self.channels)).name

    @property
    def kinds(self) -> tuple[str, ...]:
        """Type of the data of each channel, and so of synthesized cases, where they are whole numbers; else ""."""
        return tuple(channel.kind if channel.integer else "" for channel in self.channels)

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
        check(plan, source)
        return plan

    @property
    def repaints(self) -> bool:
        """Whether it is of the second generator: aligned cases, repainted."""
        return self.networks.generator == "refiner"

    @property
    def stride(self) -> tuple[int, ...]:
        """Voxels of the grid, along each axis, to one of the coarsest maps of the networks."""
        if self.method == "article":
            return (ARTICLE_STRIDE,) * self.spatial_dims
        return self._stride_to(len(self.networks.discriminator_widths))

    @property
    def field_stride(self) -> tuple[int, ...]:
        """Voxels of the grid, along each axis, to one of the field."""
        return self._stride_to(self.field.stage + 1)

    def _stride_to(self, stages: int) -> tuple[int, ...]:
        strides = self.networks.strides[:stages] or ((2,) * self.spatial_dims,) * stages
        return tuple(math.prod(along) for along in zip(*strides))

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
