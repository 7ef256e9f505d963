"""How a segmentation network learns: in steps, so that it can be stopped, kept and gone on with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..jobs.events import Progress, quiet
from .applying import half_where_right
from .changes import Changes, changed, region_of
from .examples import Batch, Group, draw
from .unet import build_unet, fill, strides_of, weights_of

CLIPPED = 12.0
"""Norm of the gradient at most, as in nnU-Net."""
TELLING = 10
"""Updates between two reports."""
BEYOND = 20.0
"""Logit of the background beyond the field of view, where nothing is learned."""


@dataclass(frozen=True)
class Recipe:
    """How it is trained.

    :param patch: voxels of the parts that it learns from.
    :param spacing: of these, mm.
    :param widths: features a level, finest first.
    :param batch: parts of an update.
    :param learning_rate: at the start; falls to 0 along a cosine.
    """

    patch: tuple[int, ...]
    updates: int
    spacing: tuple[float, ...] | None = None
    widths: tuple[int, ...] = (8, 16, 32)
    batch: int = 2
    learning_rate: float = 1e-2
    normalisation: str = "instance"
    changes: Changes = field(default_factory=Changes)

    def network(self, channels: int, label_count: int) -> nn.Module:
        """The untrained network."""
        strides = strides_of(self.patch, len(self.widths), self.spacing)
        return build_unet(channels, label_count, self.widths, strides, self.normalisation)


class Learner:
    """See the module's text.

    :param groups: what it learns from.
    :param seed: of the weights at the start and of all that is drawn.
    :raises ValueError: there are no examples.
    """

    def __init__(
        self, groups: Sequence[Group], label_count: int, recipe: Recipe, seed: int = 0, device: str = "cpu"
    ) -> None:
        from monai.losses import DiceCELoss

        self.groups = [group for group in groups if group.examples and group.share > 0]
        if not self.groups:
            raise ValueError("there are no examples to learn from")
        self.label_count, self.recipe, self.device, self.done = label_count, recipe, device, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = len(self.groups[0].examples[0].image)
            self.network = recipe.network(channels, label_count).to(device)
        self.random = torch.Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), recipe.learning_rate)
        self.loss = DiceCELoss(softmax=True, include_background=False)

    def step(self) -> bool:
        """One update; False where all are done."""
        if self.done >= self.recipe.updates:
            return False
        self.network.train()
        patch = self.recipe.patch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * (1 + math.cos(math.pi * self.done / self.recipe.updates)) / 2
        region = region_of(patch)
        drawn = draw(self.groups, self.recipe.batch, region, self.label_count, self.random, self.device)
        batch = changed(drawn, patch, self.recipe.changes, self.random, self.recipe.spacing)
        self.optimizer.zero_grad(set_to_none=True)
        with half_where_right(self.device):
            logits = self.network(batch.images)
        self._loss(logits.float(), batch).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), CLIPPED)
        self.optimizer.step()
        self.done += 1
        return True

    def _loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy and soft Dice within the fields of view: beyond them what is sought is what is found."""
        certain = torch.zeros_like(logits)
        certain[:, 0] = BEYOND
        background = torch.zeros_like(batch.targets)
        background[:, 0] = 1
        seen = batch.seen > 0
        return self.loss(torch.where(seen, logits, certain), torch.where(seen, batch.targets, background))

    def learn(self, progress: Progress = quiet) -> nn.Module:
        """All updates that are left; the network, ready to be applied."""
        while self.step():
            if self.done % TELLING == 0:
                progress(self.done, self.recipe.updates, "")
        return self.network.eval()

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, to go on from."""
        tensors = {f"network.{name}": tensor for name, tensor in weights_of(self.network).items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
        return tensors | {"random": self.random.get_state()}, {"done": self.done}

    def load(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from what was kept."""
        own = {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        fill(self.network, own)
        found: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, entry = name.split(".")
                found.setdefault(int(number), {})[entry] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": found})
        self.done = int(state["done"])
        self.random.set_state(tensors["random"])
