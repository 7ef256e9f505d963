"""New cases from a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import __version__
from ..planning.plan import Plan
from ..volumes.case import Case
from ..volumes.pipeline import unmap_intensities
from .model_file import Model
from .output import LabelSubset, OutputGrid, most_probable, to_grid, working_grid

LARGEST_BATCH = 16
BATCH_MEMORY_SHARE = 0.5
"""Of a GPU's free memory that a batch may take."""
COPIES_IN_SYNTHESIS = 6
"""Values that are alive at once while a case is made, counted in its output and its widest maps (measured)."""


def latent_of(seed: int, index: int, size: int) -> np.ndarray:
    """Latent vector of case ``index`` of ``seed``, (size,) float32; the same on every machine."""
    return np.random.default_rng([seed, index]).standard_normal(size, dtype=np.float32)


def typical_latent(plan: Plan) -> np.ndarray:
    """The latent of the most typical case, (latent_size,) float32: 0, but for what paints texture, of which nothing is
    not typical and which is the same always."""
    latent = np.zeros(plan.networks.latent_size, np.float32)
    if plan.repaints:
        texture = slice(plan.statistical.modes, None)
        latent[texture] = latent_of(0, 0, plan.networks.latent_size)[texture]
    return latent


def describe_origin(model: Model) -> str:
    """One sentence for people who find the case later."""
    source = model.plan.description or "unnamed scans"
    return f"Synthetic, made by GED-GAN {__version__}; not a patient. Learned from: {source}"


def class_of(plan, seed: int, index: int) -> str | None:
    """Class of case ``index`` of ``seed``: as often as among the training cases; None where there are no classes."""
    if not plan.classes:
        return None
    counts = np.array([dict(plan.data.get("classes", {})).get(name, 0) for name in plan.classes], dtype=float)
    shares = counts / counts.sum() if counts.sum() else np.full(len(plan.classes), 1 / len(plan.classes))
    return str(np.random.default_rng([seed, index, 1]).choice(plan.classes, p=shares))


@dataclass(frozen=True)
class Form:
    """In what form cases are wanted.

    :param grid: voxels; those of the model when not given.
    :param labels: names of the labels to keep; all when not given.
    :param truncation: the latent is multiplied by this: 0 is the one most typical case, 1 as varied as was learned,
        above 1 more extreme than that. (Brock et al., *Large scale GAN training for high fidelity natural image
        synthesis*, ICLR 2019, section 3.1, cut the latent's tails instead.)
    """

    grid: OutputGrid | None = None
    labels: Sequence[str] | None = None
    truncation: float = 1.0


