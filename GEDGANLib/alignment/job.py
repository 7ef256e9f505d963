"""An alignment from prepared cases to its run folder: registration that can be stopped, killed and gone on with.

The folder holds ``plan.json`` and ``prepared``, as that of a training; ``align.json`` (what was asked for, and of which
cases), ``alignment.safetensors`` (see :class:`Aligned`), ``aligned.png`` and, until it is done, the last two
``checkpoint-*`` folders. A file ``STOP`` in it ends the work after the iteration it is in.

Cases that are held out for judging take no part in the template: they are brought onto it when it is done, as scans
that come later are.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..device import choose_device
from ..errors import InputError, StoppedOnRequest
from ..jobs.checkpoint import checkpoints, forget_all, load_checkpoint, remove_after, save_checkpoint
from ..jobs.events import Progress, quiet
from ..jobs.writing import write_bytes
from .registration import Registration, Settings
from .sampling import identity, shape_of_at_most, shrink
from .template import JUDGED, Quality, Scan, Template, judge, make_template
from .transformations import Transformations
from .velocity import jacobian_determinant, smooth

CHECKPOINT_SECONDS = 20.0
LARGEST = {"cpu": 64**3, "mps": 96**3, "cuda": 128**3}
"""Voxels of the grid that cases are aligned on at most; the displacement is applied at full resolution."""
FOLDED, UNFOLD_ROUNDS = 0.01, 20
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Aligned:
    """Cases that lie on a template.

    :param names: of the cases, in order.
    :param held_out: names of those that the template was made without; none where all were brought onto one of before.
    :param qualities: how well each lies on it, in the order of ``names``.
    :param unfolded: names of the cases whose velocities were smoothed until nothing folded.
    :param images: a short text for each case that changes with any voxel of its image on the working grid; none in an
        alignment of before.
    :param boxes: where the box of each lies in its patient: affine of its working grid, (4, 4), voxel to mm in RAS.
    """

    names: tuple[str, ...]
    held_out: tuple[str, ...]
    moved: Transformations
    template: Template
    qualities: tuple[Quality, ...]
    unfolded: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    boxes: tuple[np.ndarray, ...] = ()

    @classmethod
    def joined(cls, parts: Sequence[Aligned]) -> Aligned:
        """Cases that were brought onto one template part by part, in the order of their names."""
        names = [name for part in parts for name in part.names]
        order = sorted(range(len(names)), key=lambda index: names[index])

        def every(of: Callable[[Aligned], Sequence[Any]]) -> tuple[Any, ...]:
            found = [each for part in parts for each in of(part)]
            return tuple(found[index] for index in order)

        first = parts[0].moved
        generators, velocities = (torch.cat([getattr(part.moved, name) for part in parts])[order] for name in MOVED)
        return cls(
            every(lambda part: part.names),
            (),
            Transformations(generators, velocities, first.extent),
            parts[0].template,
            every(lambda part: part.qualities),
            tuple(sorted(name for part in parts for name in part.unfolded)),
            every(lambda part: part.images),
            every(lambda part: part.boxes),
        )

    def save(self, path: Path) -> None:
        """Write one safetensors file; the same alignment gives the same bytes.

        :raises InputError: it cannot be written.
        """
        from safetensors.torch import save

        tensors = {
            "generators": self.moved.generators,
            "velocities": self.moved.velocities,
            "template": self.template.image,
            "seen": self.template.seen,
        }
        if self.template.labels is not None:
            tensors |= {"labels": self.template.labels.half(), "labelled": self.template.labelled}
        told = {
            "format_version": FORMAT_VERSION,
            "names": self.names,
            "held_out": self.held_out,
            "extent": self.moved.extent,
            "qualities": [asdict(quality) for quality in self.qualities],
            "unfolded": self.unfolded,
            "images": self.images,
            "boxes": [box.tolist() for box in self.boxes],
        }
        # One entry: several would come in any order, and the same alignment would be other bytes.
        header = {"alignment": json.dumps(told)}
        write_bytes(path, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, header))

    @classmethod
    def load(cls, path: Path) -> Aligned:
        """Read what :meth:`save` wrote.

        :raises InputError: it is not there, cut off, newer, or something else.
        """
        from safetensors import SafetensorError, safe_open

        hint = "Align the scans again with `gedgan align`."
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                told = json.loads(header["alignment"])
                if int(told["format_version"]) > FORMAT_VERSION:
                    raise InputError(f"{path} was written by a newer GED-GAN.", "Update GED-GAN.")
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            moved = Transformations(tensors["generators"], tensors["velocities"], tuple(told["extent"]))
            labels = tensors["labels"].float() if "labels" in tensors else None
            template = Template(tensors["template"], tensors["seen"], labels, tensors.get("labelled"))
            qualities = tuple(Quality(**each) for each in told["qualities"])
            if not len(moved) == len(told["names"]) == len(qualities) == len(moved.velocities):
                raise ValueError("parts are missing")
            images, boxes = tuple(told.get("images", ())), tuple(np.array(box) for box in told.get("boxes", ()))
            names = tuple(told["names"]), tuple(told["held_out"])
            return cls(*names, moved, template, qualities, tuple(told["unfolded"]), images, boxes)
        except FileNotFoundError as error:
            raise InputError(f"{path} is not there: these scans are not aligned yet.", hint) from error
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} cannot be read as an alignment.", hint) from error


def fields_of_view(cases: Sequence[Scan], extent: Sequence[float]) -> Tensor:
    """First and last mm of each case's scan along each axis, from the centre of the box, (N, D, 2)."""
    boxes = []
    for case in cases:
        shape = np.array(case.image.shape[1:])
        share = (case.field_of_view + 0.5) / shape[:, None] - 0.5
        boxes.append(share * np.asarray(extent)[:, None])
    return torch.from_numpy(np.stack(boxes)).float()


