"""NRRD files, and Slicer's segmentations in them (``.seg.nrrd``), -> voxels and segments."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import InputError
from .volume import LPS_TO_RAS, Segment, Volume, header_alone, in_one_line

CHANNEL_KINDS = ("list", "vector", "RGB-color")
DATA_FILE = re.compile(r"^data ?file:\s*(.+?)\s*$", re.IGNORECASE | re.MULTILINE)


def read_nrrd(path: Path) -> Volume:
    """Read a ``.nrrd``, ``.nhdr`` or ``.seg.nrrd``.

    :raises InputError: the file that holds its voxels is missing.
    :raises Exception: whatever the reader raises for what is no such file.
    """
    import nrrd

    _check_data_file(path)
    array, header = nrrd.read(str(path), index_order="F")
    directions = header.get("space directions")
    kinds = list(header.get("kinds", []))
    spatial = [axis for axis in range(array.ndim) if directions is None or np.all(np.isfinite(directions[axis]))]
    if "list" in kinds or "vector" in kinds or len(spatial) < array.ndim:
        spatial = [a for a in spatial if not (a < len(kinds) and kinds[a] in CHANNEL_KINDS)]
    others = [axis for axis in range(array.ndim) if axis not in spatial]
    array = np.moveaxis(array, others, range(len(spatial), array.ndim))
    affine = np.eye(4)
    if directions is not None and len(spatial) >= 3:
        affine[:3, :3] = np.stack([np.asarray(directions[axis], float) for axis in spatial[:3]], axis=1)
        affine[:3, 3] = header.get("space origin", np.zeros(3))
    elif "spacings" in header and len(spatial) >= 3:
        affine[[0, 1, 2], [0, 1, 2]] = np.asarray(header["spacings"], float)[spatial[:3]]
    affine = _from_space(str(header.get("space", "")).lower(), affine)
    segments = _segments(header, array.ndim > 3)
    if segments:
        array = _flatten_layers(path, array, segments)
    return Volume(array, affine, segments)


def _check_data_file(path: Path) -> None:
    """:raises InputError: the header names a file of voxels that is not there."""
    with open(path, "rb") as file:
        header = file.read(1 << 16).split(b"\n\n")[0].decode("utf-8", "replace").replace("\r", "")
    found = DATA_FILE.search(header)
    if found is None or found.group(1).upper().startswith("LIST") or "%" in found.group(1):
        return
    if not (data := path.parent / found.group(1)).exists():
        raise header_alone(path, data)


def _from_space(space: str, affine: np.ndarray) -> np.ndarray:
    """To RAS from what the header calls its space; where it says nothing, left-posterior-superior, as Slicer does."""
    words = {"las": "left-anterior-superior", "ras": "right-anterior-superior"}
    parts = words.get(space, space).split("-")
    parts = parts if {"left", "right"} & set(parts) else ["left", "posterior"]
    signs = [-1.0 if "left" in parts else 1.0, -1.0 if "posterior" in parts else 1.0, 1.0]
    return np.diag([*signs, 1.0]) @ affine


def _segments(header: dict, in_layers: bool) -> tuple[Segment, ...]:
    """Segments by their numbers. Slicer before 4.11 keeps a layer for each, of value 1, and says neither."""
    numbers = sorted(int(match.group(1)) for key in header if (match := re.fullmatch(r"Segment(\d+)_ID", key)))
    segments = []
    for number in numbers:
        prefix = f"Segment{number}_"
        color = tuple(float(part) for part in str(header.get(prefix + "Color", "0.5 0.5 0.5")).split())[:3]
        terminology = re.search(r"TerminologyEntry:([^|]*)", str(header.get(prefix + "Tags", "")))
        segments.append(
            Segment(
                value=int(header.get(prefix + "LabelValue", 1 if in_layers else number + 1)),
                name=in_one_line(header.get(prefix + "Name", header[prefix + "ID"])),
                color=color,
                terminology=terminology.group(1) if terminology else "",
                layer=int(header.get(prefix + "Layer", number if in_layers else 0)),
            )
        )
    return tuple(segments)


def _flatten_layers(path: Path, array: np.ndarray, segments: tuple[Segment, ...]) -> np.ndarray:
    """One label map, with value 1 + position in ``segments``; where segments overlap the smaller is on top, a lesion on
    its organ."""
    layers = array[..., None] if array.ndim == 3 else array
    if max(segment.layer for segment in segments) >= layers.shape[-1]:
        raise InputError(
            f"{path} names {len(segments)} segments and holds {layers.shape[-1]} layer(s) of voxels.",
            "Load it in Slicer, see whether all segments are there, and save it again.",
        )
    sizes = [np.count_nonzero(layers[..., segment.layer] == segment.value) for segment in segments]
    flat = np.zeros(layers.shape[:3], dtype=np.uint16)
    for position in sorted(range(len(segments)), key=lambda position: -sizes[position]):
        segment = segments[position]
        flat[layers[..., segment.layer] == segment.value] = position + 1
    return flat


def nrrd_header(affine: np.ndarray, description: str) -> dict:
    """Header of a volume's NRRD file, in LPS as Slicer writes it."""
    lps = LPS_TO_RAS @ affine
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": lps[:3, 3],
        "kinds": ["domain"] * 3,
        "encoding": "gzip",
    }
    if description:
        header["content"] = description
    return header
