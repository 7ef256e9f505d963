"""Cases brought to the working grid once and kept in a folder that can be deleted at any time.

The folder holds ``images.npy`` (cases, channels, *grid; float32 in [-1, 1]), ``labels.npy`` (cases, *grid; uint8) and
``cases.json``; where cases are trained on in parts, also ``coarse_images.npy`` and ``coarse_labels.npy``. The arrays
are mapped into memory, so that as much of them is in memory as the system has room for, and a data set may be larger
than that.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..jobs.writing import PARTIAL, explain_unwritable, write_bytes
from .dataset import CaseFiles, Dataset
from .fingerprint import Progress, quiet
from .pipeline import COARSE_FACTOR, WorkingCase, coarse_of, load_working_cases

FORMAT_VERSION = 1


class PreparedCases(Sequence[WorkingCase]):
    """Cases on the working grid; their arrays are views of files, and are read where they are touched.

    :param folder: as :func:`prepare_cases` wrote it.
    :raises OSError, ValueError, KeyError: it is not complete.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._about = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
        self._images = np.load(folder / "images.npy", mmap_mode="r")
        self._labels = np.load(folder / "labels.npy", mmap_mode="r")
        self._coarse = None
        if self._about["coarse"]:
            self._coarse = [np.load(folder / f"coarse_{name}.npy", mmap_mode="r") for name in ("images", "labels")]
        if not len(self._images) == len(self._labels) == len(self._about["cases"]):
            raise ValueError(f"{folder} is not complete")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> WorkingCase:
        about = self._about["cases"][index]
        return WorkingCase(
            name=about["name"],
            image=self._images[index],
            labels=self._labels[index] if about["labelled"] else None,
            affine=np.array(about["affine"]),
            source_affine=np.array(about["source_affine"]),
            source_shape=tuple(about["source_shape"]),
            class_name=about["class"],
            coarse=None if self._coarse is None else tuple(array[index] for array in self._coarse),
        )

    @property
    def key(self) -> str:
        """Changes with the files they were made from and with what of the plan they depend on."""
        return self._about["key"]


def prepare_cases(dataset: Dataset, plan, folder: Path, progress: Progress = quiet) -> PreparedCases:
    """Bring the cases of ``dataset`` to the plan's grid, unless ``folder`` has them already.

    :param folder: its parent exists; it is replaced where it was made from other files or for another grid.
    :raises InputError: a file that cannot be used, data that do not fit the plan, a full disk.
    """
    key = _key(dataset, plan)
    try:
        prepared = PreparedCases(folder)
        if prepared.key == key:
            return prepared
        del prepared  # a mapped file cannot be removed on Windows
    except (OSError, ValueError, KeyError):
        pass
    for left_by_a_kill in folder.parent.glob(f"{PARTIAL}*-{folder.name}"):
        shutil.rmtree(left_by_a_kill, ignore_errors=True)
    partial = folder.with_name(f"{PARTIAL}{os.getpid()}-{folder.name}")
    try:
        count, coarse = len(dataset.cases), plan.training.volume == "parts"
        # Before hours are spent on what would not fit.
        refuse_without_room(
            prepared_bytes(plan, count), folder.parent, "a run folder on another disk, or larger voxels (--spacing)"
        )
        keep_cases(load_working_cases(dataset, plan, progress), count, plan, partial, key, coarse)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise explain_unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return PreparedCases(folder)


def _arrays(plan, count: int, coarse: bool) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of each array that is kept of ``count`` cases, by its name."""
    shape, channels = tuple(plan.grid.shape), len(plan.channels)
    arrays: dict[str, tuple[type, tuple[int, ...]]] = {
        "images": (np.float32, (count, channels, *shape)),
        "labels": (np.uint8, (count, *shape)),
    }
    if coarse:
        small = tuple(side // COARSE_FACTOR for side in shape)
        arrays["coarse_images"] = (np.float32, (count, channels, *small))
        arrays["coarse_labels"] = (np.float16, (count, len(plan.labels) + 1, *small))
    return arrays


def prepared_bytes(plan, count: int, coarse: bool | None = None) -> int:
    """Bytes that ``count`` prepared cases take on the disk.

    :param coarse: whether they are kept coarsely, too; as the plan's training needs them when not given.
    """
    arrays = _arrays(plan, count, plan.training.volume == "parts" if coarse is None else coarse)
    return sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in arrays.values())


def refuse_without_room(needed: int, folder: Path, otherwise: str) -> None:
    """:raises InputError: ``needed`` bytes do not fit the disk of ``folder``; it offers ``otherwise``."""
    free = shutil.disk_usage(folder).free
    if free < 1.02 * needed:
        raise InputError(
            f"The cases on the working grid need {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are left in {folder}.",
            f"Free some space, or choose {otherwise}.",
        )


def keep_cases(
    cases: Iterable[WorkingCase], count: int, plan, folder: Path, key: str = "", coarse: bool = False
) -> PreparedCases:
    """Write ``count`` cases into files as they come, so that one at a time is in memory, and map these.

    :param folder: is created, and must not be there.
    :param key: see :attr:`PreparedCases.key`.
    :param coarse: keep each case coarsely, too.
    :raises OSError: a full disk, a folder that cannot be written.
    """
    folder.mkdir()
    arrays = _arrays(plan, count, coarse)
    images, labels, *in_parts = [
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape) for name, (kind, shape) in arrays.items()
    ]
    for array in (images, labels, *in_parts):
        _take_room(Path(array.filename), array.nbytes)
    about = []
    for index, case in enumerate(cases):
        images[index] = case.image
        if case.labels is not None:
            labels[index] = case.labels
        if in_parts:
            in_parts[0][index], in_parts[1][index] = coarse_of(case, len(plan.labels))
        about.append(
            {
                "name": case.name,
                "labelled": case.labels is not None,
                "class": case.class_name,
                "affine": case.affine.tolist(),
                "source_affine": case.source_affine.tolist(),
                "source_shape": list(case.source_shape),
            }
        )
    for array in (images, labels, *in_parts):
        array.flush()
    content = {"format_version": FORMAT_VERSION, "key": key, "coarse": bool(in_parts), "cases": about}
    write_bytes(folder / "cases.json", json.dumps(content, indent=1).encode("utf-8"))
    return PreparedCases(folder)


def _take_room(path: Path, size: int) -> None:
    """Make the system find room for a file, which until then is only promised to be as large as it says.

    :raises OSError: there is none, a quota for example.
    """
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)


def _key(dataset: Dataset, plan) -> str:
    files = [[case.name, case.class_name, [_stamp(path) for path in _files_of(case)]] for case in dataset.cases]
    names = [[label.index, label.value, label.name] for label in plan.labels]
    channels = [[channel.name, channel.mapping, channel.typical] for channel in plan.channels]
    grid = [plan.grid.shape, plan.grid.spacing, plan.training.volume]
    text = json.dumps([FORMAT_VERSION, grid, channels, names, sorted(dataset.label_names.items()), files])
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _files_of(case: CaseFiles) -> list[Path]:
    found: list[Path] = []
    for path in case.paths:
        found += sorted(path.iterdir()) if path.is_dir() else [path]
    return found


def _stamp(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]