def lacks_an_operation(device: str) -> bool:
    """Whether PyTorch cannot do on a device what alignment needs, as the gradient of sampling on some Apple GPUs."""
    try:
        volume = torch.rand(1, 1, 4, 4, 4, device=device).requires_grad_()
        grid = torch.rand(1, 4, 4, 4, 3, device=device).requires_grad_()
        for padding in ("border", "reflection"):
            sampled = torch.nn.functional.grid_sample(volume, grid, padding_mode=padding, align_corners=False)
            torch.autograd.grad(sampled.sum(), [volume, grid])
        torch.matrix_exp(torch.zeros(1, 4, 4, device=device))
        torch.linalg.det(torch.eye(3, device=device))
        identity((4, 4, 4), (4.0, 4.0, 4.0), volume)
    except (NotImplementedError, TypeError, RuntimeError) as error:
        if "out of memory" in str(error).lower():
            raise
        return True
    return False


def device_that_aligns(wanted: str) -> str:
    """Where to compute: as :func:`GEDGANLib.device.choose_device` says; the CPU where an Apple GPU lacks an operation.

    :raises InputError: there is no such device.
    """
    device = choose_device(wanted)
    return "cpu" if device == "mps" and lacks_an_operation(device) else device


def registration_shape(shape: Sequence[int], extent: Sequence[float], device: str) -> tuple[int, ...]:
    """The grid that cases are aligned on: theirs, or a coarser one where it has more voxels than :data:`LARGEST`."""
    return shape_of_at_most(LARGEST[device], shape, extent)


def shrunk(cases: Sequence[Scan], shape: tuple[int, ...], device: str, progress: Progress = quiet) -> Tensor:
    """Images of cases on a coarser grid over their box, (N, C, *shape)."""
    images = []
    for number, case in enumerate(cases):
        progress(number, len(cases), case.name)
        image = torch.from_numpy(np.array(case.image, np.float32))[None]
        images.append(shrink(image, shape))
    progress(len(cases), len(cases), "")
    return torch.cat(images).to(device)


