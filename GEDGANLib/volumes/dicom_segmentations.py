"""Segmentations in DICOM: which scan one belongs to, and its segments on the voxels of that scan.

Two kinds are read: segmentation objects (SEG; DICOM PS3.3, A.51 and C.8.20), whose frames are masks, and contours of
radiotherapy (RTSTRUCT; A.19 and C.8.8.5 to C.8.8.8). A frame or a contour lies on a slice of the scan, or it is
refused: nothing is interpolated. Where segments overlap the smaller is on top, as in a folder of masks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from .case import default_color
from .dicom import without_warnings
from .geometry import SAME_VOXELS
from .terminology import serialised, terminology_of
from .volume import LPS_TO_RAS, Segment, Volume, in_one_line

SEG, RTSTRUCT = "SEG", "RTSTRUCT"
REFERRING = (
    "Modality", "ReferencedSeriesSequence", "ReferencedFrameOfReferenceSequence", "FrameOfReferenceUID",
    "ContentDate", "ContentTime", "StructureSetDate", "StructureSetTime",
)  # fmt: skip
OFF_A_SLICE = 0.25
"""Share of a slice's distance to the next by which a contour may miss it."""


class Reference(NamedTuple):
    """A segmentation and what it says of its scan.

    :param series: series instance UIDs of the scans that it names.
    :param frame: frame of reference UID, "" where it names none.
    :param made: date and time, as DICOM writes them.
    """

    path: Path
    kind: str
    series: frozenset[str]
    frame: str
    made: str


@without_warnings()
def reference_of(path: Path) -> Reference | None:
    """What a file says of the scan that it segments; None where it is no segmentation, or cannot be read."""
    import pydicom

    try:
        tags = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(REFERRING))
    except Exception:  # pydicom raises many kinds; such a file is named with the others that are left out
        return None
    kind = str(tags.get("Modality", ""))
    if kind not in (SEG, RTSTRUCT):
        return None
    frames = tags.get("ReferencedFrameOfReferenceSequence") or ()
    named = list(tags.get("ReferencedSeriesSequence") or ())
    for frame in frames:
        for study in frame.get("RTReferencedStudySequence") or ():
            named += study.get("RTReferencedSeriesSequence") or ()
    series = frozenset(str(one.get("SeriesInstanceUID", "")) for one in named) - {""}
    frame = str(tags.get("FrameOfReferenceUID", "") or (frames[0].get("FrameOfReferenceUID", "") if frames else ""))
    made = "".join(str(tags.get(name, "") or "") for name in ("StructureSetDate", "StructureSetTime"))
    made = made or "".join(str(tags.get(name, "") or "") for name in ("ContentDate", "ContentTime"))
    return Reference(path, kind, series, frame, made)


def owners_of(segmentations: Iterable[Reference], scans: Mapping[str, tuple[str, str]]) -> dict[str, list[Reference]]:
    """The segmentations of each scan, by its name, the one that was made last first, SEG before RTSTRUCT.

    :param scans: name -> series instance UID, and the first of its files, as a path. A segmentation that names no
        series is that of the one scan that has its frame of reference.
    """
    names = {uid: name for name, (uid, _) in scans.items()}
    frames: dict[str, list[str]] | None = None
    found: dict[str, list[Reference]] = defaultdict(list)
    for one in segmentations:
        owners = sorted({names[uid] for uid in one.series if uid in names})
        if not one.series and one.frame:
            if frames is None:
                frames = defaultdict(list)
                for name, (_, file) in scans.items():
                    frames[_frame_of_reference(file)].append(name)
            owners = frames.get(one.frame, [])
        if len(owners) == 1:
            found[owners[0]].append(one)
    for of_one in found.values():
        of_one.sort(key=lambda one: (one.kind == SEG, one.made, str(one.path)), reverse=True)
    return found


@without_warnings()
def _frame_of_reference(file: str) -> str:
    import pydicom

    try:
        tags = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["FrameOfReferenceUID"])
        return str(tags.get("FrameOfReferenceUID", ""))
    except Exception:  # whoever reads the slices says what is wrong with them
        return ""


