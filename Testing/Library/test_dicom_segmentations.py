"""Segmentations in DICOM, written by other programs' rules, are the labels of the scans that they name."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from dicom_slices import write_dicom
from landmark import asymmetric_case

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.dicom_segmentations import read_dicom_segmentation
from GEDGANLib.volumes.files import read_volume
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pipeline import load_case
from GEDGANLib.volumes.reading import read_case
from GEDGANLib.volumes.volume import LPS_TO_RAS

FRAME = "1.2.826.0.1.3680043.2.1125.77"
CENTRE = 20.13, 18.07


def scan(folder, case, series="1.2.826.0.1.3680043.2.1125.1", frame=FRAME):
    """A series with what a segmentation object copies from it; returns its slices in order."""
    import pydicom

    write_dicom(folder, case, series)
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    for path, one in zip(folder.iterdir(), slices):
        for name in ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
            setattr(one, name, "")
        one.ReferringPhysicianName, one.FrameOfReferenceUID, one.SeriesNumber = "", frame, 1
        one.PatientName = "none^"
        pydicom.dcmwrite(path, one)
    return sorted(slices, key=lambda one: one.InstanceNumber)


def write_seg(path, slices, masks, kind="BINARY", names=("Liver", "Tumour"), omit_empty=True):
    """A segmentation object by highdicom; masks (K, J, I, segments)."""
    import highdicom
    from pydicom.sr.codedict import codes

    found = [codes.SCT.Liver, codes.SCT.Neoplasm]
    described = [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=found[(number - 1) % 2],
            algorithm_type="MANUAL",
            display_color=highdicom.color.CIELabColor.from_rgb(200, 40 * number, 30),
        )
        for number, name in enumerate(names, 1)
    ]
    voxels = masks
    if kind == "FRACTIONAL":
        voxels = masks * np.float32(0.8)
    elif kind == "LABELMAP":
        voxels = np.zeros(masks.shape[:-1], np.uint8)
        for number in range(masks.shape[-1]):
            voxels[masks[..., number] > 0] = number + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = highdicom.seg.Segmentation(
            source_images=slices, pixel_array=voxels, segmentation_type=kind, segment_descriptions=described,
            series_instance_uid=highdicom.UID(), series_number=2, sop_instance_uid=highdicom.UID(), instance_number=1,
            manufacturer="none", manufacturer_model_name="none", software_versions="1", device_serial_number="1",
            max_fractional_value=200, omit_empty_frames=omit_empty,
        )  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        made.save_as(path)


def write_contours(
    path, case, rings, series=("1.2.826.0.1.3680043.2.1125.1",), frame=FRAME, kinds="CLOSED_PLANAR", numbers=None
):
    """An RTSTRUCT: name -> [(slice, points (N, 2) in voxels)]; ROIs are numbered from 1 when not given."""
    import pydicom
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.sequence import Sequence

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"
    meta.MediaStorageSOPInstanceUID, meta.TransferSyntaxUID = pydicom.uid.generate_uid(), "1.2.840.10008.1.2.1"
    tags = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    tags.SOPClassUID, tags.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    tags.Modality, tags.SeriesInstanceUID, tags.StudyInstanceUID = "RTSTRUCT", pydicom.uid.generate_uid(), "1.2.3"
    tags.StructureSetDate, tags.StructureSetTime = "20260101", "120000"
    of_frame, study = Dataset(), Dataset()
    of_frame.FrameOfReferenceUID = frame
    study.RTReferencedSeriesSequence = Sequence()
    for uid in series:
        one = Dataset()
        one.SeriesInstanceUID = uid
        study.RTReferencedSeriesSequence.append(one)
    of_frame.RTReferencedStudySequence = Sequence([study])
    tags.ReferencedFrameOfReferenceSequence = Sequence([of_frame])
    tags.StructureSetROISequence, tags.ROIContourSequence = Sequence(), Sequence()
    for number, (name, drawn) in zip(numbers or range(1, 1 + len(rings)), rings.items()):
        roi, contours = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        contours.ReferencedROINumber, contours.ROIDisplayColor = number, [255, 51 * number % 256, 0]
        contours.ContourSequence = Sequence()
        for height, points in drawn:
            one = Dataset()
            one.ContourGeometricType = kinds
            places = np.column_stack([points, np.full(len(points), height), np.ones(len(points))])
            lps = (LPS_TO_RAS @ case.affine @ places.T)[:3].T
            one.ContourData = [f"{value:.6f}" for value in lps.ravel()]
            one.NumberOfContourPoints = len(points)
            contours.ContourSequence.append(one)
        tags.StructureSetROISequence.append(roi)
        tags.ROIContourSequence.append(contours)
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, tags, enforce_file_format=True)


def ring(centre, radius, count=90):
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1)


def two_masks(case):
    masks = np.zeros((*case.image.shape[:0:-1], 2), np.uint8)
    masks[3:9, 4:12, 5:9, 0], masks[5:7, 6:8, 6:11, 1] = 1, 1
    return masks


def flattened(masks):
    """The smaller on top, (I, J, K)."""
    return np.where(masks[..., 1] > 0, 2, masks[..., 0]).T


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "oblique"])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_segmentation_objects_are_the_labels_of_their_scan(tmp_path, kind, orientation):
    case, _ = asymmetric_case(orientation)
    masks = two_masks(case)
    slices = scan(tmp_path / "p1" / "CT", case)
    write_seg(tmp_path / "p1" / "SEG" / "seg.dcm", slices, masks, kind)
    dataset = find_dataset(tmp_path)
    assert [files.name for files in dataset.cases] == ["p1_CT"] and not dataset.warnings
    read = read_case(dataset.cases[0], dataset)
    # The reader of slices may turn their order round, and the segmentation with it.
    to_case = np.round(np.linalg.inv(case.affine) @ read.affine).astype(int)
    places = np.argwhere(read.label_values)
    there = places @ to_case[:3, :3].T + to_case[:3, 3]
    expected = flattened(masks)
    assert np.array_equal(expected[tuple(there.T)], read.label_values[tuple(places.T)])
    assert np.count_nonzero(expected) == len(places)
    table = LabelTable(dataset)
    table.add(read, dataset.cases[0].label)
    liver, tumour = table.labels()
    assert (liver.name, tumour.name) == ("Liver", "Tumour")
    assert liver.color == pytest.approx((200 / 255, 40 / 255, 30 / 255), abs=0.01)
    assert "SCT^10200004^Liver" in liver.terminology


def test_bits_that_begin_within_a_byte_are_read(tmp_path):
    case, _ = asymmetric_case("RAS")
    case.image, masks = case.image[:, :33, :29], two_masks(case)[:, :29, :33]  # 957 bits a frame
    slices = scan(tmp_path / "p1" / "CT", case)
    write_seg(tmp_path / "p1" / "seg.dcm", slices, masks, omit_empty=False)
    found = read_dicom_segmentation(tmp_path / "p1" / "seg.dcm", read_volume(tmp_path / "p1" / "CT"))
    assert np.array_equal(found.array, flattened(masks))


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "oblique"])
def test_contours_are_filled_where_centres_of_voxels_lie_inside(tmp_path, orientation):
    case, _ = asymmetric_case(orientation)
    scan(tmp_path / "p1" / "CT", case)
    body = [(height, ring(CENTRE, 12)) for height in range(3, 12)]
    cord = [(height, ring((19, 18), 2.3)) for height in range(3, 12)]
    shell = [(6, ring(CENTRE, 14)), (6, ring(CENTRE, 13))]
    write_contours(tmp_path / "p1" / "RS" / "rs.dcm", case, {"BODY": body, "Brain Stem": cord, "shell": shell})
    dataset = find_dataset(tmp_path)
    read = read_case(dataset.cases[0], dataset)
    to_case = np.round(np.linalg.inv(case.affine) @ read.affine).astype(int)
    i, j = np.meshgrid(np.arange(44), np.arange(40), indexing="ij")

    def disc(centre, radius):  # a polygon of 90 corners
        angle = np.arctan2(j - centre[1], i - centre[0]) % (2 * np.pi / 90) - np.pi / 90
        return np.hypot(i - centre[0], j - centre[1]) * np.cos(angle) <= radius * np.cos(np.pi / 90)

    expected = np.zeros(case.image.shape[1:], int)
    expected[..., 3:12][disc(CENTRE, 12)] = 1
    expected[..., 3:12][disc((19, 18), 2.3)] = 2
    expected[..., 6][disc(CENTRE, 14) & ~disc(CENTRE, 13)] = 3
    places = np.argwhere(read.label_values)
    there = places @ to_case[:3, :3].T + to_case[:3, 3]
    same = expected[tuple(there.T)] == read.label_values[tuple(places.T)]
    # Centres on an edge itself may fall to either side, by the digits of the file.
    assert np.count_nonzero(~same) <= 4 and abs(np.count_nonzero(expected) - len(places)) <= 4
    names = {value: found[0] for value, found in read.segment_names.items()}
    assert names == {1: "BODY", 2: "Brain Stem", 3: "shell"}
    assert read.segment_names[1][1] == pytest.approx((1.0, 0.2, 0.0))
    assert "Brain stem" in read.segment_names[2][2]


@pytest.mark.parametrize("numbers", [(2, 1, 3), (0, 70000, 5), (9, 4, 1)])
def test_structures_keep_their_names_however_they_are_numbered(tmp_path, numbers):
    """Out of order, beyond what a voxel's type holds, and with one between them that is empty."""
    case, _ = asymmetric_case("RAS")
    scan(tmp_path / "p1" / "CT", case)
    rings = {"cord": [(4, ring((10, 10), 3.3))], "nothing": [], "BODY": [(4, ring((20, 20), 6.3))]}
    write_contours(tmp_path / "p1" / "rs.dcm", case, rings, numbers=numbers)
    dataset = find_dataset(tmp_path)
    read = read_case(dataset.cases[0], dataset)
    sizes = {read.segment_names[value][0]: np.count_nonzero(read.label_values == value) for value in (1, 2)}
    assert sizes["cord"] == pytest.approx(np.pi * 3.3**2, rel=0.1)
    assert sizes["BODY"] == pytest.approx(np.pi * 6.3**2, rel=0.1) and len(sizes) == 2