@dataclass
class Job:
    """See the module's text.

    :param run: its folder, which is this process's own.
    :param settings: of the registration.
    :param stop: says whether to end after the iteration at hand.
    :param show: gives the progress of a stage that it is told the name of.
    :param shape: of the grid that the cases are aligned on; by the device when not given. A run goes on with its own.
    """

    run: Path
    settings: Settings = field(default_factory=Settings)
    device: str = "cpu"
    stop: Callable[[], bool] = lambda: False
    show: Callable[[str], Progress] = lambda words: quiet
    shape: tuple[int, ...] | None = None

    def align(
        self,
        cases: Sequence[Scan],
        extent: Sequence[float],
        held_out: Sequence[int] = (),
        label_count: int = 0,
        onto: Template | None = None,
    ) -> Aligned:
        """Align ``cases``; goes on from where an earlier process was in the folder.

        :param extent: of the box that is their grid, mm.
        :param held_out: indices of the cases that take no part in the template.
        :param onto: template over the same box to bring all cases onto; that of the cases when not given.
        :raises StoppedOnRequest: all is kept, and it goes on from there.
        :raises InputError: the disk is full.
        """
        extent = tuple(float(side) for side in extent)
        shape = self.shape or registration_shape(cases[0].image.shape[1:], extent, self.device)
        images, boxes = shrunk(cases, shape, "cpu", self.watched("reading the scans")), fields_of_view(cases, extent)
        apart = list(range(len(cases))) if onto is not None else sorted(held_out)
        together = [index for index in range(len(cases)) if index not in set(apart)]
        parts: list[tuple[list[int], Transformations]] = []
        template, unfolded = None if onto is None else onto.to(self.device), []
        if together:
            registration = Registration(images[together].to(self.device), boxes[together], extent, self.settings)
            moved = self._registered("template", "aligning the scans", registration)
            unfolded += [together[one] for one in unfold(moved, cases[0].image.shape[1:])]
            chosen = [cases[index] for index in together]
            with_boxes = boxes[together], label_count, self.device, self.watched("making the template")
            template = make_template(chosen, moved, *with_boxes)
            parts.append((together, moved))
        if apart:
            given = shrink(template.image[None], shape)
            registration = Registration(images[apart].to(self.device), boxes[apart], extent, self.settings, given)
            moved = self._registered("onto", "bringing scans onto the template", registration)
            unfolded += [apart[one] for one in unfold(moved, cases[0].image.shape[1:])]
            parts.append((apart, moved))
        moved = _joined(parts, len(cases))
        qualities, looked_at = [], template.at(shape_of_at_most(JUDGED, template.image.shape[1:], extent))
        show = self.watched("judging how each lies on it")
        for index, case in enumerate(cases):
            show(index, len(cases), case.name)
            part = index in set(together)
            qualities.append(judge(case, moved, index, boxes[index], looked_at, self.settings.window, part))
        show(len(cases), len(cases), "")
        names = tuple(case.name for case in cases)
        held_out_names = tuple(names[index] for index in apart) if onto is None else ()
        return Aligned(
            names, held_out_names, moved, template, tuple(qualities), tuple(names[one] for one in sorted(unfolded))
        )

    def _registered(self, name: str, words: str, registration: Registration) -> Transformations:
        """Run a registration from where it was, with checkpoints; its result is kept under ``name``."""
        from safetensors.torch import load, save

        kept = self.run / f".{name}.safetensors"
        if kept.exists():
            try:
                is_left_over = self._checkpoint_of(name) is not None  # a kill came before it was removed
            except InputError:  # or while it was
                is_left_over = True
            if is_left_over:
                remove_after(self.run, -1)
            tensors = load(kept.read_bytes())
            return Transformations(*(tensors[key].to(self.device) for key in MOVED), registration.extent)
        if (checkpoint := self._checkpoint_of(name)) is not None:
            registration.load(*checkpoint)
        show, last = self.show(words), time.monotonic()
        while registration.step():
            show(registration.done, registration.total, "")
            stopped = self.stop()
            if stopped or time.monotonic() - last >= CHECKPOINT_SECONDS:
                tensors, where = registration.kept()
                save_checkpoint(self.run, registration.done, tensors, {**where, "stage": name})
                last = time.monotonic()
            if stopped:
                raise StoppedOnRequest(f"Stopped after {registration.done} of {registration.total} iterations.")
        moved = registration.state.moved
        write_bytes(kept, save({"generators": moved.generators.cpu(), "velocities": moved.velocities.cpu()}))
        remove_after(self.run, -1)
        return moved

    def _checkpoint_of(self, stage: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint, if there is one and it is of this stage.

        :raises InputError: none of those that are there can be read.
        """
        found = load_checkpoint(self.run) if checkpoints(self.run) else None
        return found if found is not None and found[1].get("stage", stage) == stage else None

    def forget(self) -> None:
        """Remove what was kept to go on from; for when the result is written."""
        forget_all(self.run)

    def watched(self, words: str) -> Progress:
        """Progress over cases that ends where a stop was asked for."""
        show = self.show(words)

        def watch(done: float, total: int, name: str) -> None:
            show(done, total, name)
            if self.stop():
                raise StoppedOnRequest(f"Stopped while {words}.")

        return watch


MOVED = ("generators", "velocities")


def _joined(parts: Sequence[tuple[list[int], Transformations]], count: int) -> Transformations:
    first = parts[0][1]
    generators = first.generators.new_zeros(count, *first.generators.shape[1:])
    velocities = first.velocities.new_zeros(count, *first.velocities.shape[1:])
    for indices, moved in parts:
        generators[indices], velocities[indices] = moved.generators, moved.velocities
    return Transformations(generators, velocities, first.extent)


@torch.no_grad()
def unfold(moved: Transformations, shape: Sequence[int]) -> list[int]:
    """Smooth the velocities of cases that fold on a grid until none does, :data:`UNFOLD_ROUNDS` times at most; which
    these are."""
    found, shape = [], shape_of_at_most(JUDGED, shape, moved.extent)
    for index in range(len(moved)):
        width = 0.5 * max(side / count for side, count in zip(moved.extent, moved.velocities.shape[2:]))
        for _ in range(UNFOLD_ROUNDS):
            positions = moved.of([index]).positions(shape)
            if float(jacobian_determinant(positions, moved.extent).min()) > FOLDED:
                break
            found.append(index)
            moved.velocities[index] = smooth(moved.velocities[index : index + 1], width, moved.extent)[0]
    return sorted(set(found))
