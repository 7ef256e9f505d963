"""A case's segmentation as one file; in NRRD it is Slicer's ``.seg.nrrd`` with names, colours and terminology."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .case import Case
from .files import SEGMENTATION_SUFFIX, nrrd_header, write_volume
from .writing import beside


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
