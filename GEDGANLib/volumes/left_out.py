"""What of a folder is not used, and why: nothing is passed over without a word."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from .files import stem_of, suffix_of
from .naming import some_of

CONVERT = {
    (".tif", ".tiff"): "that says nothing of voxel sizes or axes; save it as NRRD in Slicer, with its spacing",
    (".npy", ".npz"): "that says nothing of voxel sizes or axes; write it with SimpleITK or nibabel, and those",
    (
        ".h5",
        ".hdf5",
        ".zarr",
        ".n5",
    ): "with no usual place for a volume; write it with SimpleITK or nibabel",
    (".raw", ".bin"): "that says nothing of its size; write it with SimpleITK or nibabel",
    (".vti", ".mnc", ".mnc.gz", ".nd2", ".czi", ".ims"): "that is not read; save it as NRRD in Slicer",
    (".png", ".jpg", ".jpeg", ".bmp"): "of pictures; a volume's slices are needed as one NRRD file",
}
"""Formats that are known and not read, and what to do."""
BESIDE = (".img", ".raw", ".zraw", ".raw.gz", ".img.gz")
"""Files of voxels whose header has the same name."""


def words_of_left_out(folders: Iterable[Path], used: Iterable[Path], passed: Sequence[Path] = ()) -> list[str]:
    """A sentence a kind of files and folders in ``folders`` that are not used.

    :param used: files and folders that are, or that something was said of.
    :param passed: folders that were looked into.
    """
    used, passed = {path.resolve() for path in used}, {path.resolve() for path in passed}
    kinds: dict[str, list[Path]] = defaultdict(list)
    unseen = []
    for folder in folders:
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        headers = {stem_of(path) for path in entries if path.resolve() in used}
        for path in entries:
            if path.resolve() in used | passed:
                continue
            if path.is_dir() and not path.name.lower().endswith((".zarr", ".n5")):
                if any(_may_be_used(below) for below in path.iterdir() if below.is_file()):
                    unseen.append(path)
                continue
            is_voxels = any(path.name.lower().endswith(end) and path.name[: -len(end)] in headers for end in BESIDE)
            if is_voxels:
                continue
            for endings, words in CONVERT.items():
                if path.name.lower().endswith(endings):
                    kinds[words].append(path)
    said = [f"{len(paths)} file(s) like {paths[0]} are left out: a format {words}." for words, paths in kinds.items()]
    if unseen:
        names = some_of([path.name for path in unseen], 3)
        said.append(
            f"{len(unseen)} folder(s) beside what is used are not looked into: {names}. Segmentations belong "
            "in a folder called labels, under the names of their images."
        )
    return said


def _may_be_used(path: Path) -> bool:
    known = (".dcm", *(ending for endings in CONVERT for ending in endings))
    return bool(suffix_of(path)) or path.name.lower().endswith(known)
