"""Make the embedded template from the ICBM152 average that the nilearn package carries.

    python Testing/Tools/make_template.py GEDGANLib/volumes/resources/icbm152_2mm.nii.gz

T1, grey-matter and white-matter probability are averaged over 2x2x2 blocks (1 mm to 2 mm), cropped to the brain with
a margin and written as one 4D NIfTI of unsigned bytes. The result is deterministic, so a test can remake and compare.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import nibabel
import numpy as np

FACTOR = 2  # 1 mm voxels averaged per axis
MARGIN = 2  # voxels of 2 mm kept around the brain


def make_template() -> nibabel.Nifti1Image:
    """Return the template, shape (I, J, K, 3) uint8: T1, grey matter, white matter; affine RAS, 2 mm."""
    import nilearn.datasets

    folder = Path(nilearn.datasets.__file__).parent / "data"
    channels = []
    for tissue in ("t1", "gm", "wm"):
        image = nibabel.load(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")
        voxels = np.asarray(image.dataobj, dtype=np.float32)
        shape = [size // FACTOR for size in voxels.shape]
        voxels = voxels[tuple(slice(0, size * FACTOR) for size in shape)]
        blocks = voxels.reshape(shape[0], FACTOR, shape[1], FACTOR, shape[2], FACTOR)
        channels.append(blocks.mean(axis=(1, 3, 5)))
    stack = np.stack(channels, axis=-1)
    # Probabilities below 2 % are the tails of averaging many people; without them the file compresses to half.
    stack[stack < 5] = 0
    inside = np.argwhere(stack[..., 0] > 0)
    low = np.maximum(inside.min(0) - MARGIN, 0)
    high = np.minimum(inside.max(0) + 1 + MARGIN, stack.shape[:3])
    stack = stack[tuple(slice(start, stop) for start, stop in zip(low, high))]
    affine = image.affine @ np.diag([FACTOR, FACTOR, FACTOR, 1.0])
    affine[:3, 3] = (image.affine @ [*(low * FACTOR + (FACTOR - 1) / 2), 1.0])[:3]
    # 6 bits are plenty for a template that is re-contrasted and given noise, and keep the file under 1 MB.
    return nibabel.Nifti1Image((np.round(stack / 4) * 4).clip(0, 255).astype(np.uint8), affine)


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(gzip.compress(make_template().to_bytes(), compresslevel=9, mtime=0))
