"""From few labelled scans, their variations and the rest to one network.

It learns from the labelled scans, from variations of these, and from the rest with the labels that alignment carried
there (:mod:`GEDGANLib.alignment.voting`). Variations are all there is where there is no rest (Zhao et al., *Data
augmentation using learned transformations*, CVPR 2019); where there is, its scans are real and all different. A plan
may ask for a teacher first: a network that learns from labelled scans and variations alone and says where the labels
are in the rest, which is averaged with what was carried. ``Testing/Benchmarks/augmentation.py`` says what each was
worth.

The work can be stopped and killed: networks that are done, and the last two checkpoints of the one at work, are kept in
its folder until all is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, StoppedOnRequest
from ..jobs.checkpoint import forget_all, load_checkpoint, remove_after, save_checkpoint
from ..jobs.events import Progress, quiet
from ..jobs.writing import write_bytes
from .applying import probabilities
from .examples import Example, Group
from .learner import Learner
from .plan import NetworkPlan
from .unet import fill, weights_of

CHECKPOINT_SECONDS = 20.0
VARIATIONS_SHARE = 0.25
"""Of what the networks see that are variations."""


@dataclass(frozen=True)
class Material:
    """What is learned from.

    :param labelled: scans that somebody segmented.
    :param variations: of these.
    :param rest: the other scans, with the labels that were carried to them.
    """

    labelled: Sequence[Example]
    variations: Sequence[Example]
    rest: Sequence[Example]

    @property
    def groups(self) -> list[Group]:
        """What a network is shown, and how often."""
        share = VARIATIONS_SHARE if self.variations else 0.0
        return [Group(self.variations, share), Group([*self.labelled, *self.rest], 1 - share)]

    @property
    def for_teacher(self) -> Material:
        """Without the rest."""
        return replace(self, rest=())


@dataclass
class Job:
    """See the module's text.

    :param folder: for what is kept; this process's own.
    :param stop: says whether to end after the update at hand.
    :param show: gives the progress of a stage that it is told the name of.
    """

    folder: Path
    plan: NetworkPlan
    seed: int = 0
    device: str = "cpu"
    stop: Callable[[], bool] = lambda: False
    show: Callable[[str], Progress] = lambda words: quiet

    def learn(self, material: Material) -> nn.Module:
        """The network; goes on from where an earlier process was in the folder.

        :raises StoppedOnRequest: all is kept, and it goes on from there.
        :raises InputError: the disk is full.
        """
        if material.rest and self.plan.teacher:
            teacher = self._trained("teacher", "learning to segment: the teacher", material.for_teacher)
            material = replace(material, rest=self._said(teacher, material.rest))
        return self._trained("student", "learning to segment", material)

    def _said(self, teacher: nn.Module, rest: Sequence[Example]) -> list[Example]:
        """The rest with labels that are the mean of what was carried and what the teacher says."""
        show, found = self.show("segmenting the rest for the first time"), []
        for number, example in enumerate(rest):
            show(number, len(rest), "")
            self._stop_if_asked(f"Stopped after {number} of {len(rest)} scans.")
            said = probabilities(teacher, example.image, self.plan.patch)
            found.append(with_shares(example, (said + certain(example, len(said))) / 2))
        show(len(rest), len(rest), "")
        return found

    def _trained(self, name: str, words: str, material: Material) -> nn.Module:
        """Train a network from where it was, with checkpoints; what comes of it is kept under ``name``."""
        from safetensors.torch import load, save

        learner = Learner(material.groups, len(self.plan.labels), self.plan.recipe, self.seed, self.device)
        kept = self.folder / f".{name}.safetensors"
        if kept.exists():
            fill(learner.network, load(kept.read_bytes()))
            return learner.network.eval()
        # The student's come after the teacher's, which may be left where a kill came before they were removed.
        before = 0 if name == "teacher" else self.plan.updates
        with suppress(InputError):  # none is there, or those of the teacher, half removed by a kill
            tensors, state = load_checkpoint(self.folder)
            if state["of"] == name:
                learner.load(tensors, state)
        show, last = self.show(words), time.monotonic()
        while learner.step():
            show(learner.done, self.plan.updates, "")
            stopped = self.stop()
            if stopped or time.monotonic() - last >= CHECKPOINT_SECONDS:
                tensors, state = learner.kept()
                save_checkpoint(self.folder, before + learner.done, tensors, {**state, "of": name})
                last = time.monotonic()
            if stopped:
                raise StoppedOnRequest(f"Stopped after {learner.done} of {self.plan.updates} updates of the {name}.")
        weights = weights_of(learner.network)
        write_bytes(kept, save({key: value.cpu().contiguous() for key, value in weights.items()}))
        remove_after(self.folder, -1)
        return learner.network.eval()

    def _stop_if_asked(self, words: str) -> None:
        if self.stop():
            raise StoppedOnRequest(words)

    def forget(self) -> None:
        """Remove what was kept to go on from; for when the network is written."""
        forget_all(self.folder)


def certain(example: Example, count: int) -> Tensor:
    """Probabilities of the labels of an example, (count, *grid) float32."""
    if example.shares is not None:
        return example.shares.float()
    return torch.nn.functional.one_hot(example.labels.long(), count).movedim(-1, 0).float()


def with_shares(example: Example, shares: Tensor) -> Example:
    """An example whose labels are known with these probabilities, (label_count + 1, *grid)."""
    return replace(example, labels=shares.argmax(0).to(torch.uint8), shares=shares.half())