@without_warnings()
def read_dicom_segmentation(path: Path, image: Volume, wanted: Collection[str] | None = None) -> Volume:
    """Segments of a SEG or RTSTRUCT file on the voxels of its scan: (I, J, K) uint16, 0 background, and each segment's
    place among :attr:`.Volume.segments`, from 1.

    :param wanted: names of those that are read; all when not given.
    :raises InputError: it is no such file, cannot be read, or its frames or contours do not lie on the scan's slices.
    """
    import pydicom

    try:
        tags = pydicom.dcmread(path)
        kind = str(tags.get("Modality", ""))
        if kind not in (SEG, RTSTRUCT):
            raise InputError(
                f"{path} is no segmentation of DICOM: its modality is {kind or 'not told'}.",
                "Give a SEG or RTSTRUCT file, or a label map.",
            )
        drawn = (_from_frames if kind == SEG else _from_contours)(path, tags, image, wanted)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # pydicom and its decoders raise many kinds, and attributes may be missing
        raise InputError(
            f"{path} is a segmentation of DICOM that cannot be read.",
            "Load it in Slicer, and save the segmentation as .seg.nrrd.",
        ) from error
    flat = np.zeros(image.array.shape[-3:], np.uint16)
    drawn = [each for each in drawn if len(each.voxels)]
    for position, each in sorted(enumerate(drawn, 1), key=lambda pair: -len(pair[1].voxels)):
        flat.reshape(-1)[each.voxels] = position
    return Volume(flat, image.affine, tuple(each.segment for each in drawn))


class Drawn(NamedTuple):
    """A segment and the voxels of the scan in it, each once, as places in its flattened array."""

    segment: Segment
    voxels: np.ndarray


# ---- SEG


def _from_frames(path: Path, tags: Any, image: Volume, wanted: Collection[str] | None) -> list[Drawn]:
    parts: dict[int, list[np.ndarray]] = defaultdict(list)
    kind = str(tags.get("SegmentationType", "BINARY"))
    half = 0.5 * float(tags.get("MaximumFractionalValue", 1)) if kind == "FRACTIONAL" else 0.5
    for number, frame in enumerate(_frames(tags)):
        rows, columns = np.nonzero(frame if kind == "LABELMAP" else frame >= half)
        if not len(rows):
            continue
        voxels = _voxels_of_frame(path, tags, number, rows, columns, image)
        if kind == "LABELMAP":
            values = frame[rows, columns]
            for value in np.unique(values):
                parts[int(value)].append(voxels[values == value])
        else:
            identified = _of_frame(tags, number, "SegmentIdentificationSequence")
            parts[int(identified.ReferencedSegmentNumber)].append(voxels)
    nothing = np.zeros(0, np.int64)
    segments = [(int(item.SegmentNumber), _segment_of(item)) for item in tags.SegmentSequence]
    return [
        Drawn(segment, np.unique(np.concatenate(parts.get(number) or [nothing])))
        for number, segment in sorted(segments, key=lambda pair: pair[0])
        if wanted is None or segment.name in wanted
    ]


