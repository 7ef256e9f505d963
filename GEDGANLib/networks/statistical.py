r"""Scores -> a case, from an alignment alone: the template changed along the eigen-directions of the anatomy.

.. math::
   \varphi(z)=\expm\Big(\bar L+\sum_kz_kL_k\Big)\circ\exp\Big(\bar v+\sum_kz_kV_k\Big),\qquad
   m(z)=\big(T\text{ with look and labels of }z\big)\circ\varphi(z)^{-1}

with the modes of :mod:`GEDGANLib.alignment.modes`. The image is interpolated once, by cubic B-splines. Of the labels
the logarithms of their probabilities are, and made probabilities again where they arrive.

A class has the mean of its cases' scores, and their covariance with as many imagined cases among them as there are
modes, of variance 1 as all cases are (the posterior mean under a conjugate prior: Gelman et al., *Bayesian Data
Analysis*, third edition, section 3.6). A mixture of classes mixes means and roots of covariances.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..alignment.blocks import RAREST, with_look
from ..alignment.modes import Modes
from ..alignment.sampling import sample_image, sample_linear, shrink
from ..alignment.transformations import Transformations
from ..alignment.velocity import refine

HALF = ("template", "shares", "velocities", "look", "looks", "labels")
"""Which are kept in half precision in a file."""


class StatisticalGenerator(nn.Module):
    """See the module's text. It learns nothing; all it holds is given by :meth:`take`.

    :param shape: voxels of the output grid.
    :param extent: of the box, mm.
    :param modes: K, length of the latent.
    :param template_shape, velocity_shape, look_shape: grids over the box.
    :param label_shape: of the labels' modes; () where labels are only deformed.
    """

    def __init__(
        self,
        shape: Sequence[int],
        extent: Sequence[float],
        image_channels: int,
        label_count: int,
        modes: int,
        template_shape: Sequence[int],
        velocity_shape: Sequence[int],
        look_shape: Sequence[int],
        label_shape: Sequence[int] = (),
        class_count: int = 0,
    ) -> None:
        super().__init__()
        self.shape, self.extent = tuple(shape), tuple(float(side) for side in extent)
        self.class_count = class_count
        dims = len(self.shape)

        def given(*sides: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*sides), requires_grad=False)

        self.template = given(image_channels, *template_shape)
        self.shares = given(label_count + 1, *template_shape) if label_count else None
        self.generator, self.generators = given(dims, dims + 1), given(modes, dims, dims + 1)
        self.velocity, self.velocities = given(dims, *velocity_shape), given(modes, dims, *velocity_shape)
        self.look, self.looks = given(image_channels, *look_shape), given(modes, image_channels, *look_shape)
        self.weights, self.metric = given(3), given(2)
        self.labels = given(modes, label_count + 1, *label_shape) if label_count and label_shape else None
        self.class_means = given(class_count, modes) if class_count else None
        self.class_roots = given(class_count, modes, modes) if class_count else None

    @torch.no_grad()
    def take(
        self, template: Tensor, shares: Tensor | None, modes: Modes, classes: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Fill it.

        :param template: (C, *template grid) in [-1, 1].
        :param shares: probabilities of background and labels, (L + 1, *template grid).
        :param classes: from :func:`class_statistics`.
        """
        values = {
            "template": template, "shares": shares, "generator": modes.generator, "generators": modes.generators,
            "velocity": modes.velocity, "velocities": modes.velocities, "look": modes.look, "looks": modes.looks,
            "labels": modes.labels, "weights": modes.weights,
            "metric": torch.tensor([modes.width, float(modes.is_smooth)]),
        }  # fmt: skip
        if classes is not None:
            values |= {"class_means": classes[0], "class_roots": classes[1]}
        for name, value in values.items():
            if getattr(self, name) is not None:
                # As they are kept, so that a model is the same before and after it was written.
                getattr(self, name).copy_(value.half() if name in HALF else value)

    @torch.no_grad()
    def coarser(self, shape: Sequence[int]) -> StatisticalGenerator:
        """The same on a coarser grid over the box, template and output; it shares the modes."""
        grids = (self.velocity.shape[1:], self.look.shape[1:], () if self.labels is None else self.labels.shape[2:])
        label_count = 0 if self.shares is None else len(self.shares) - 1
        found = StatisticalGenerator(
            shape, self.extent, len(self.template), label_count, len(self.generators), shape, *grids, self.class_count
        )
        for name, value in self.named_parameters():
            setattr(found, name, value)
        for name in ("template", "shares"):
            if getattr(self, name) is not None:
                coarse = shrink(getattr(self, name)[None], shape)[0]
                setattr(found, name, nn.Parameter(coarse, requires_grad=False))
        return found.eval()

    @torch.no_grad()
    def first(self, count: int) -> StatisticalGenerator:
        """The same with the first modes alone; roots of classes' covariances are cut, which is near them."""
        grids = (self.velocity.shape[1:], self.look.shape[1:], () if self.labels is None else self.labels.shape[2:])
        label_count = 0 if self.shares is None else len(self.shares) - 1
        channels, shape = len(self.template), self.template.shape[1:]
        found = StatisticalGenerator(
            self.shape, self.extent, channels, label_count, count, shape, *grids, self.class_count
        )
        for name, value in self.named_parameters():
            if name in ("generators", "velocities", "looks", "labels"):
                value = value[:count]
            elif name in ("class_means", "class_roots"):
                value = value[(slice(None), *[slice(count)] * (value.ndim - 1))]
            getattr(found, name).copy_(value)
        return found.eval()

    def kept(self) -> dict[str, Tensor]:
        """The state as it is written to a file."""
        return {name: value.half() if name in HALF else value for name, value in self.state_dict().items()}

    def scores(self, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Latents (N, K), standard normal, as scores of cases of some class."""
        if class_weights is None or self.class_means is None:
            return latent
        rest = 1 - class_weights.sum(1, keepdim=True)
        shaped = torch.einsum("nc,ckl,nl->nk", class_weights, self.class_roots, latent)
        return rest * latent + class_weights @ self.class_means + shaped

    def latents(self, scores: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """The other way round: latents of scores (N, K) of cases of some class."""
        if class_weights is None or self.class_means is None:
            return scores
        rest = 1 - class_weights.sum(1).reshape(-1, 1, 1)
        shaped = torch.einsum("nc,ckl->nkl", class_weights, self.class_roots)
        maps = shaped + rest * torch.eye(scores.shape[1], device=scores.device)
        return torch.linalg.solve(maps, scores - class_weights @ self.class_means)

    def transformations(self, scores: Tensor) -> Transformations:
        """φ of scores (N, K)."""
        generators = self.generator + torch.tensordot(scores, self.generators, 1)
        return Transformations(generators, self.velocity + torch.tensordot(scores, self.velocities, 1), self.extent)

    def on_template(self, scores: Tensor) -> tuple[Tensor, Tensor | None]:
        """Image (N, C, *template grid) in [-1, 1] and logarithms of label probabilities, before they are deformed."""
        shape = self.template.shape[1:]
        image = with_look(self.template[None], refine(torch.tensordot(scores, self.looks, 1), shape))
        if self.shares is None:
            return image, None
        logarithms = (self.shares[None] + RAREST).log().expand(len(scores), *self.shares.shape)
        if self.labels is not None:
            logarithms = logarithms + refine(torch.tensordot(scores, self.labels, 1), shape)
        return image, logarithms

    def deformed(self, image: Tensor, logarithms: Tensor | None, positions: Tensor) -> Tensor:
        """What lies on the template, read off at positions (N, D, *spatial), mm, as :meth:`forward` returns it."""
        image = sample_image(image, positions, self.extent)
        if logarithms is None:
            return image
        return torch.cat([image, sample_linear(logarithms, positions, self.extent).softmax(1)], 1)

    def forward(self, latent: Tensor, class_weights: Tensor | None = None) -> Tensor:
        """Return a case for each latent.

        :param latent: (N, K).
        :param class_weights: (N, class_count), one-hot or a mixture; zeros for none in particular.
        :returns: (N, image_channels + label_count + 1, *shape): images within [-1, 1], then label probabilities.
        """
        scores = self.scores(latent, class_weights)
        positions = self.transformations(scores).positions(self.shape, inverse=True)
        return self.deformed(*self.on_template(scores), positions)


def class_statistics(
    scores: np.ndarray, numbers: Sequence[int | None], count: int, fewest: int = 1
) -> tuple[Tensor, Tensor]:
    """Mean (count, K) and root of the covariance (count, K, K) of each class' scores.

    :param scores: (N, K), over all cases of mean 0 and variance 1.
    :param numbers: which class each case is of; None where it is not known.
    :param fewest: cases of a class below which it is as all cases are.
    """
    size = scores.shape[1]
    means, roots = np.zeros((count, size)), np.tile(np.eye(size), (count, 1, 1))
    for number in range(count):
        rows = scores[[index for index, kind in enumerate(numbers) if kind == number]]
        if len(rows) < fewest:
            continue
        means[number] = rows.mean(0)
        roots[number] = _root_of_covariance(rows - means[number])
    return torch.from_numpy(means).float(), torch.from_numpy(roots).float()


def _root_of_covariance(rows: np.ndarray) -> np.ndarray:
    """Symmetric root of the covariance of centred rows (n, K), with K imagined cases of variance 1 among them."""
    count, size = rows.shape
    covariance = (rows.T @ rows + size * np.eye(size)) / (count - 1 + size)
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
