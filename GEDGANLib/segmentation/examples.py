"""What a segmentation network learns from: scans, with what is known of their segmentation, and parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..jobs.writing import write_bytes

ON_LABELS = 0.67
"""Share of the parts whose middle lies on a label, as in nnU-Net one in three does; rare labels as often as others."""
PLACES = 1000
"""Voxels of a label, spread over it, among which such middles are drawn."""


@dataclass(frozen=True)
class Example:
    """A scan on a grid of the network's voxels.

    :param image: (C, *grid) in [-1, 1].
    :param labels: (*grid) uint8, 0 background; of a segmentation that nobody drew, the likeliest ones: learning from
        their probabilities was measured to be worse by two points of Dice.
    :param shares: where they are not certain, probability of each label, background first, (label_count + 1, *grid).
    :param weight: how often it is drawn, beside others of its group.
    """

    image: Tensor
    labels: Tensor
    shares: Tensor | None = None
    weight: float = 1.0

    @cached_property
    def places(self) -> list[Tensor]:
        """Of each label that is there, some of its voxels, (at most :data:`PLACES`, D)."""
        found = []
        for label in torch.unique(self.labels):
            if label:
                voxels = torch.nonzero(self.labels == label)
                found.append(voxels[:: max(len(voxels) // PLACES, 1)].clone())
        return found

    def save(self, path: Path) -> None:
        """Write it as a safetensors file.

        :raises InputError: it cannot be written.
        """
        from safetensors.torch import save

        tensors = {"image": self.image, "labels": self.labels, "weight": torch.tensor(self.weight)}
        tensors |= {} if self.shares is None else {"shares": self.shares}
        write_bytes(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: Path) -> Example:
        """What :meth:`save` wrote; its voxels stay in the file until they are looked at.

        :raises OSError: it is not there.
        :raises ValueError: it is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(path)
            return cls(found["image"], found["labels"], found.get("shares"), float(found["weight"]))
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{path} is damaged") from error


@dataclass(frozen=True)
class Group:
    """Examples of one kind, as labelled scans or variations.

    :param share: of the parts that are drawn from it.
    """

    examples: Sequence[Example]
    share: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Parts of examples.

    :param images: (N, C, *region) float32.
    :param targets: 1 for the label of a voxel, 0 for others, background first, (N, label_count + 1, *region) float32.
    :param seen: 1 where the scan is, 0 beyond its field of view, whose edge is repeated, (N, 1, *region).
    """

    images: Tensor
    targets: Tensor
    seen: Tensor


def draw(
    groups: Sequence[Group], count: int, region: Sequence[int], label_count: int, random: torch.Generator,
    device: str = "cpu",
) -> Batch:  # fmt: skip
    """Draw parts of examples.

    :param region: voxels of each part; a scan that is smaller lies somewhere in it whole.
    """
    shares = torch.tensor([group.share for group in groups], dtype=torch.float64)
    parts = []
    for number in torch.multinomial(shares, count, replacement=True, generator=random).tolist():
        examples = groups[number].examples
        weights = torch.tensor([example.weight for example in examples], dtype=torch.float64)
        chosen = examples[int(torch.multinomial(weights, 1, generator=random))]
        parts.append(_part(chosen, _corner(chosen, region, random), region))
    images, labels, seen = (torch.stack(each).to(device) for each in zip(*parts))
    targets = torch.stack([(labels == label) for label in range(label_count + 1)], 1).float()
    return Batch(images, targets, seen)


def _corner(example: Example, region: Sequence[int], random: torch.Generator) -> list[int]:
    """First voxel of a part, in those of the example; negative where the part begins before it."""
    shape = example.labels.shape
    middle = None
    if float(torch.rand((), generator=random)) < ON_LABELS and example.places:
        voxels = example.places[int(torch.randint(len(example.places), (), generator=random))]
        middle = voxels[int(torch.randint(len(voxels), (), generator=random))].tolist()
    corner = []
    for axis, (side, wanted) in enumerate(zip(shape, region)):
        if side <= wanted:
            corner.append((side - wanted) // 2)
        else:
            at = int(torch.randint(side, (), generator=random)) if middle is None else middle[axis]
            corner.append(min(max(at - wanted // 2, 0), side - wanted))
    return corner


def _part(example: Example, corner: Sequence[int], region: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Image, labels and field of view of a part."""
    image, labels = example.image, example.labels
    seen = torch.ones(1, *region)
    for axis, (first, side) in enumerate(zip(corner, region)):
        count = labels.shape[axis]
        index = torch.arange(first, first + side)
        beyond = (index < 0) | (index >= count)
        if beyond.any():
            seen = seen * (~beyond).float().reshape([-1 if other == axis else 1 for other in range(len(region))])
        index = index.clamp(0, count - 1)
        image, labels = image.index_select(axis + 1, index), labels.index_select(axis, index)
    return image.float(), labels, seen
