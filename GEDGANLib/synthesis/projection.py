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
Where a model was trained on parts x is the coarse whole, and the first two distances of one part, another one each
step, are added (:mod:`.likeness`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..volumes.case import Case
from ..volumes.fingerprint import Progress, quiet
from ..volumes.geometry import resample
from ..volumes.pipeline import WorkingCase, to_working
from .likeness import Images, distances, likeness_of
from .model_file import Model
from .output import most_probable
from .synthesizer import latent_of

CANDIDATES, STARTS = 64, 2
"""Random cases that are looked at, and how many of the nearest are followed."""
STEPS, RATE = 120, 0.08
PRIOR = 0.02
"""λ, the weight of the latent's length."""
SCALED_BY = 16
"""Random cases that tell the scale of the field's structure."""
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
        for network in (model.generator, model.critic and model.critic.discriminator):
            if network is not None:
                network.requires_grad_(False)
        self.latents = torch.from_numpy(
            np.stack([latent_of(SEED, i, self.plan.networks.latent_size) for i in range(candidates)])
        ).to(self.device)
        classes = len(self.plan.classes)
        self.weights = torch.full((candidates, classes), 1 / classes, device=self.device) if classes else None
        self.likeness = likeness_of(model)
        self.middle = self.likeness.place([0.5] * self.plan.spatial_dims)
        self.made = [self._candidate(i) for i in range(candidates)]
        self.likeness.learn_scales(tuple(torch.cat(images) for images in zip(*self.made[:SCALED_BY])))

    @torch.no_grad()
    def _candidate(self, index: int) -> Images:
        weights = None if self.weights is None else self.weights[index : index + 1]
        return self.likeness.made(self.latents[index : index + 1], weights, self.middle)

    def project(self, case: Case, steps: int = STEPS, progress: Progress = quiet) -> Projection:
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

    def project_working(self, working: WorkingCase, steps: int = STEPS, progress: Progress = quiet) -> Projection:
        """The nearest case to one that is on the working grid already."""
        likeness = self.likeness
        with torch.no_grad():
            wanted = likeness.target(torch.from_numpy(np.array(working.image))[None].to(self.device))
            in_the_middle = wanted(self.middle)
            each = torch.cat([distances(likeness.views(images), in_the_middle) for images in self.made])
        scales = each.median(0).values.clamp_min(1e-12)
        shares = torch.tensor(likeness.shares(each.shape[1]), device=self.device) / scales
        of_whole = each.shape[1] - likeness.of_part
        nearest = (each * shares).sum(1).argsort()[: min(STARTS, len(each))]
        latent = self.latents[nearest].clone().requires_grad_()
        weights = None if self.weights is None else self.weights[nearest].log().clone().requires_grad_()
        moved = [latent] if weights is None else [latent, weights]
        optimizer = torch.optim.Adam(moved, RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
        best_loss, best = torch.full((len(latent),), torch.inf, device=self.device), latent.detach().clone()
        best_weights = None if weights is None else weights.detach().clone()
        random = np.random.default_rng(SEED)
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            place = likeness.place(random.random(self.plan.spatial_dims))
            made = likeness.made(latent, None if weights is None else weights.softmax(1), place)
            apart = distances(likeness.views(made), wanted(place)) * shares
            prior = PRIOR * latent.square().mean(1)
            with torch.no_grad():
                # Some parts are harder than others: by the whole alone can steps be told apart.
                losses = apart[:, :of_whole].sum(1) + prior
                better = losses < best_loss
                best_loss = torch.where(better, losses, best_loss)
                best[better] = latent.detach()[better]
                if weights is not None:
                    best_weights[better] = weights.detach()[better]
            (apart.sum(1) + prior).sum().backward()
            optimizer.step()
            schedule.step()
            progress(step + 1, steps, working.name)
        winner = int(best_loss.argmin()) if steps else 0
        return self._result(best[winner], None if best_weights is None else best_weights[winner], working)

    @torch.no_grad()
    def _result(self, latent: Tensor, weights: Tensor | None, working: WorkingCase) -> Projection:
        classes = () if weights is None else (weights.softmax(0)[None],)
        output = self.model.generator(latent[None], *classes)[0].cpu()
        made = output[: self.channels].numpy()
        rest = working.image - made
        return Projection(
            latent.cpu().numpy(),
            classes[0][0].cpu().numpy() if classes else None,
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
