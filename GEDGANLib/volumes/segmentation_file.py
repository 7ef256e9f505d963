"""A case's segmentation as one file; in NRRD it is Slicer's ``.seg.nrrd`` with names, colours and terminology."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..jobs.writing import beside, explain_unwritable
from .case import Case
from .files import SEGMENTATION_SUFFIX, write_volume
from .nrrd_files import nrrd_header


def write_segmentation(folder: Path, case: Case, ending: str) -> Path:
    """Write the labels of ``case`` under its name and return the file.

    :param ending: ``.nii.gz``, or ``.nrrd`` for Slicer's own kind.
    :raises InputError: it cannot be written.
    """
    labels = case.labels.astype(np.uint8)
    if ending != ".nrrd":
        path = folder / f"{case.name}{ending}"
        write_volume(path, labels, case.affine, case.description)
        return path

    import nrrd

    path = folder / f"{case.name}{SEGMENTATION_SUFFIX}"
    header = nrrd_header(case.affine, case.description)
    extent = " ".join(f"0 {side - 1}" for side in labels.shape)
    for number, label in enumerate(case.label_table):
        prefix = f"Segment{number}_"
        header |= {
            prefix + "ID": f"Segment_{label.index}",
            prefix + "Name": label.name,
            prefix + "Color": " ".join(f"{part:.6g}" for part in label.color),
            prefix + "LabelValue": label.index,
            prefix + "Layer": 0,
            prefix + "Extent": extent,
            prefix + "Tags": f"TerminologyEntry:{label.terminology}|" if label.terminology else "",
        }
    header |= {
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    with beside(path) as partial:
        nrrd.write(str(partial), labels, header, index_order="F")
    return path


def write_volumes(folder: Path, *cases: Case) -> None:
    """Write ``NAME.nrrd``, the first channel as 32-bit floats, and, with labels, ``NAME.seg.nrrd`` of each case; each
    file is replaced whole, so a viewer may read it at any time.

    :raises InputError: the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for case in cases:
            write_volume(folder / f"{case.name}.nrrd", case.image[0].astype(np.float32), case.affine, case.description)
            if case.labels is not None:
                write_segmentation(folder, case, ".nrrd")
    except OSError as error:
        raise explain_unwritable(folder, error) from error