def test_more_contours_than_one_looks_at_at_first_are_all_found(tmp_path):
    case, _ = asymmetric_case("RAS")
    for number in range(24):
        series = f"1.2.826.0.1.3680043.2.1125.{number + 1}"
        if number in (0, 23):
            scan(tmp_path / f"p{number}" / "CT", case, series)
        rings = {"BODY": [(4, ring((20, 18), 9))]}
        write_contours(tmp_path / "rt" / f"r{number:02}.dcm", case, rings, (series,))
    labels = {files.name: files.label.name for files in find_dataset(tmp_path).cases}
    assert labels == {"p0_CT": "r00.dcm", "p23_CT": "r23.dcm"}


def test_contours_of_another_series_are_not_taken_for_this_one(tmp_path):
    """A PET in the frame of reference of the CT that was drawn on, which is not there."""
    case, _ = asymmetric_case("RAS")
    scan(tmp_path / "p1" / "PET", case, "1.2.826.0.1.3680043.2.1125.2")
    write_contours(tmp_path / "p1" / "rs.dcm", case, {"BODY": [(3.5, ring((20, 18), 9))]})
    assert find_dataset(tmp_path).cases[0].label is None


def test_contours_between_the_slices_are_refused_where_they_are_wanted(tmp_path):
    case, _ = asymmetric_case("RAS")
    scan(tmp_path / "p1" / "CT", case)
    rings = {"BODY": [(3.5, ring((20, 18), 9))], "cord": [(4, ring((20, 18), 3))]}
    write_contours(tmp_path / "p1" / "rs.dcm", case, rings)
    dataset = find_dataset(tmp_path)
    with pytest.raises(InputError, match=r"rs\.dcm has contours of BODY that lie on no slice of its scan"):
        read_case(dataset.cases[0], dataset)
    read = read_case(dataset.cases[0], replace(dataset, wanted_labels=frozenset({"cord"})))
    assert [name for name, *_ in read.segment_names.values()] == ["cord"] and read.label_values.any()
    # And where a plan has no labels nothing is drawn at all.
    assert load_case(dataset.cases[0], dataset, (), LabelTable(dataset), set()).labels is None


