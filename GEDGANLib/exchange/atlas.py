"""An alignment as what atlas people work with: template, transforms, Jacobians, volumes, scores.

``template*.nii.gz``, ``template-segmentation.seg.nrrd`` and ``probability_LABEL.nii.gz`` lie in the template's space,
with ``jacobians/CASE.nii.gz``, logarithms of how much volume a case has for one of the template. Each case has
two displacement fields in ``transforms``, in the physical coordinates of its scan (ITK's, LPS, mm):

- ``CASE_to-template.nii.gz`` is on the template and leads from its points to the case's, which is what resampling the
  case onto the template asks for (ITK, ANTs: ``-t``); put above a case in Slicer, it brings it onto the template;
- ``CASE_from-template.nii.gz`` is on the case, the other way round.

Slicer reads both as grid transforms. ``volumes.csv`` tells the volume of each label, ``scores.csv`` how each case lies
along the eigen-directions, beside the columns of the data set's ``participants.tsv``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..alignment.job import LARGEST, Aligned, registration_shape
from ..alignment.sampling import identity
from ..alignment.template import carried_labels
from ..alignment.transformations import Transformations
from ..alignment.velocity import jacobian_determinant
from ..jobs.events import Progress, quiet
from ..jobs.writing import beside
from ..planning.plan import Plan
from ..volumes.case import Case
from ..volumes.files import LPS_TO_RAS, write_volume
from ..volumes.geometry import compose
from ..volumes.pipeline import WorkingCase, unmap_intensities
from ..volumes.segmentation_file import write_segmentation

MARGIN = 1.5
"""Voxels of a displacement field beyond what it is of, so that no point at the edge falls out of it."""
SMALLEST_DETERMINANT = 1e-3


def write_atlas(
    folder: Path,
    aligned: Aligned,
    cases: Sequence[WorkingCase],
    plan: Plan,
    scores: np.ndarray | None = None,
    columns: Mapping[str, Sequence[str | None]] | None = None,
    chosen: Sequence[int] | None = None,
    progress: Progress = quiet,
) -> None:
    """Write the files of the module's text.

    :param folder: is there and empty.
    :param cases: that were aligned, in the order of ``aligned``.
    :param scores: (N, K), nan where one is not known.
    :param columns: what else is known of the cases, by name, in their order.
    :param chosen: indices of the cases whose transforms and Jacobians are written, and no tables then; of all, and the
        tables, when not given.
    :raises InputError: the disk is full.
    """
    for part in ("transforms", "jacobians"):
        (folder / part).mkdir(exist_ok=True)
    _write_template(folder, aligned, plan)
    rows = []
    for number, case in enumerate(cases):
        progress(number, len(cases), case.name)
        if chosen is None or number in chosen:
            moved = aligned.moved.of([number])
            write_transforms(folder / "transforms", case, moved, plan)
            _write_jacobian(folder / "jacobians" / f"{case.name}.nii.gz", moved, plan)
        if plan.labels and chosen is None:
            rows.append(_volumes(case, aligned, number, plan))
    progress(len(cases), len(cases), "")
    if rows:
        names = [f"{label.name} (ml)" for label in plan.labels]
        _write_table(folder / "volumes.csv", ["case", "segmentation", *names], rows)
    if chosen is None:
        _write_table(folder / "scores.csv", *_scores(aligned, scores, columns or {}))


def _about(what: str) -> str:
    return f"{what}, GED-GAN {__version__}"


def _write_template(folder: Path, aligned: Aligned, plan: Plan) -> None:
    template, affine = aligned.template, plan.grid.affine
    image = unmap_intensities(template.image.cpu().numpy(), [channel.typical for channel in plan.channels])
    for name, voxels in zip(template_files(plan), image):
        write_volume(folder / name, voxels, affine, _about("mean of aligned scans"))
    if template.labels is None:
        return
    shares = template.labels.cpu().numpy().astype(np.float32)
    names = _file_names([label.name for label in plan.labels])
    for label, name, share in zip(plan.labels, names, shares[1:]):
        write_volume(folder / f"probability_{name}.nii.gz", share, affine, _about(f"probability of {label.name}"))
    labels = shares.argmax(0).astype(np.uint8)
    case = Case("template-segmentation", image, labels, affine, plan.labels, description=_about("most probable labels"))
    write_segmentation(folder, case, ".nrrd")


def template_files(plan: Plan) -> list[str]:
    """Names of the files of the template, one a channel, in their order."""
    names = _file_names([channel.name for channel in plan.channels])
    return ["template.nii.gz"] if len(names) == 1 else [f"template_{name}.nii.gz" for name in names]


def _file_names(words: Sequence[str]) -> list[str]:
    """As file names, no two of them the same."""
    names = ["".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in each) for each in words]
    return [name if names.count(name) == 1 else f"{name}-{number}" for number, name in enumerate(names, 1)]


def box_to_world(affine: np.ndarray, shape: Sequence[int], extent: Sequence[float]) -> np.ndarray:
    """From positions in the box of an alignment, mm from its centre, to RAS, (4, 4).

    :param affine: of a grid that fills the box.
    """
    scale = np.array(shape) / np.array(extent)
    to_index = np.eye(4)
    to_index[:3, :3] = np.diag(scale)
    to_index[:3, 3] = np.array(shape) / 2 - 0.5
    return np.asarray(affine) @ to_index


def write_transforms(folder: Path, case: WorkingCase, moved: Transformations, plan: Plan) -> tuple[Path, Path]:
    """Write both displacement fields of a case; returns their files, to the template and from it.

    :param moved: of this case alone.
    :raises InputError: the disk is full.
    """
    spacing = _field_spacing(plan)
    template = box_to_world(plan.grid.affine, plan.grid.shape, plan.extent)
    patient = box_to_world(case.affine, plan.grid.shape, plan.extent)
    box = np.stack([-np.array(plan.extent) / 2, np.array(plan.extent) / 2], 1)
    # What there is of the case may reach beyond the box.
    scan = (case.field_of_view + 0.5) / np.array(plan.grid.shape)[:, None] - 0.5
    scan = scan * np.array(plan.extent)[:, None]
    wider = np.stack([np.minimum(scan[:, 0], box[:, 0]), np.maximum(scan[:, 1], box[:, 1])], 1)
    paths = folder / f"{case.name}_to-template.nii.gz", folder / f"{case.name}_from-template.nii.gz"
    for path, ends, source, target, way in (
        (paths[0], box, template, patient, moved.at),
        (paths[1], wider, patient, template, moved.back),
    ):
        first = ends[:, 0] - MARGIN * spacing
        count = np.ceil((ends[:, 1] - ends[:, 0]) / spacing + 2 * MARGIN - 1e-6).astype(int) + 1
        axes = [start + step * np.arange(sides) for start, step, sides in zip(first, spacing, count)]
        points = torch.from_numpy(np.stack(np.meshgrid(*axes, indexing="ij"))[None]).float()
        arrived = way(points.to(moved.velocities))[0].cpu().double().numpy()
        displacement = _in_world(target, arrived) - _in_world(source, points[0].double().numpy())
        grid = source @ compose(np.eye(3), spacing, first)
        _write_displacement(path, displacement, grid)
    return paths


def _field_spacing(plan: Plan) -> np.ndarray:
    """Between two vectors of a displacement field, mm: half of what cases were aligned on, where that is not too much,
    since programs interpolate linearly between them."""
    shape = registration_shape(plan.grid.shape, plan.extent, "cpu")
    finer = 2 if 8 * np.prod(shape) <= LARGEST["cpu"] else 1
    return np.array(plan.extent) / shape / finer


def _in_world(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (3, *spatial) moved by a matrix (4, 4)."""
    return np.tensordot(matrix[:3, :3], points, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)


