r"""Projection: the latent whose case is nearest to a real one, and what is left over.

Among many random cases the nearest are taken, and from there the latent z is optimised (Abdal et al., *Image2StyleGAN*,
ICCV 2019, section 5, and Karras et al., *Analyzing and improving the image quality of StyleGAN*, CVPR 2020, section 5,
do so without an encoder too). With the volume x, its field E(x) and the maps :math:`\phi_k` of the discriminator's
stages, what is made small is

.. math::
   L(z) = \frac{|G(z)-x|_1}{a} + \frac{|E(G(z))-E(x)|_1}{b} + \frac1K\sum_k\frac{|\phi_k(G(z))-\phi_k(x)|_1}{c_k}
   + \lambda\,\frac{|z|^2}{n},

each distance by its median over the random cases, so that none of them outweighs the others, and the last term keeping
z where latents are. The maps of the discriminator stand in for the perceptual network of natural images: they were
learned from the same data and need no download. A model without a discriminator, the article's, is projected without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..networks.build import build_field, field_channels, seen_alone
from ..structure.field import median_trace
from ..volumes.case import Case
from ..volumes.geometry import resample
from ..volumes.pipeline import Progress, WorkingCase, _quiet, to_working
from .model_file import Model
from .output import most_probable
from .synthesizer import latent_of

CANDIDATES, STARTS = 64, 2
"""Random cases that are looked at, and how many of the nearest are followed."""
STEPS, RATE = 120, 0.08
PRIOR = 0.02
"""λ, the weight of the latent's length."""
SEED = 20190925


@dataclass(frozen=True)
class Projection:
    """The nearest case that a model can make of a volume.

    :param latent: (latent_size,).
    :param class_weights: (classes,), what of each class it is; None without classes.
    :param made: (C, *grid) float32 in [-1, 1], on the working grid, the image of the nearest case.
    :param labels: (*grid) uint8, its segmentation; None where the model makes none.
    :param working: the volume on the working grid.
    :param explained: share of the volume's variance on that grid that the nearest case explains; 1 is perfect, below
        0 it is worse than a constant.
    """

    latent: np.ndarray
    class_weights: np.ndarray | None
    made: np.ndarray
    labels: np.ndarray | None
    working: WorkingCase
    explained: float

    @property
    def residual(self) -> np.ndarray:
        """Volume less nearest case, (C, *grid) float32, in units of half the intensity range."""
        return self.working.image - self.made