def test_points_are_no_structures(tmp_path):
    case, _ = asymmetric_case("RAS")
    scan(tmp_path / "p1" / "CT", case)
    rings = {"BODY": [(3, ring((20, 18), 9))]}
    write_contours(tmp_path / "p1" / "rs.dcm", case, rings, kinds="POINT")
    image = read_volume(tmp_path / "p1" / "CT")
    assert read_dicom_segmentation(tmp_path / "p1" / "rs.dcm", image).segments == ()


def test_a_segmentation_goes_to_the_scan_that_it_names(tmp_path):
    case, _ = asymmetric_case("RAS")
    masks = two_masks(case)
    first, second = "1.2.826.0.1.3680043.2.1125.1", "1.2.826.0.1.3680043.2.1125.2"
    scan(tmp_path / "p1" / "CT", case, first)
    slices = scan(tmp_path / "p1" / "later", case, second)
    scan(tmp_path / "p2" / "CT", case, "1.2.826.0.1.3680043.2.1125.3", frame="1.2.9")
    write_seg(tmp_path / "all" / "a.dcm", slices, masks)
    write_contours(tmp_path / "all" / "b.dcm", case, {"BODY": [(4, ring((20, 18), 9))]}, (), "1.2.9")
    write_contours(tmp_path / "all" / "c.dcm", case, {"BODY": [(4, ring((20, 18), 9))]}, ("1.2.5",), "1.2.6")
    dataset = find_dataset(tmp_path)
    labels = {files.name: files.label and files.label.name for files in dataset.cases}
    assert labels == {"p1_CT": None, "p1_later": "a.dcm", "p2_CT": "b.dcm"}
    assert any("contours (RTSTRUCT) are left out" in words and "c.dcm" in words for words in dataset.warnings)