def _write_displacement(path: Path, displacement: np.ndarray, affine: np.ndarray) -> None:
    """A field (3, *grid), mm in RAS, as an ITK displacement field."""
    import SimpleITK

    lps = LPS_TO_RAS @ affine
    vectors = np.tensordot(LPS_TO_RAS[:3, :3], displacement, 1).astype(np.float32)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(vectors.transpose(3, 2, 1, 0)), isVector=True)
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    with beside(path) as partial:
        SimpleITK.WriteImage(image, str(partial), useCompression=True)


def _write_jacobian(path: Path, moved: Transformations, plan: Plan) -> None:
    shape = registration_shape(plan.grid.shape, plan.extent, "cpu")
    with torch.no_grad():
        here: Tensor = identity(shape, plan.extent, moved.velocities)
        determinant = jacobian_determinant(moved.at(here), plan.extent)[0].cpu()
    affine = plan.grid.at(shape).affine
    logarithm = determinant.clamp_min(SMALLEST_DETERMINANT).log().numpy()
    write_volume(path, logarithm, affine, _about("log of the volume of the case for one of the template"))


def _volumes(case: WorkingCase, aligned: Aligned, index: int, plan: Plan) -> list[str]:
    """Name, whose segmentation, and volume of each label, ml."""
    labels, whose = case.labels, "own"
    if labels is None:
        if aligned.template.labels is None:
            return [case.name, "none", *[""] * len(plan.labels)]
        labels, whose = carried_labels(aligned.template.labels, aligned.moved, index), "carried from the template"
    counts = np.bincount(np.asarray(labels).ravel(), minlength=len(plan.labels) + 1)
    voxel = float(np.prod(plan.grid.spacing)) / 1000
    return [case.name, whose, *(f"{counts[label.index] * voxel:.4f}" for label in plan.labels)]


def _scores(
    aligned: Aligned, scores: np.ndarray | None, columns: Mapping[str, Sequence[str | None]]
) -> tuple[list[str], list[list[str]]]:
    count = 0 if scores is None else scores.shape[1]
    held_out = set(aligned.held_out)
    heading = ["case", *columns, "held out", "similarity", "dice", *(f"z{number + 1}" for number in range(count))]
    rows = []
    for index, (name, quality) in enumerate(zip(aligned.names, aligned.qualities)):
        row = [name, *((values[index] or "") for values in columns.values()), "yes" if name in held_out else "no"]
        row += [f"{quality.similarity:.4f}", "" if quality.dice is None else f"{quality.dice:.4f}"]
        row += [] if scores is None else ["" if np.isnan(value) else f"{value:.5f}" for value in scores[index]]
        rows.append(row)
    return heading, rows


def _write_table(path: Path, heading: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with beside(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([heading, *rows])