class Projector:
    """Projects volumes onto what a model can make.

    :param model: loaded with its critic, if it has one.
    :param candidates: random cases to start from; made once, and kept for all volumes.
    """

    def __init__(self, model: Model, candidates: int = CANDIDATES) -> None:
        self.model, self.plan = model, model.plan
        self.device = next(model.generator.parameters()).device
        self.channels = len(self.plan.channels)
        for weight in model.generator.parameters():
            weight.requires_grad_(False)
        self.latents = torch.from_numpy(
            np.stack([latent_of(SEED, i, self.plan.networks.latent_size) for i in range(candidates)])
        ).to(self.device)
        self.weights = self._start_weights(candidates)
        self.field: Callable[[Tensor], Tensor] | None = None
        self.made = torch.cat([self._make(z[None], w) for z, w in zip(self.latents, self._rows(self.weights))])
        if field_channels(self.plan):
            tau = median_trace(list(self.made[:16]), self.plan.field.sigma, self.plan.field.rho, self.plan.grid.spacing)
            self.field = build_field(self.plan, tau)

    def _start_weights(self, count: int) -> Tensor | None:
        classes = len(self.plan.classes)
        return torch.full((count, classes), 1 / classes, device=self.device) if classes else None

    @staticmethod
    def _rows(weights: Tensor | None) -> Iterable[Tensor | None]:
        return iter(lambda: None, 0) if weights is None else weights.split(1)

    def _outputs(self, latent: Tensor, weights: Tensor | None) -> Tensor:
        return self.model.generator(latent, *(() if weights is None else (weights.softmax(1),)))

    @torch.no_grad()
    def _make(self, latent: Tensor, weights: Tensor | None) -> Tensor:
        return self._outputs(latent, weights)[:, : self.channels]

    def _views(self, image: Tensor) -> list[Tensor]:
        """What is compared of images (N, C, *grid): they, their field, the discriminator's maps."""
        views = [image]
        if self.field is not None:
            views.append(self.field(image))
        if self.model.critic is not None:
            views += self._maps(image)
        return views

    def _maps(self, image: Tensor) -> list[Tensor]:
        critic = self.model.critic
        inputs = seen_alone(self.plan, image, critic.tau)
        maps: list[Tensor] = []
        judge = getattr(critic.discriminator, "image", critic.discriminator)
        handles = [stage.register_forward_hook(lambda m, i, output: maps.append(output)) for stage in judge.stages]
        try:
            critic.discriminator.realness(*inputs, labelled=torch.zeros(len(image), device=image.device))
        finally:
            for handle in handles:
                handle.remove()
        return maps

    def project(self, case: Case, steps: int = STEPS, progress: Progress = _quiet) -> Projection:
        """The nearest case to ``case``.

        :param case: in any orientation, in the units of the training data.
        :param steps: of the optimisation.
        :raises InputError: other channels than the model's.
        """
        if len(case.image) != self.channels:
            raise InputError(
                f"{case.name} has {len(case.image)} channel(s), the model takes {self.channels}.",
                "Choose a volume like those the model was trained on.",
            )
        return self.project_working(to_working(case, self.plan), steps, progress)

    def project_working(self, working: WorkingCase, steps: int = STEPS, progress: Progress = _quiet) -> Projection:
        """The nearest case to one that is on the working grid already."""
        target = torch.from_numpy(np.array(working.image))[None].to(self.device)
        with torch.no_grad():
            wanted = self._views(target)
            each = torch.stack([self._distances(self._views(made[None]), wanted)[0] for made in self.made])
        scales = each.median(0).values.clamp_min(1e-12)
        shares = self._shares(each.shape[1])
        nearest = (each / scales * shares).sum(1).argsort()[: min(STARTS, len(each))]
        latent = self.latents[nearest].clone().requires_grad_()
        weights = None if self.weights is None else self.weights[nearest].log().clone().requires_grad_()
        moved = [latent] if weights is None else [latent, weights]
        optimizer = torch.optim.Adam(moved, RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        best_loss, best = torch.full((len(latent),), torch.inf, device=self.device), latent.detach().clone()
        best_weights = None if weights is None else weights.detach().clone()
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            made = self._outputs(latent, weights)[:, : self.channels]
            distances = self._distances(self._views(made), wanted) / scales * shares
            losses = distances.sum(1) + PRIOR * latent.square().mean(1)
            with torch.no_grad():
                better = losses < best_loss
                best_loss = torch.where(better, losses, best_loss)
                best[better] = latent.detach()[better]
                if weights is not None:
                    best_weights[better] = weights.detach()[better]
            losses.sum().backward()
            optimizer.step()
            schedule.step()
            progress(step + 1, steps, working.name)
        winner = int(best_loss.argmin()) if steps else 0
        return self._result(best[winner], None if best_weights is None else best_weights[winner], working)

    def _shares(self, count: int) -> Tensor:
        """How much each distance counts: image and field 1, all maps of the discriminator together 1."""
        plain = 1 + (self.field is not None)
        return torch.tensor(
            [1.0] * plain + [1 / max(count - plain, 1)] * (count - plain), dtype=torch.float32, device=self.device
        )

    @staticmethod
    def _distances(views: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """Mean absolute differences, (N, views)."""
        return torch.stack([(view - other).abs().flatten(1).mean(1) for view, other in zip(views, wanted)], 1)

    @torch.no_grad()
    def _result(self, latent: Tensor, weights: Tensor | None, working: WorkingCase) -> Projection:
        output = self._outputs(latent[None], None if weights is None else weights[None])[0].cpu()
        made = output[: self.channels].numpy()
        rest = working.image - made
        return Projection(
            latent.cpu().numpy(),
            None if weights is None else weights.softmax(0).cpu().numpy(),
            made,
            most_probable(output[self.channels :].numpy()) if self.plan.labels else None,
            working,
            1 - float(rest.var() / max(float(working.image.var()), 1e-12)),
        )


def on_grid_of(values: np.ndarray, projection: Projection, outside: float = 0.0) -> np.ndarray:
    """Values (*grid) of the working grid on the grid of the projected volume, (I, J, K) float32.

    :param outside: what lies beyond the working grid.
    """
    working = projection.working
    moved = resample(values[None] - outside, working.affine, working.source_affine, working.source_shape, "zeros")
    return (moved[0] + outside).astype(np.float32)