class Synthesizer:
    """Makes cases from a model; case i of a seed is the same alone or among many, bit for bit on the CPU.

    :param form: of the cases, see :class:`Form`.
    :raises InputError: a label to keep that the model does not have.
    """

    def __init__(self, model: Model, form: Form | None = None) -> None:
        self.model = model
        self.form = form or Form()
        self.subset = LabelSubset.of(model.plan.labels, self.form.labels)

    def output(self, latents: np.ndarray, class_weights: np.ndarray | None = None) -> np.ndarray:
        """What the generator makes of latents, on the CPU.

        :param latents: (N, latent_size).
        :param class_weights: (N, classes) where the plan has classes; of none in particular when not given.
        :returns: (N, channels + labels + 1, *grid) float32: images in [-1, 1], then label probabilities.
        """
        import torch

        device = next(self.model.generator.parameters()).device
        inputs = [torch.from_numpy(np.ascontiguousarray(latents, np.float32)).to(device)]
        if self.model.plan.classes:
            weights = np.zeros((len(latents), len(self.model.plan.classes))) if class_weights is None else class_weights
            inputs.append(torch.from_numpy(np.ascontiguousarray(weights, np.float32)).to(device))
        with torch.inference_mode():
            return self.model.generator(*inputs).cpu().numpy()

    def class_weights(self, class_name: str | None) -> np.ndarray | None:
        """One-hot (classes,); all zero, as cases of unknown class have it, for None; None without classes."""
        classes = self.model.plan.classes
        if not classes:
            return None
        return np.array([float(name == class_name) for name in classes], np.float32)

    def case(
        self,
        latent: np.ndarray,
        name: str,
        provenance: dict | None = None,
        class_name: str | None = None,
        class_weights: np.ndarray | None = None,
    ) -> Case:
        """Return the case of one latent vector.

        :param latent: (latent_size,), standard normal.
        :param class_name: one of the plan's classes; when not given, of none in particular, as cases of unknown
            class are.
        :param class_weights: (classes,), a mixture, instead of ``class_name``.
        :returns: the case in the form asked for, in the units of the training data.
        """
        weights = self.class_weights(class_name) if class_weights is None else class_weights
        output = self.output(np.asarray(latent)[None], None if weights is None else np.asarray(weights)[None])[0]
        return self._to_case(output, latent, name, provenance, class_name)

    def _to_case(
        self, output: np.ndarray, latent: np.ndarray, name: str, provenance: dict | None, class_name: str | None
    ) -> Case:
        plan, channels = self.model.plan, len(self.model.plan.channels)
        grid = self.form.grid or working_grid(plan)
        labels = None
        if self.form.grid is not None:
            output = to_grid(output, channels, working_grid(plan), grid)
            labels = output[channels].astype(np.uint8) if plan.labels else None
        elif plan.labels:
            labels = most_probable(output[channels:])
        if labels is not None:
            labels = self.subset.numbers[labels] if self.form.labels is not None else labels
        return Case(
            name=name,
            image=unmap_intensities(output[:channels], [channel.typical for channel in plan.channels]),
            labels=labels,
            affine=grid.affine,
            label_table=self.subset.table,
            channel_names=tuple(channel.name for channel in plan.channels),
            description=describe_origin(self.model),
            provenance={
                "synthetic": True,
                "model": self.model.path.name,
                "model_digest": self.model.digest,
                "library_version": __version__,
                **({} if class_name is None else {"class": class_name}),
                **(provenance or {}),
                "latent": [round(float(value), 5) for value in latent],
            },
            class_name=class_name,
        )

    def cases(self, count: int, seed: int = 0, first: int = 0, class_name: str | None = None) -> Iterator[Case]:
        """Yield cases ``first`` to ``first + count`` of ``seed``, a batch in memory at a time.

        :param class_name: of all cases; drawn as often as among the training cases when not given.
        """
        batch = self.batch_size()
        for start in range(first, first + count, batch):
            for output, about in self._drawn(seed, range(start, min(start + batch, first + count)), class_name):
                yield self._to_case(output, *about)

    def draw(self, seed: int, index: int, class_name: str | None = None) -> tuple[Case, np.ndarray]:
        """Case ``index`` of ``seed`` as :meth:`cases` makes it, and what it is on the plan's grid.

        :returns: the case, and (channels, *grid) images in [-1, 1] with, where there are labels, one more channel of
            label indices.
        """
        channels = len(self.model.plan.channels)
        output, about = next(self._drawn(seed, range(index, index + 1), class_name))
        working = output[:channels]
        if self.model.plan.labels:
            working = np.concatenate([working, most_probable(output[channels:])[None]])
        return self._to_case(output, *about), working

    def _drawn(self, seed: int, indices: range, class_name: str | None) -> Iterator[tuple[np.ndarray, tuple]]:
        """What the generator makes of cases of a seed, at once, and what else :meth:`_to_case` is told of each."""
        plan = self.model.plan
        latents = np.stack([self.latent(seed, index) for index in indices])
        kinds = [class_name or class_of(plan, seed, index) for index in indices]
        weights = np.stack([self.class_weights(kind) for kind in kinds]) if plan.classes else None
        for index, latent, kind, output in zip(indices, latents, kinds, self.output(latents, weights)):
            origin = {"seed": seed, "index": index, "truncation": self.form.truncation}
            yield output, (latent, f"synthetic_{seed}_{index:04d}", origin, kind)

    def latent(self, seed: int, index: int) -> np.ndarray:
        """Latent of case ``index`` of ``seed``, truncated as the form has it; what paints texture is left as it is."""
        plan = self.model.plan
        latent = latent_of(seed, index, plan.networks.latent_size)
        latent[: plan.statistical.modes if plan.repaints else None] *= np.float32(self.form.truncation)
        return latent

    def batch_size(self) -> int:
        """Cases made at once: what fits on a GPU; one on a CPU, where more are no faster and rounding would differ."""
        import torch

        if next(self.model.generator.parameters()).device.type != "cuda":
            return 1
        plan = self.model.plan
        values = len(plan.channels) + len(plan.labels) + 1 + max(plan.networks.generator_widths, default=64) / 8
        needed = 4 * COPIES_IN_SYNTHESIS * values * float(np.prod(plan.grid.shape))
        free, _ = torch.cuda.mem_get_info()
        return int(np.clip(BATCH_MEMORY_SHARE * free / needed, 1, LARGEST_BATCH))