def _frames(tags: Any) -> Iterator[np.ndarray]:
    """Frames (rows, columns) one after the other: all at once would take eight times the file, of bits."""
    shape = int(tags.Rows), int(tags.Columns)
    count, size = int(tags.get("NumberOfFrames", 1)), shape[0] * shape[1]
    if int(tags.BitsAllocated) == 1 and not tags.file_meta.TransferSyntaxUID.is_encapsulated:
        packed = np.frombuffer(tags.PixelData, np.uint8)
        for first in range(0, count * size, size):
            bits = np.unpackbits(packed[first // 8 : -(-(first + size) // 8)], bitorder="little")
            yield bits[first % 8 : first % 8 + size].reshape(shape)
        return
    yield from tags.pixel_array.reshape(count, *shape)


def _of_frame(tags: Any, number: int, name: str) -> Any:
    """An item of a frame's functional groups, or of those that all frames share."""
    of_all = tags.get("SharedFunctionalGroupsSequence") or [{}]
    for groups in (tags.PerFrameFunctionalGroupsSequence[number], of_all[0]):
        if name in groups:
            return groups[name].value[0]
    raise AttributeError(name)


def _voxels_of_frame(
    path: Path, tags: Any, number: int, rows: np.ndarray, columns: np.ndarray, image: Volume
) -> np.ndarray:
    """Where pixels of a frame lie in the scan's flattened array; what lies beyond the scan is left out."""
    orientation = np.array(_of_frame(tags, number, "PlaneOrientationSequence").ImageOrientationPatient, float)
    spacing = np.array(_of_frame(tags, number, "PixelMeasuresSequence").PixelSpacing, float)
    frame = np.zeros((4, 3))
    frame[:3, 0], frame[:3, 1] = orientation[:3] * spacing[1], orientation[3:] * spacing[0]
    frame[:3, 2] = np.array(_of_frame(tags, number, "PlanePositionSequence").ImagePositionPatient, float)
    frame[3, 2] = 1
    to_image = (np.linalg.inv(image.affine) @ LPS_TO_RAS @ frame)[:3]
    corner_columns, corner_rows = np.meshgrid([0, int(tags.Columns) - 1], [0, int(tags.Rows) - 1])
    corners = np.stack([corner_columns.ravel(), corner_rows.ravel(), np.ones(4)])
    whole = np.round(to_image)
    if np.abs((to_image - whole) @ corners).max() > SAME_VOXELS:
        raise InputError(
            f"{path} is drawn on other voxels than those of its scan.",
            "Resample it to the voxels of the scan, by nearest neighbours; in Slicer: Segmentations module, Export, "
            "with the scan as reference volume.",
        )
    places = (whole @ np.stack([columns, rows, np.ones_like(rows)])).astype(np.int64)
    return _inside(places, image)


def _segment_of(item: Any) -> Segment:
    number = int(item.SegmentNumber)
    name = in_one_line(item.get("SegmentLabel", "") or "") or f"segment {number}"
    color = default_color(number)
    if len(encoded := item.get("RecommendedDisplayCIELabValue") or ()) == 3:
        color = _color_of_lab(*(float(value) / 65535 for value in encoded))
    kinds = [_code(item, f"SegmentedProperty{which}CodeSequence") for which in ("Category", "Type")]
    modifiers = (item.get("SegmentedPropertyTypeCodeSequence") or [{}])[0]
    modifier = _code(modifiers, "SegmentedPropertyTypeModifierCodeSequence")
    terminology = serialised(*kinds, modifier) if all(kinds) else terminology_of(name)
    return Segment(number, name, color, terminology)


def _code(item: Any, name: str) -> tuple[str, str, str] | None:
    """Scheme, value and meaning of a coded entry; None where there is none."""
    coded = item.get(name)
    if not coded:
        return None
    return tuple(str(coded[0].get(part, "")) for part in ("CodingSchemeDesignator", "CodeValue", "CodeMeaning"))


def _color_of_lab(lightness: float, a: float, b: float) -> tuple[float, float, float]:
    """RGB in [0, 1] of CIELab values as DICOM stores them (PS3.3, C.10.7.1.1), each of its range as 0 to 1.

    CIE 15:2004 from Lab to XYZ at D65, IEC 61966-2-1 from there to sRGB.
    """
    middle = (100 * lightness + 16) / 116
    bent = np.array([middle + (255 * a - 128) / 500, middle, middle - (255 * b - 128) / 200])
    straight = np.where(bent > 6 / 29, bent**3, 3 * (6 / 29) ** 2 * (bent - 4 / 29)) * [0.9505, 1.0, 1.089]
    to_rgb = np.array([[3.2406, -1.5372, -0.4986], [-0.9689, 1.8758, 0.0415], [0.0557, -0.2040, 1.0570]])
    linear = np.clip(to_rgb @ straight, 0, 1)
    rgb = np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)
    return tuple(float(round(value, 3)) for value in rgb)


# ---- RTSTRUCT


CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Kinds of contours that have an inside; both are filled where an odd number of them lies around."""


def _from_contours(path: Path, tags: Any, image: Volume, wanted: Collection[str] | None) -> list[Drawn]:
    names = {int(item.ROINumber): in_one_line(item.get("ROIName", "") or "") for item in tags.StructureSetROISequence}
    drawn = []
    for item in tags.get("ROIContourSequence") or ():
        number = int(item.ReferencedROINumber)
        name = names.get(number) or f"contour {number}"
        if wanted is not None and name not in wanted:
            continue
        closed = [
            np.array(contour.ContourData, float).reshape(-1, 3)
            for contour in item.get("ContourSequence") or ()
            if str(contour.get("ContourGeometricType", "")) in CLOSED
        ]
        color = item.get("ROIDisplayColor")
        color = default_color(number) if color is None else tuple(float(value) / 255 for value in color)
        drawn.append(Drawn(Segment(number, name, color, terminology_of(name)), _filled(path, name, closed, image)))
    return drawn


def _filled(path: Path, name: str, contours: Sequence[np.ndarray], image: Volume) -> np.ndarray:
    """Voxels whose centres lie in an odd number of closed contours (points, 3), mm in LPS: one in another is a hole."""
    to_image = np.linalg.inv(image.affine) @ LPS_TO_RAS
    slices: dict[int, list[np.ndarray]] = defaultdict(list)
    for contour in contours:
        points = contour @ to_image[:3, :3].T + to_image[:3, 3]
        along = points[:, 2]
        if np.abs(along - round(float(along.mean()))).max() > OFF_A_SLICE:
            raise InputError(
                f"{path} has contours of {name} that lie on no slice of its scan.",
                "Load both in Slicer, and save the segmentation as .seg.nrrd with the scan as reference volume.",
            )
        slices[round(float(along.mean()))].append(points[:, :2])
    voxels = [np.zeros(0, np.int64)]
    for number, drawn in sorted(slices.items()):
        inside = _odd(drawn, image.array.shape[-3:-1])
        places = np.stack([*np.nonzero(inside), np.full(np.count_nonzero(inside), number)])
        voxels.append(_inside(places, image))
    return np.concatenate(voxels)


def _odd(polygons: Sequence[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Pixels (I, J) whose centres lie in an odd number of polygons (points, 2): each edge turns over, in the lines that
    it crosses, all that lies behind it."""
    turned = np.zeros((shape[0] + 1, shape[1]), np.int64)
    begin = np.concatenate(polygons)
    end = np.concatenate([np.roll(points, -1, 0) for points in polygons])
    first = np.ceil(np.minimum(begin[:, 1], end[:, 1])).clip(0, shape[1]).astype(int)
    last = np.ceil(np.maximum(begin[:, 1], end[:, 1])).clip(0, shape[1]).astype(int)  # not crossed any more
    edges = np.repeat(np.arange(len(begin)), last - first)
    lines = np.arange(len(edges)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edges]
    share = (lines - begin[edges, 1]) / (end[edges, 1] - begin[edges, 1])
    crossing = begin[edges, 0] + share * (end[edges, 0] - begin[edges, 0])
    np.add.at(turned, (np.ceil(crossing).clip(0, shape[0]).astype(int), lines), 1)
    return np.cumsum(turned, 0)[:-1] % 2 == 1


def _inside(places: np.ndarray, image: Volume) -> np.ndarray:
    """Places in the scan's flattened array of indices (3, N); those beyond the scan are left out."""
    shape = np.array(image.array.shape[-3:])
    within = np.all((places >= 0) & (places < shape[:, None]), 0)
    return np.ravel_multi_index(tuple(places[:, within]), tuple(shape))
