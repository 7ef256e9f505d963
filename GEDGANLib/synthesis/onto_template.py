r"""Projection onto a statistical model: a scan's alignment to the template, and its scores.

The scan is brought onto the template by registration. Its scores are those with which the modes come nearest to its
affine part, velocity and look, in the metric that the modes were found in,

.. math:: z=\arg\min_z\sum_b\frac{w_b}{\operatorname{tr}G_b}\Big|S_b\Big(x_b-\bar x_b-\sum_kz_kM_{bk}\Big)\Big|^2+r|z|^2

with the smoothing S of :data:`GEDGANLib.alignment.blocks.SMOOTHED` and a small r, since the last of many modes are
noise. The nearest case is the template with this look and these labels, where the scan lies: what differs from the scan
then is what the population's looks do not hold, and not where an edge was missed by a voxel.
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from ..alignment.blocks import look_of
from ..alignment.job import fields_of_view, registration_shape, shrunk, unfold
from ..alignment.registration import Registration, Settings, seen_weight
from ..alignment.sampling import identity, sample_image, sample_linear, shrink, spacing_of
from ..alignment.transformations import Transformations
from ..alignment.velocity import smooth
from ..errors import InputError
from ..jobs.steps import through
from ..networks.statistical import StatisticalGenerator
from ..volumes.case import Case
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase, to_working
from .model_file import Model
from .output import most_probable
from .projection import Projection

Aligned = tuple[Transformations, Tensor, Tensor]
"""What :meth:`TemplateProjector.aligned` returns."""
RIDGE = 0.05
"""r, in units of what a mode tells on average."""


class TemplateProjector:
    """Projects volumes onto a statistical model.

    :param model: whose plan's method is ``modes``.
    """

    def __init__(self, model: Model) -> None:
        self.model, self.plan = model, model.plan
        self.generator: StatisticalGenerator = model.generator
        self.device = self.generator.template.device
        self.channels = len(self.plan.channels)
        self.shape = registration_shape(self.plan.grid.shape, self.plan.extent, self.device.type)

    def project(self, case: Case, steps: int | None = None, progress: Progress = quiet) -> Projection:
        """As :meth:`.projection.Projector.project`; a registration has iterations of its own, whatever ``steps``.

        :raises InputError: other channels than the model's.
        """
        if len(case.image) != self.channels:
            raise InputError(
                f"{case.name} has {len(case.image)} channel(s), the model takes {self.channels}.",
                "Choose a volume like those the model was made of.",
            )
        return self.project_working(to_working(case, self.plan), steps, progress)

    @torch.no_grad()
    def project_working(self, working: WorkingCase, steps: int | None = None, progress: Progress = quiet) -> Projection:
        """The nearest case to one that is on the working grid already."""
        moved, image, box = self.aligned(working, progress)
        scores = self.scores(moved, image, box)
        positions = moved.positions(self.generator.shape, inverse=True)
        output = self.generator.deformed(*self.generator.on_template(scores), positions)[0].cpu()
        made = output[: self.channels].numpy()
        rest = working.image - made
        return Projection(
            scores[0].cpu().numpy(),
            np.zeros(len(self.plan.classes), np.float32) if self.plan.classes else None,
            made,
            most_probable(output[self.channels :].numpy()) if self.plan.labels else None,
            working,
            1 - float(rest.var() / max(float(working.image.var()), 1e-12)),
        )

    def aligned(self, working: WorkingCase, progress: Progress = quiet) -> Aligned:
        """Its transformation, its image on the grid of the registration, and its field of view."""
        return through(self.aligning(working), lambda said: progress(*said, working.name))

    def aligning(
        self, working: WorkingCase
    ) -> Generator[tuple[int, int], None, tuple[Transformations, Tensor, Tensor]]:
        """The same in steps: yields iterations done and in all."""
        extent = self.plan.extent
        image = shrunk([working], self.shape, self.device.type)
        template = self.generator.template[None]
        finer = all(fine >= coarse for fine, coarse in zip(template.shape[2:], self.shape))
        if finer:
            template = shrink(template, self.shape)
        else:
            template = sample_linear(template, identity(self.shape, extent, template), extent)
        box = fields_of_view([working], extent)
        registration = Registration(image, box, extent, Settings.of(self.plan.alignment), template)
        going_on = True
        while going_on:
            with torch.enable_grad():
                going_on = registration.step()
            yield registration.done, registration.total
        moved = registration.state.moved
        unfold(moved, self.generator.shape)
        return moved, image, box.to(image)

    @torch.no_grad()
    def scores(self, moved: Transformations, image: Tensor, box: Tensor) -> Tensor:
        """z of the module's text, (1, K), of a case that is aligned.

        :param moved: of this case alone.
        :param image: (1, C, *grid) in [-1, 1], on any grid over the box.
        :param box: its field of view, (1, D, 2), see :func:`GEDGANLib.alignment.job.fields_of_view`.
        """
        generator, extent = self.generator, self.plan.extent
        shape = tuple(generator.look.shape[1:])
        # As the looks of the model were measured: a mean of logarithms is no logarithm of a mean.
        image = shrink(image.to(generator.look), shape)
        positions = moved.positions(shape)
        look = look_of(sample_image(image, positions, extent)) - generator.look
        seen = seen_weight(positions, box, spacing_of(shape, extent))
        control = tuple(generator.velocity.shape[1:])
        velocities = moved.velocities
        if tuple(velocities.shape[2:]) != control:
            velocities = sample_linear(velocities, identity(control, extent, velocities), extent)
        blocks = (
            ((moved.generators - generator.generator), generator.generators),
            (self._smooth(velocities - generator.velocity), self._modes(generator.velocities)),
            (self._smooth(look * seen), self._modes(generator.looks * seen)),
        )
        size = len(generator.generators)
        left, right = image.new_zeros(size, size), image.new_zeros(size)
        for weight, (wanted, modes) in zip(generator.weights, blocks):
            flat = modes.flatten(1)
            left += weight * flat @ flat.T
            right += weight * flat @ wanted.flatten()
        left.diagonal().add_(RIDGE * left.trace() / size)
        return torch.linalg.solve(left, right)[None]

    def _smooth(self, fields: Tensor) -> Tensor:
        return smooth(fields, float(self.generator.metric[0]), self.plan.extent)

    def _modes(self, fields: Tensor) -> Tensor:
        """Modes as cases are compared by them."""
        return fields if bool(self.generator.metric[1]) else self._smooth(fields)
