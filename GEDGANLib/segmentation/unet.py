"""The segmentation network: MONAI's ``DynUNet``, which is the U-Net of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

FEWEST = 4
"""Voxels along an axis that are never halved."""


def strides_of(patch: Sequence[int], levels: int, spacing: Sequence[float] | None = None) -> list[tuple[int, ...]]:
    """How each level of a U-Net divides the grid along each axis, finest first; 1 leaves an axis as it is.

    An axis is halved as long as it has voxels for it and its voxels are not yet twice as long as the shortest.

    :param patch: voxels.
    :param spacing: mm; cubic voxels when not given.
    """
    sides, steps = list(patch), list(spacing or [1.0] * len(patch))
    strides: list[tuple[int, ...]] = [(1,) * len(patch)]
    for _level in range(levels - 1):
        shortest = min(steps)
        stride = tuple(
            2 if side // 2 >= FEWEST and side % 2 == 0 and step < 2 * shortest else 1
            for side, step in zip(sides, steps)
        )
        strides.append(stride)
        sides = [side // by for side, by in zip(sides, stride)]
        steps = [step * by for step, by in zip(steps, stride)]
    return strides


def build_unet(
    channels: int,
    label_count: int,
    widths: Sequence[int],
    strides: Sequence[Sequence[int]],
    normalisation: str = "instance",
) -> nn.Module:
    """A U-Net, (N, channels, *grid) -> logits (N, label_count + 1, *grid), background first.

    :param widths: features a level, finest first.
    :param strides: see :func:`strides_of`; sides of the grid must be multiples of their product.
    :param normalisation: ``instance`` for segmentation; ``batch`` keeps how bright a case is in the features.
    """
    from monai.networks.nets import DynUNet

    dims = len(strides[0])
    network = DynUNet(
        spatial_dims=dims,
        in_channels=channels,
        out_channels=label_count + 1,
        kernel_size=[[3] * dims for _width in widths],
        strides=[list(stride) for stride in strides],
        upsample_kernel_size=[list(stride) for stride in strides[1:]],
        filters=list(widths),
        norm_name=normalisation,
    )
    return network.to(memory_format=torch.channels_last_3d if dims == 3 else torch.channels_last)


SHARED = "skip_layers."
"""What ``DynUNet`` holds a second time, under other names."""


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Each weight of a U-Net once, by its name."""
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(SHARED)}


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    """Of each weight, by its name."""
    return {name: tuple(tensor.shape) for name, tensor in weights_of(network).items()}


def fill(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a U-Net the weights of another one like it.

    :raises ValueError: they are of another network.
    """
    if shapes_of(network) != {name: tuple(tensor.shape) for name, tensor in weights.items()}:
        raise ValueError("these are weights of another network")
    network.load_state_dict(weights, strict=False)
