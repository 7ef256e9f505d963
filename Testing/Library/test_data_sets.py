"""The kinds of folder a user may have, each read into the same cases."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
from landmark import asymmetric_case

from GEDGANLib.errors import InputError
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import LPS_TO_RAS, write_volume
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.pipeline import load_working_cases
from GEDGANLib.volumes.reading import read_case

NAMES = ("patient_1", "patient_2", "patient_3")


def write_nifti(path, array, affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def image(seed=0, shape=(18, 20, 22)):
    return np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16)


def blocks(values):
    """A label map with one slab a value."""
    array = np.zeros((18, 20, 22), np.uint8)
    for position, value in enumerate(values):
        array[2 + 3 * position : 5 + 3 * position, 4:10, 4:10] = value
    return array


def test_nnunet_folder_with_two_channels(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image(0))
        write_nifti(tmp_path / "imagesTr" / f"{name}_0001.nii.gz", image(1))
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", blocks((1, 2)))
    described = {
        "channel_names": {"0": "T1", "1": "FLAIR"},
        "labels": {"background": 0, "edema": 2, "core": 1},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    dataset = find_dataset(tmp_path)
    assert dataset.channel_names == ("T1", "FLAIR")
    assert [case.name for case in dataset.cases] == list(NAMES)
    fingerprint = check_dataset(dataset)
    assert [(label.index, label.value, label.name) for label in fingerprint.labels] == [(1, 1, "core"), (2, 2, "edema")]
    assert "Edema" in fingerprint.labels[1].terminology
    plan = make_plan(fingerprint)
    working = next(iter(load_working_cases(dataset, plan)))
    assert working.image.shape == (2, *plan.grid.shape)
    assert not np.array_equal(working.image[0], working.image[1])


def test_medical_decathlon_folder_with_four_dimensional_images(tmp_path):
    """The Decathlon puts channels on a fourth axis, and names values the other way round."""
    for name in NAMES:
        write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", np.stack([image(0), image(1)], -1))
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", blocks((4, 9)))
        write_nifti(tmp_path / "imagesTr" / f"._{name}.nii.gz", image())  # what macOS leaves behind
    described = {"modality": {"0": "T2", "1": "ADC"}, "labels": {"0": "background", "4": "PZ", "9": "TZ"}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    dataset = find_dataset(tmp_path)
    assert len(dataset.cases) == 3 and dataset.channel_names == ("T2", "ADC")
    labels = check_dataset(dataset).labels
    assert [(label.index, label.value, label.name) for label in labels] == [(1, 4, "PZ"), (2, 9, "TZ")]
    case = read_case(dataset.cases[0], dataset)
    np.testing.assert_array_equal(case.image[1], image(1))


def test_decathlon_names_that_end_in_numbers_are_not_channels(tmp_path):
    for number in ("0003", "0011"):
        write_nifti(tmp_path / "imagesTr" / f"la_{number}.nii.gz", image())
        write_nifti(tmp_path / "labelsTr" / f"la_{number}.nii.gz", blocks((1,)))
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "atrium"}}))
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == ["la_0003", "la_0011"]
    assert all(case.label is not None for case in dataset.cases)


@pytest.mark.parametrize("label_folder", ["labels", "segmentations", "masks"])
def test_images_with_a_sibling_folder_of_labels(tmp_path, label_folder):
    for name in NAMES:
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image())
    for name in NAMES[:2]:
        write_nifti(tmp_path / label_folder / f"{name}.nii.gz", blocks((1, 3)))
    for given in (tmp_path, tmp_path / "images"):
        dataset = find_dataset(given)
        assert [case.label is not None for case in dataset.cases] == [True, True, False]
    fingerprint = check_dataset(dataset)
    assert [(label.index, label.value, label.name) for label in fingerprint.labels] == [
        (1, 1, "label 1"), (2, 3, "label 3")
    ]  # fmt: skip
    assert any("1 of 3 cases have no segmentation" in warning for warning in fingerprint.warnings)


def test_labels_beside_their_images(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / f"{name}.nii.gz", image())
        write_nifti(tmp_path / f"{name}_seg.nii.gz", blocks((1,)))
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == list(NAMES)
    assert [case.label.name for case in dataset.cases] == [f"{name}_seg.nii.gz" for name in NAMES]


def test_images_alone(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / f"{name}.nii", image())
    dataset = find_dataset(tmp_path)
    plan = make_plan(check_dataset(dataset))
    assert plan.labels == ()
    assert all(case.labels is None for case in load_working_cases(dataset, plan))


def test_the_same_name_twice_is_refused(tmp_path):
    write_nifti(tmp_path / "a.nii", image())
    write_nifti(tmp_path / "a.nii.gz", image())
    with pytest.raises(InputError, match="same name"):
        find_dataset(tmp_path)


def slicer_segmentation(path, case, corner, extent):
    """What Slicer writes: two segments, cropped to their extent, named, coloured, one of them with terminology."""
    lps = LPS_TO_RAS @ case.affine
    origin = (lps @ [*corner, 1])[:3]
    array = np.zeros(extent, np.uint8)
    array[2:6, 2:6, 2:6] = 1
    array[7:9, 2:6, 2:6] = 2
    header = {
        "space": "left-posterior-superior",
        "space directions": lps[:3, :3].T,
        "space origin": origin,
        "kinds": ["domain"] * 3,
        "Segment0_ID": "Segment_1",
        "Segment0_Name": "liver",
        "Segment0_Color": "0.8 0.4 0.3",
        "Segment0_LabelValue": "1",
        "Segment0_Layer": "0",
        "Segment0_Tags": "TerminologyEntry:Seg~SCT^123^Anatomy~SCT^10200004^Liver~^^~~^^~^^|Segmentation.Status:done|",
        "Segment1_ID": "Segment_2",
        "Segment1_Name": "vessels",
        "Segment1_Color": "0 0.5 1",
        "Segment1_LabelValue": "2",
        "Segment1_Layer": "0",
    }
    nrrd.write(str(path), array, header, index_order="F")


def test_slicer_segmentations_keep_names_colours_and_place(tmp_path):
    case, _ = asymmetric_case("oblique LPS")
    (tmp_path / "images").mkdir()
    (tmp_path / "segmentations").mkdir()
    corner = (5, 8, 3)
    for name in NAMES:
        write_volume(tmp_path / "images" / f"{name}.nrrd", case.image[0], case.affine)
        slicer_segmentation(tmp_path / "segmentations" / f"{name}.seg.nrrd", case, corner, (12, 10, 9))
    dataset = find_dataset(tmp_path)
    fingerprint = check_dataset(dataset)
    assert [label.name for label in fingerprint.labels] == ["liver", "vessels"]
    assert fingerprint.labels[0].color == (0.8, 0.4, 0.3)
    assert "10200004" in fingerprint.labels[0].terminology
    raw = read_case(dataset.cases[0], dataset)
    inside = np.zeros(case.image.shape[1:], bool)
    inside[7:11, 10:14, 5:9] = True
    np.testing.assert_array_equal(raw.label_values == 1, inside)


def test_segmentation_on_another_lattice_is_refused(tmp_path):
    case, _ = asymmetric_case("RAS")
    other, _ = asymmetric_case("oblique")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in NAMES:
        write_volume(tmp_path / "images" / f"{name}.nrrd", case.image[0], case.affine)
        slicer_segmentation(tmp_path / "labels" / f"{name}.seg.nrrd", other, (5, 8, 3), (12, 10, 9))
    with pytest.raises(InputError, match="different grids"):
        check_dataset(find_dataset(tmp_path))


def test_regions_of_nnunet_name_the_values_they_are_made_of(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image())
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", blocks((1, 2, 3, 4)))
    regions = {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing": 3, "ignore": 4}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "T1"}, "labels": regions}))
    labels = check_dataset(find_dataset(tmp_path)).labels
    found = [(label.value, label.name) for label in labels]
    assert found == [(1, "whole tumor"), (2, "tumor core"), (3, "enhancing"), (4, "ignore")]


def test_segmentations_that_match_no_image_are_told(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image())
        write_nifti(tmp_path / "Labels" / f"of_{name}_x.nii.gz", blocks((1,)))
    with pytest.raises(InputError, match="None of the 3 segmentations"):
        find_dataset(tmp_path)
    (tmp_path / "Labels" / "of_patient_1_x.nii.gz").rename(tmp_path / "Labels" / "patient_1.nii.gz")
    dataset = find_dataset(tmp_path)
    assert dataset.cases[0].label is not None
    assert any("2 segmentation(s) belong to no image" in warning for warning in check_dataset(dataset).warnings)


def test_images_that_a_decathlon_description_lists_in_vain_are_told(tmp_path):
    for name in NAMES[:2]:
        write_nifti(tmp_path / "imagesTr" / f"{name}.nii.gz", image())
    listed = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in NAMES]
    described = {"modality": {"0": "MRI"}, "labels": {"0": "b"}, "training": listed, "description": None}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    dataset = find_dataset(tmp_path)
    assert dataset.description == ""
    assert dataset.warnings == (
        f"1 image(s) that dataset.json lists are not there, {tmp_path}/imagesTr/patient_3.nii.gz for example.",
    )


def test_a_single_channel_that_ends_like_one_keeps_its_label(tmp_path):
    for number in ("0000", "0001"):
        write_nifti(tmp_path / "imagesTr" / f"la_{number}.nii.gz", image())
        write_nifti(tmp_path / "labelsTr" / f"la_{number}.nii.gz", blocks((1,)))
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "atrium"}}))
    assert [case.label.name for case in find_dataset(tmp_path).cases] == ["la_0000.nii.gz", "la_0001.nii.gz"]


def test_a_folder_a_patient_is_a_case_each(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / name / "t1.nii.gz", image())
    assert [case.name for case in find_dataset(tmp_path).cases] == sorted(NAMES)
    deeper = tmp_path / "above"
    deeper.mkdir()
    (tmp_path / NAMES[0]).rename(deeper / NAMES[0])
    with pytest.raises(InputError, match=r"itself holds no image; the first one below it is .*patient_1"):
        find_dataset(deeper)


@pytest.mark.parametrize(("corner", "fits"), [((-2, 8, 3), True), ((40, 36, 20), True), ((60, 8, 3), False)])
def test_a_segmentation_that_reaches_past_its_image(tmp_path, corner, fits):
    case, _ = asymmetric_case("RAS")
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in NAMES[:2]:
        write_volume(tmp_path / "images" / f"{name}.nrrd", case.image[0], case.affine)
        slicer_segmentation(tmp_path / "labels" / f"{name}.seg.nrrd", case, corner, (12, 10, 9))
    dataset = find_dataset(tmp_path)
    if not fits:
        with pytest.raises(InputError, match="different grids"):
            check_dataset(dataset)
        return
    expected = np.zeros((120, 120, 120), np.uint16)  # the segment of value 1, in a frame with room on every side
    start = np.array(corner) + 40 + 2
    expected[tuple(slice(s, s + 4) for s in start)] = 1
    inner = expected[tuple(slice(40, 40 + side) for side in case.image.shape[1:])]
    np.testing.assert_array_equal(read_case(dataset.cases[0], dataset).label_values == 1, inner == 1)


def test_tiny_units_and_mostly_air_keep_their_contrast(tmp_path):
    """Diffusivities in m²/s are of the order 1e-9; a vessel map is air but for one voxel in a thousand."""
    random = np.random.default_rng(0)
    for folder, make in (
        ("tiny", lambda: random.uniform(1e-10, 3e-9, (18, 20, 22)).astype(np.float32)),
        ("sparse", lambda: np.where(random.random((18, 20, 22)) < 0.001, 50, 0).astype(np.int16)),
    ):
        for name in NAMES:
            write_nifti(tmp_path / folder / f"{name}.nii.gz", make())
        dataset = find_dataset(tmp_path / folder)
        plan = make_plan(check_dataset(dataset))
        low, high = plan.channels[0].typical
        assert high > low
        working = next(iter(load_working_cases(dataset, plan)))
        assert working.image.min() < -0.99 and working.image.max() > 0.99


def test_names_without_segmentations_are_no_labels(tmp_path):
    """Or a model would invent segmentations of what it never saw segmented."""
    for name in NAMES:
        write_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image())
    described = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "tumor": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert check_dataset(find_dataset(tmp_path)).labels == ()


def test_decathlon_numbers_are_cases_though_most_have_no_label(tmp_path):
    for number in range(1, 7):
        write_nifti(tmp_path / "imagesTr" / f"la_{number:04d}.nii.gz", image())
        if number < 3:
            write_nifti(tmp_path / "labelsTr" / f"la_{number:04d}.nii.gz", blocks((1,)))
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"0": "b", "1": "atrium"}}))
    cases = find_dataset(tmp_path).cases
    assert [case.name for case in cases] == [f"la_{number:04d}" for number in range(1, 7)]
    assert sum(case.label is not None for case in cases) == 2


def test_names_that_are_digits_are_names(tmp_path):
    for name in NAMES:
        write_nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", image())
        write_nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", blocks((1, 2)))
    described = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "2": 1, "1": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert find_dataset(tmp_path).label_names == {1: "2", 2: "1"}


def test_segmentations_beside_images_that_match_none_are_told(tmp_path):
    for name in ("scan1", "scan2"):
        write_nifti(tmp_path / f"{name}.nii.gz", image())
    write_nifti(tmp_path / "patient1_seg.nii.gz", blocks((1,)))
    with pytest.raises(InputError, match="None of the 1 segmentations"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("extra", "words"), [("B_0002.nii", "one is missing between"), ("A_0001.nii.gz", "same channel")]
)
def test_channels_of_a_plain_folder_must_be_complete(tmp_path, extra, words):
    for name in ("A_0000.nii", "A_0001.nii", "B_0000.nii", extra):
        write_nifti(tmp_path / name, image())
    with pytest.raises(InputError, match=words):
        find_dataset(tmp_path)


def test_a_folder_of_images_finds_its_labels_from_inside(tmp_path, monkeypatch):
    for name in NAMES:
        write_nifti(tmp_path / "images" / f"{name}.nii.gz", image())
        write_nifti(tmp_path / "labels" / f"{name}.nii.gz", blocks((1,)))
    monkeypatch.chdir(tmp_path / "images")
    assert all(case.label is not None for case in find_dataset(Path(".")).cases)
