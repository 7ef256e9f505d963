"""Projection onto a model of the second generator: onto its anatomy, without its texture.

Where a scan lies and which case is nearest to it is a matter of the scores. The rest of the latent paints texture, and
is that of one case, always the same.
"""

from __future__ import annotations

from dataclasses import replace

from ..volumes.case import Case
from ..volumes.fingerprint import Progress, quiet
from ..volumes.pipeline import WorkingCase
from .model_file import Model, statistical_part
from .onto_template import TemplateProjector
from .projection import Projection, Projector
from .synthesizer import typical_latent


class RepaintedProjector:
    """Projects volumes onto a model of the second generator; what is left over is texture, and what no mode holds."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._projector = TemplateProjector(statistical_part(model))

    def project(self, case: Case, steps: int | None = None, progress: Progress = quiet) -> Projection:
        """As :meth:`.onto_template.TemplateProjector.project`."""
        return self._whole(self._projector.project(case, steps, progress))

    def project_working(self, working: WorkingCase, steps: int | None = None, progress: Progress = quiet) -> Projection:
        """As :meth:`.onto_template.TemplateProjector.project_working`."""
        return self._whole(self._projector.project_working(working, steps, progress))

    def _whole(self, found: Projection) -> Projection:
        latent = typical_latent(self.model.plan)
        latent[: len(found.latent)] = found.latent
        return replace(found, latent=latent)


def projector_of(model: Model) -> Projector | TemplateProjector | RepaintedProjector:
    """What projects volumes onto a model."""
    if model.plan.repaints:
        return RepaintedProjector(model)
    return TemplateProjector(model) if model.plan.method == "modes" else Projector(model)
