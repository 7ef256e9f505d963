"""The file of a segmentation network: one ``NAME.safetensors`` with weights and, in its header, plan and origin.

There is no code in it and nothing is unpickled; the header is checked before anything is built from it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .. import __version__
from ..device import choose_device
from ..errors import InputError
from ..jobs.writing import write_bytes
from .plan import NetworkPlan
from .unet import fill, shapes_of, weights_of

FORMAT = "GED-GAN segmentation network"
FORMAT_VERSION = 1
LONGEST_HEADER = 100_000_000
"""Bytes, as the format has it."""


@dataclass(frozen=True)
class SegmentationNetwork:
    """A segmentation network in memory.

    :param network: see :func:`.unet.build_unet`.
    :param about: what it learned from; plain JSON types.
    """

    path: Path
    network: nn.Module
    plan: NetworkPlan
    about: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """A short text that changes with the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def save_network(path: Path, network: nn.Module, plan: NetworkPlan, about: dict[str, Any]) -> None:
    """Write a network, beside first and renamed; the same network is the same bytes.

    :raises InputError: it cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights_of(network).items()}
    told = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "plan": plan.to_dict(),
        "about": {**about, "library_version": __version__},
    }  # fmt: skip
    # One entry: several would come in any order, and the same network would be other bytes.
    write_bytes(path, save(tensors, {"segmentation": json.dumps(told)}))


def is_network(path: Path) -> bool:
    """Whether a path is of a file of this kind, as far as its first bytes tell."""
    try:
        return _told(path) is not None
    except (OSError, ValueError):
        return False


def _told(path: Path) -> dict[str, Any] | None:
    """What the header says; None where it is of something else.

    :raises OSError: the file cannot be read.
    :raises ValueError: the header is damaged.
    """
    if path.is_dir():
        return None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= LONGEST_HEADER:
            return None
        header = json.loads(file.read(length))
    entries = header.get("__metadata__") if isinstance(header, dict) else None
    text = entries.get("segmentation") if isinstance(entries, dict) else None
    told = json.loads(text) if isinstance(text, str) else None
    return told if isinstance(told, dict) and told.get("format") == FORMAT else None


def read_plan(path: Path) -> tuple[NetworkPlan, dict[str, Any]]:
    """Plan and origin of a network, from the file's header alone.

    :raises InputError: it is no such file, damaged, or of a newer version.
    """
    hint = "Choose the network.safetensors that `gedgan segment` wrote, or copy it again."
    try:
        told = _told(path)
    except OSError as error:
        raise InputError(f"The network {path} cannot be read: {error.strerror}.", "Check the path.") from error
    except ValueError as error:
        raise InputError(f"{path} is not a segmentation network of GED-GAN, or is damaged.", hint) from error
    if told is None:
        raise InputError(f"{path} is not a segmentation network of GED-GAN.", hint)
    version, values, about = told.get("format_version"), told.get("plan"), told.get("about")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"{path} was written by a newer GED-GAN.", "Update GED-GAN.")
    if version != FORMAT_VERSION or not isinstance(values, dict) or not isinstance(about, dict):
        raise InputError(f"The header of {path} is damaged.", "Copy the file again from where it came from.")
    return NetworkPlan.from_dict(values, str(path)), about


def load_network(path: Path, device: str = "auto") -> SegmentationNetwork:
    """Read a network.

    :param device: as :func:`GEDGANLib.device.choose_device` takes it.
    :raises InputError: as :func:`read_plan`; cut off, or weights that are not those of its plan; no such device.
    """
    from safetensors import SafetensorError, safe_open

    plan, about = read_plan(path)
    damaged = InputError(
        f"The weights in {path} are cut off or damaged.", "Copy the file again from where it is whole."
    )
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged from error
    channels, labels = len(plan.channels), len(plan.labels)
    with torch.device("meta"):  # its shapes alone: no room is made for a network that the file does not have
        wanted = shapes_of(plan.recipe.network(channels, labels))
    if wanted != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        raise damaged
    network = plan.recipe.network(channels, labels)
    fill(network, tensors)
    return SegmentationNetwork(path, network.to(choose_device(device)).eval(), plan, about)