def test_of_several_segmentations_the_latest_is_used_and_told(tmp_path):
    case, _ = asymmetric_case("RAS")
    slices = scan(tmp_path / "p1" / "CT", case)
    for name in ("a.dcm", "b.dcm"):
        write_seg(tmp_path / "p1" / "SEG" / name, slices, two_masks(case), names=(f"Liver {name[0]}", "Tumour"))
    dataset = find_dataset(tmp_path)
    assert dataset.cases[0].label.name == "b.dcm"
    assert any("of the 2 of p1_CT" in words and "b.dcm is used" in words for words in dataset.warnings)
    assert any("segmentation (SEG) are left out" in words and "a.dcm" in words for words in dataset.warnings)


def test_segmentation_objects_in_a_folder_of_labels_are_used(tmp_path):
    case, _ = asymmetric_case("RAS")
    slices = scan(tmp_path / "p1" / "CT", case)
    write_seg(tmp_path / "segmentations" / "p1" / "seg.dcm", slices, two_masks(case))
    assert find_dataset(tmp_path).cases[0].label.name == "seg.dcm"


def test_a_segmentation_of_other_voxels_is_refused_and_a_damaged_one_told(tmp_path, capsys):
    import pydicom

    case, _ = asymmetric_case("RAS")
    slices = scan(tmp_path / "p1" / "CT", case)
    path = tmp_path / "p1" / "SEG" / "seg.dcm"
    write_seg(path, slices, two_masks(case))
    whole = pydicom.dcmread(path)
    whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [2.5, 2.5]
    pydicom.dcmwrite(path, whole)
    dataset = find_dataset(tmp_path)
    with pytest.raises(InputError, match=r"seg\.dcm is drawn on other voxels than those of its scan"):
        read_case(dataset.cases[0], dataset)
    del whole.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    pydicom.dcmwrite(path, whole)
    with pytest.raises(InputError, match="cannot be read"):
        read_case(dataset.cases[0], dataset)
    scan(tmp_path / "p2" / "CT", case, "1.2.826.0.1.3680043.2.1125.2", "1.2.9")
    assert main(["check", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "seg.dcm is a segmentation of DICOM that cannot be read" in told and "Traceback" not in told


def test_scans_with_segmentation_objects_count_as_segmented(tmp_path, capsys):
    case, _ = asymmetric_case("RAS")
    for number in (1, 2):
        series = f"1.2.826.0.1.3680043.2.1125.{number}"
        slices = scan(tmp_path / f"p{number}" / "CT", case, series, f"1.2.{number}")
        write_seg(tmp_path / f"p{number}" / "SEG" / "seg.dcm", slices, two_masks(case))
    assert main(["check", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "Liver" in told and "Tumour" in told
    shutil.rmtree(tmp_path / "p2" / "SEG")
    assert sum(files.label is not None for files in find_dataset(tmp_path).cases) == 1
