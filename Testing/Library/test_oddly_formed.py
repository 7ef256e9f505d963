"""Files and folders as people have them: each read right, or said what is wrong with it."""

from __future__ import annotations

import gzip
import itertools
import json
from dataclasses import replace
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest
import SimpleITK
from dicom_slices import write_dicom
from landmark import asymmetric_case, landmark_of
from scipy.spatial.transform import Rotation

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.exchange.folder import write_folder
from GEDGANLib.exchange.nnunet import write_dataset
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.planning.plan import Channel, Plan
from GEDGANLib.synthesis.output import OutputGrid, to_grid
from GEDGANLib.volumes.dataset import as_planned, find_dataset
from GEDGANLib.volumes.dicom import POSITION
from GEDGANLib.volumes.files import LPS_TO_RAS, read_volume
from GEDGANLib.volumes.fingerprint import check_dataset, foreground_range, percentile_range
from GEDGANLib.volumes.geometry import corners_apart
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pictures import legend_lines
from GEDGANLib.volumes.pipeline import load_case, load_working_cases
from GEDGANLib.volumes.reading import read_case

SHAPE = (12, 10, 8)
SPACING = (1.0, 1.5, 2.0)


def scan(seed: int = 0, shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)


def ball() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[3:7, 3:7, 3:6] = 1
    labels[8:10, 7:9, 6:8] = 2
    return labels


def save(path: Path, array: np.ndarray, affine=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def placed(angles, origin, spacing=SPACING) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


# ---- NIfTI lies where ITK, and so Slicer, has it


QFORM = placed((10, 20, 30), (-10, -20, -30))


def skew(share: float) -> np.ndarray:
    return np.array([[1, share, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


SFORMS = {
    "the same": QFORM,
    "elsewhere": placed((-5, 0, 40), (4, 5, 6)),
    "other voxels": placed((-5, 0, 40), (4, 5, 6), (1.1, 1.6, 2.2)),
    "flipped": placed((0, 0, 0), (4, 5, 6)) @ np.diag([-1.0, 1, 1, 1]),
    "skewed": placed((-5, 0, 40), (4, 5, 6)) @ skew(0.3),
    "none": np.diag([0, 0, 0, 1.0]),
}


def with_header(path: Path, sform: np.ndarray, codes: tuple[int, int], unit: int = 2) -> Path:
    """A NIfTI file with codes and units that no library would write together."""
    image = nibabel.Nifti1Image(scan(), QFORM)
    image.set_qform(QFORM, 1)
    raw = bytearray(image.to_bytes())
    raw[252:256] = np.array(codes, "<i2").tobytes()  # qform_code, sform_code
    raw[280:328] = sform[:3].astype("<f4").tobytes()
    raw[123] = unit  # xyzt_units
    path.write_bytes(bytes(raw))
    return path


def affine_of_itk(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


@pytest.mark.parametrize("sform", SFORMS)
def test_nifti_lies_where_itk_has_it(tmp_path, sform):
    taken = refused = 0
    for codes in itertools.product((0, 1, 2), (0, 1, 2, 4)):
        path = with_header(tmp_path / "scan.nii", SFORMS[sform], codes)
        try:
            wanted = affine_of_itk(path)
        except RuntimeError:
            refused += 1
            with pytest.raises(InputError, match=r"right angles \(by 11 degrees\)|holds none"):
                read_volume(path)
            continue
        taken += 1
        np.testing.assert_allclose(read_volume(path).affine, wanted, atol=1e-5)
    assert (taken, refused) == ((9, 3) if sform in ("skewed", "none") else (12, 0))


def test_a_placement_that_is_hardly_skewed_is_taken(tmp_path, monkeypatch):
    """As many a registration writes it; whatever ITK is told to permit."""
    sform = SFORMS["elsewhere"] @ skew(0.002)
    path = with_header(tmp_path / "scan.nii", sform, (0, 1))
    affine = read_volume(path).affine
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-9)
    assert corners_apart(sform, SHAPE, affine) < 0.02
    monkeypatch.setenv("ITK_NIFTI_SFORM_PERMISSIVE", "1")
    assert np.array_equal(read_volume(path).affine, affine)


def test_nifti_2_is_read(tmp_path):
    nibabel.save(nibabel.Nifti2Image(scan(), QFORM), tmp_path / "scan.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").affine, QFORM, atol=1e-6)


def test_placements_that_disagree_are_one_choice_for_image_and_label(tmp_path):
    elsewhere = SFORMS["elsewhere"]
    (tmp_path / "images").mkdir(), (tmp_path / "labels").mkdir()
    image = with_header(tmp_path / "images" / "p.nii", elsewhere, (1, 2))
    np.testing.assert_allclose(read_volume(image).affine, QFORM, atol=1e-5)
    np.testing.assert_allclose(
        read_volume(with_header(tmp_path / "q.nii", elsewhere, (1, 1))).affine, elsewhere, atol=1e-5
    )
    save(tmp_path / "labels" / "p.nii.gz", ball(), elsewhere)
    dataset = find_dataset(tmp_path)
    with pytest.raises(InputError, match=r"axes turned by .* degrees, first voxels .* mm apart"):
        read_case(dataset.cases[0], dataset)


@pytest.mark.parametrize(("unit", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001)])
def test_units_become_millimetres(tmp_path, unit, factor):
    volume = read_volume(with_header(tmp_path / "scan.nii", QFORM, (1, 0), unit))
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), np.multiply(SPACING, factor), rtol=1e-5)


def test_voxels_of_a_microscope_are_taken(tmp_path):
    path = save(tmp_path / "cells.nii.gz", scan(), np.diag([0.0008, 0.0008, 0.0012, 1]))
    assert np.linalg.norm(read_volume(path).affine[:3, 2]) == pytest.approx(0.0012)


@pytest.mark.parametrize("name", ["plain.nii.gz", "packed.nii"])
def test_compression_need_not_be_what_the_name_says(tmp_path, name):
    raw = nibabel.Nifti1Image(scan(), QFORM).to_bytes()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name == "packed.nii" else raw)
    volume = read_volume(tmp_path / name)
    assert np.array_equal(volume.array, scan())
    np.testing.assert_allclose(volume.affine, QFORM, atol=1e-4)


# ---- other formats


@pytest.mark.parametrize("ending", [".mgz", ".hdr", ".gipl", ".vtk"])
def test_formats_of_other_programs_lie_where_they_were_written(tmp_path, ending):
    case, landmark = asymmetric_case("RAS" if ending in (".mgz", ".hdr") else "LPS")
    array, path = case.image[0].astype(np.float32), tmp_path / f"scan{ending}"
    if ending == ".mgz":
        nibabel.save(nibabel.MGHImage(array, case.affine), path)
    elif ending == ".hdr":
        nibabel.save(nibabel.Nifti1Pair(array, case.affine), path)
    else:
        image = SimpleITK.GetImageFromArray(array.T.copy())
        lps = LPS_TO_RAS @ case.affine
        image.SetSpacing(np.linalg.norm(lps[:3, :3], axis=0).tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path))
    volume = read_volume(path)
    assert np.linalg.norm(landmark_of(volume.array.astype(float), volume.affine) - landmark) < 0.6


@pytest.mark.parametrize("name", ["scan.nhdr", "scan.mhd", "scan.hdr"])
def test_a_header_without_its_voxels_names_what_is_missing(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".nhdr"):
        nrrd.write(str(path), scan(), {"encoding": "raw"}, detached_header=True)
    elif name.endswith(".mhd"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(scan()), str(path))
    else:
        nibabel.save(nibabel.Nifti1Pair(scan(), np.eye(4)), path)
    assert read_volume(path).array.size == scan().size
    (voxels,) = (each for each in tmp_path.iterdir() if each.name != name)
    voxels.unlink()
    with pytest.raises(InputError, match=f"header alone.*{voxels.name}"):
        read_volume(path)


def test_content_that_was_not_fetched_is_named(tmp_path):
    images = tmp_path / "images"
    for number in range(3):
        save(images / f"p{number}.nii.gz", scan(number))
    (images / "p1.nii.gz").unlink()
    (images / "p1.nii.gz").symlink_to("../.git/annex/objects/x/p1.nii.gz")
    (images / "p2.nii.gz").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    dataset = find_dataset(tmp_path)
    assert len(dataset.cases) == 3
    for case, words in zip(
        dataset.cases[1:], ("link to content that is not there", "a note of where its content lies")
    ):
        with pytest.raises(InputError, match=words):
            read_case(case, dataset)


# ---- segmentations


def segmentation_file(path: Path, layers: np.ndarray, names: list[str], old: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = {
        "space": "left-posterior-superior", "space directions": np.vstack([np.full(3, np.nan), np.eye(3)]),
        "space origin": np.zeros(3), "kinds": ["list", "domain", "domain", "domain"],
    }  # fmt: skip
    for number, name in enumerate(names):
        header |= {f"Segment{number}_ID": f"Segment_{number}", f"Segment{number}_Name": name}
        if not old:
            header |= {f"Segment{number}_LabelValue": "1", f"Segment{number}_Layer": str(number)}
    nrrd.write(str(path), layers, header, index_order="F")
    return path


def test_segments_of_old_slicer_are_a_layer_each(tmp_path):
    layers = np.zeros((2, 20, 20, 20), np.uint8)
    layers[0, 3:8, 3:8, 3:8] = 1
    layers[1, 10:16, 10:16, 10:16] = 1
    volume = read_volume(segmentation_file(tmp_path / "p.seg.nrrd", layers, ["liver", "tumour"], True))
    assert [segment.name for segment in volume.segments] == ["liver", "tumour"]
    assert np.bincount(volume.array.ravel())[1:].tolist() == [125, 216]


@pytest.mark.parametrize("names", [["liver", "lesion"], ["lesion", "liver"]])
def test_a_lesion_lies_on_its_organ_whatever_their_order(tmp_path, names):
    masks = {name: np.zeros((20, 20, 20), np.uint8) for name in names}
    masks["liver"][3:15, 3:15, 3:15] = 1
    masks["lesion"][6:9, 6:9, 6:9] = 1
    layers = np.stack([masks[name] for name in names])
    volume = read_volume(segmentation_file(tmp_path / "p.seg.nrrd", layers, names, False))
    counts = np.bincount(volume.array.ravel())[1:]
    assert dict(zip(names, counts.tolist())) == {"liver": 12**3 - 27, "lesion": 27}


def test_a_segment_called_background_is_background(tmp_path):
    layers = np.zeros((2, 20, 20, 20), np.uint8)
    layers[1, 4:9, 4:9, 4:9] = 1
    layers[0] = 1 - layers[1]
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3)}
    (tmp_path / "images").mkdir()
    for number in range(2):
        nrrd.write(str(tmp_path / "images" / f"p{number}.nrrd"), scan(number, (20, 20, 20)), header, index_order="F")
        names = ["Background", "liver"]
        segmentation_file(tmp_path / "labels" / f"p{number}.seg.nrrd", layers, names, False)
    dataset = find_dataset(tmp_path)
    fingerprint = check_dataset(dataset)
    assert [(label.index, label.name) for label in fingerprint.labels] == [(1, "liver")]
    assert fingerprint.cases[0].label_voxels == {"liver": 125}
    case = next(load_working_cases(dataset, make_plan(fingerprint, "cpu", (24, 24, 24))))
    assert case.labels.max() == 1 and int(case.labels.sum()) == 125


def test_a_legend_names_all_labels():
    lines = legend_lines([(f"structure {number}", (1, 1, 1)) for number in range(32)], 6.0)
    assert sum(len(line) for line in lines) == 32
    lines = legend_lines([(f"structure {number}", (1, 1, 1)) for number in range(45)], 6.0)
    assert lines[-1][-1][1] == "and 5 more"


def test_label_values_without_layers_are_of_one_layer(tmp_path):
    header = {"space": "left-posterior-superior", "space directions": np.eye(3), "space origin": np.zeros(3)}
    for number, name in enumerate(("liver", "tumour")):
        header |= {f"Segment{number}_ID": name, f"Segment{number}_Name": name}
        header[f"Segment{number}_LabelValue"] = str(number + 1)
    nrrd.write(str(tmp_path / "p.seg.nrrd"), ball(), header, index_order="F")
    volume = read_volume(tmp_path / "p.seg.nrrd")
    assert np.array_equal(volume.array, ball())


def labelled(tmp_path: Path, labels: np.ndarray, affine=None):
    save(tmp_path / "images" / "p.nii.gz", scan())
    save(tmp_path / "labels" / "p.nii.gz", labels, affine)
    dataset = find_dataset(tmp_path)
    return read_case(dataset.cases[0], dataset).label_values


def test_labels_that_a_header_rounded_are_whole(tmp_path):
    assert np.array_equal(labelled(tmp_path, ball() * np.float64(1.00000002)), ball())
    with pytest.raises(InputError, match="labels with fractions"):
        labelled(tmp_path, ball() * 0.97)


@pytest.mark.parametrize("with_background", [True, False])
def test_a_mask_a_label_is_one_label_map(tmp_path, with_background):
    values = (0, 1, 2) if with_background else (1, 2)
    masks = np.stack([ball() == value for value in values], -1).astype(np.uint8)
    assert np.array_equal(labelled(tmp_path, masks), ball())
    with pytest.raises(InputError, match="no masks of one label each"):
        labelled(tmp_path, np.ones((*SHAPE, 2), np.uint8))


def test_grids_that_differ_by_less_than_anybody_draws_are_one(tmp_path):
    affine = np.eye(4)
    affine[0, 3] = 0.02
    assert np.array_equal(labelled(tmp_path, ball(), affine), ball())
    affine[0, 3], affine[2, 2] = 0.2, 1.01
    with pytest.raises(InputError, match=r"1 x 1 x 1\.01 against 1 x 1 x 1 mm a voxel, first voxels 0\.2 mm apart"):
        labelled(tmp_path, ball(), affine)


# ---- which file belongs to which


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("patient{}_frame01", "patient{}_frame01_gt"),
        ("volume-{}", "segmentation-{}"),
        ("sub-0{}_T1w", "sub-0{}_T1w_dseg"),
        ("sub-0{}_T1w", "sub-0{}_dseg"),
        ("scan{}", "scan{}_manual"),
    ],
)
@pytest.mark.parametrize("folder", ["", "annotations"])
def test_segmentations_are_known_by_their_names(tmp_path, image, label, folder):
    for number in range(3):
        save(tmp_path / f"{image.format(number)}.nii.gz", scan(number))
        save(tmp_path / folder / f"{label.format(number)}.nii.gz", ball())
    dataset = find_dataset(tmp_path)
    assert [case.label.name for case in dataset.cases] == [f"{label.format(number)}.nii.gz" for number in range(3)]
    assert not dataset.warnings


@pytest.mark.parametrize(
    ("images", "labels", "pairs"),
    [
        (["ct_001", "mr_001", "ct_002"], [], {}),  # images are never labels of each other
        (["a", "a_0000", "case-1", "case_1"], [], {}),
        (["T1_001", "T2_001"], ["T1_001_seg"], {"T1_001": "T1_001_seg"}),
        (["mask_000", "mask_001"], ["mask_000"], {"mask_000": "mask_000"}),
        (["GT_001", "P_002"], ["GT_001", "P_002"], {"GT_001": "GT_001", "P_002": "P_002"}),
        (["sub-0_desc-manual_T1w", "sub-1_desc-manual_T1w"], [], {}),
        (["benign_0001", "benign_0002", "malignant_0001", "malignant_0002"], [], {}),
        (["P1_2019", "P1_2020", "P2_2019", "P2_2020"], ["P1_2020"], {"P1_2020": "P1_2020"}),
        (["p_1", "p-1"], ["p.1_seg", "p_2_seg", "p_1"], {"p_1": "p_1", "p-1": "p.1_seg"}),
    ],
)
def test_no_image_is_lost_and_none_gets_the_label_of_another(tmp_path, images, labels, pairs):
    for number, name in enumerate(images):
        save(tmp_path / "images" / f"{name}.nii.gz", scan(number))
    for name in labels:
        save(tmp_path / "labels" / f"{name}.nii.gz", ball())
    dataset = find_dataset(tmp_path)
    assert [case.name for case in dataset.cases] == sorted(images)
    assert {case.name: case.label.name[:-7] for case in dataset.cases if case.label is not None} == pairs


def test_labels_that_may_be_of_two_images_are_of_none_and_told(tmp_path):
    for name in ("p1_t1", "p1_x", "p2_scan", "p2_image"):
        save(tmp_path / "images" / f"{name}.nii.gz", scan())
    for name in ("p1_x_seg", "p2_seg", "p1_t1_gt", "p1_t1_mask"):
        save(tmp_path / "labels" / f"{name}.nii.gz", ball())
    dataset = find_dataset(tmp_path)
    assert {case.name for case in dataset.cases if case.label is not None} == {"p1_x"}
    told = " ".join(dataset.warnings)
    assert "2 segmentations fit p1_t1" in told and "p2_seg.nii.gz fits 2 images" in told


@pytest.mark.parametrize(
    "tree",
    [
        ["benign/000", "benign/001", "malignant/000", "malignant/001"],
        ["T1/p1", "T1/p2", "T2/p1", "T2/p2", "labels/p1", "labels/p2"],
        ["P0/ct", "P0/liver", "P1/ct", "P1/liver"],
    ],
)
def test_folders_of_classes_sequences_or_bare_masks_are_no_patients(tmp_path, tree):
    for name in tree:
        save(tmp_path / f"{name}.nii.gz", scan())
    with pytest.raises(InputError, match="itself holds no image"):
        find_dataset(tmp_path)


def test_segmentations_of_patients_may_lie_in_a_folder_of_all(tmp_path):
    for number in range(3):
        save(tmp_path / f"P{number}" / "ct.nii.gz", scan(number))
        save(tmp_path / "labels" / f"P{number}_seg.nii.gz", ball())
    save(tmp_path / "P8" / "anat" / "ct.nii.gz", scan())
    dataset = find_dataset(tmp_path)
    assert [case.label.name for case in dataset.cases] == [f"P{number}_seg.nii.gz" for number in range(3)]
    assert "1 folder(s) hold no image themselves" in dataset.warnings[0]


def test_a_structure_has_one_name_however_many_a_patient_has(tmp_path):
    for number in range(4):
        save(tmp_path / f"P{number}" / "ct.nii.gz", scan(number))
        save(tmp_path / f"P{number}" / "masks" / "liver.nii.gz", (ball() == 1).astype(np.uint8) * 255)
        if number < 2:
            save(tmp_path / f"P{number}" / "masks" / "tumour.nii.gz", (ball() == 2).astype(np.uint8))
    assert [label.name for label in check_dataset(find_dataset(tmp_path)).labels] == ["liver", "tumour"]


def test_meshes_are_no_volumes(tmp_path):
    save(tmp_path / "c0.nii.gz", scan())
    (tmp_path / "c0.vtk").write_bytes(b"# vtk DataFile Version 5.1\nmesh\nASCII\nDATASET POLYDATA\n")
    assert [case.images[0].name for case in find_dataset(tmp_path).cases] == ["c0.nii.gz"]


def test_many_files_are_found_at_once(tmp_path):
    (tmp_path / "images").mkdir(), (tmp_path / "labels").mkdir()
    for number in range(3000):  # names alone are looked at
        (tmp_path / "images" / f"volume-{number}.nii.gz").touch()
        (tmp_path / "labels" / f"segmentation-{number}.nii.gz").touch()
    assert all(case.label is not None for case in find_dataset(tmp_path).cases)  # pair by pair it would be minutes


def test_images_and_labels_of_the_very_same_names_are_pairs(tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"scan{number}_0000.nii.gz", scan(number))
        save(tmp_path / "labels" / f"scan{number}_0000.nii.gz", ball())
    assert all(case.label is not None for case in find_dataset(tmp_path).cases)


def test_what_is_not_used_is_told(tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"p{number}.nii.gz", scan(number))
        save(tmp_path / "more" / f"p{number}.nii.gz", scan(number))
    np.save(tmp_path / "images" / "p3.npy", scan())
    (tmp_path / "labels" / "p0").mkdir(parents=True)
    (tmp_path / "labels" / "p0" / "0.png").write_bytes(b"\x89PNG")
    (tmp_path / "readme.txt").write_text("of no interest")
    told = " ".join(find_dataset(tmp_path).warnings)
    for words in ("1 file(s) like", "p3.npy", "nothing of voxel sizes", "not looked into: more, p0"):
        assert words in told
    assert "readme" not in told


def test_formats_that_are_not_read_are_named(tmp_path):
    np.save(tmp_path / "p3.npy", scan())
    with pytest.raises(InputError, match=r"p3\.npy are left out: a format that says nothing of voxel sizes"):
        find_dataset(tmp_path)


def test_each_channel_keeps_its_type(tmp_path):
    """CT in whole numbers beside dose with fractions, as read and as written again, as a data set and as files."""
    for number in range(3):
        save(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", scan(number))
        save(tmp_path / "imagesTr" / f"p{number}_0001.nii.gz", scan(number).astype(np.float32) / 7)
    told = {"channel_names": {"0": "CT", "1": "dose"}, "labels": {}, "file_ending": ".nii.gz", "numTraining": 3}
    (tmp_path / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    dataset = find_dataset(tmp_path)
    plan = make_plan(check_dataset(dataset))
    assert plan.kinds == ("int16", "") and plan.whole_numbers == ""
    cases = [load_case(files, dataset, (), LabelTable(dataset), set()) for files in dataset.cases]
    assert cases[0].kinds == ("int16", "float32")
    made = replace(cases[0], name="made", kind="", kinds=(), image=cases[0].image + 0.25, provenance={"seed": 0})
    write_dataset(tmp_path / "again", [*cases, made], "again", plan.kinds)
    write_folder(tmp_path / "files", cases, "files", plan.kinds, ".nrrd")
    for name in ("p0", "made"):
        ct, dose = (nibabel.load(tmp_path / "again" / "imagesTr" / f"{name}_{index:04d}.nii.gz") for index in (0, 1))
        assert (ct.get_data_dtype(), dose.get_data_dtype()) == (np.int16, np.float32)
        assert np.array_equal(ct.dataobj, scan(0))
    np.testing.assert_allclose(dose.dataobj, scan(0) / 7 + 0.25, rtol=1e-5)
    kinds = [read_volume(tmp_path / "files" / "images" / f"p0_{index:04d}.nrrd").array.dtype for index in (0, 1)]
    assert kinds == [np.int16, np.float32]
    varied = cases[0].in_its_kinds(cases[0].image + 0.25)
    assert np.array_equal(varied[0], cases[0].image[0]) and np.array_equal(varied[1], cases[0].image[1] + 0.25)


def test_names_are_one_line_whatever_a_file_has(tmp_path):
    for number in range(3):
        save(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", scan(number))
        save(tmp_path / "labelsTr" / f"p{number}.nii.gz", ball())
    told = {
        "channel_names": {"0": "T1\r\npost  contrast"}, "labels": {"background": 0, "left\tlung\x00": 1, "Größe\n": 2},
        "description": "two\nlines", "file_ending": ".nii.gz", "numTraining": 3,
    }  # fmt: skip
    (tmp_path / "dataset.json").write_text(json.dumps(told), encoding="utf-8")
    dataset = find_dataset(tmp_path)
    assert dataset.channel_names == ("T1 post contrast",) and dataset.description == "two lines"
    assert [label.name for label in check_dataset(dataset).labels] == ["left lung", "Größe"]


# ---- channels, and a folder a patient


def test_files_named_by_their_sequence_are_channels(tmp_path):
    for number, word in itertools.product(range(3), ("t1", "flair")):
        save(tmp_path / f"BraTS_{number:03d}_{word}.nii.gz", scan(number))
        save(tmp_path / f"BraTS_{number:03d}_seg.nii.gz", ball())
    dataset = find_dataset(tmp_path)
    assert dataset.channel_names == ("flair", "t1")
    assert [case.name for case in dataset.cases] == [f"BraTS_{number:03d}" for number in range(3)]
    assert all(case.label.name == f"{case.name}_seg.nii.gz" for case in dataset.cases)
    (tmp_path / "BraTS_001_t1.nii.gz").unlink()
    with pytest.raises(InputError, match="BraTS_001 has no t1, which other cases have"):
        find_dataset(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"), [("odd", r"mean\.nii\.gz is named as no channel"), ("lost", "c1 has the channels 0001")]
)
def test_channels_are_never_silently_more_cases(tmp_path, spoil, words):
    for number, channel in itertools.product(range(3), range(2)):
        save(tmp_path / f"c{number}_{channel:04d}.nii.gz", scan(number))
    if spoil == "odd":
        save(tmp_path / "mean.nii.gz", scan())
    else:
        (tmp_path / "c1_0000.nii.gz").unlink()
    with pytest.raises(InputError, match=words):
        find_dataset(tmp_path)


def test_a_fourth_axis_can_be_said_to_be_channels(tmp_path, capsys):
    for number in range(3):
        save(tmp_path / "data" / f"p{number}.nii.gz", np.stack([scan(n, (16, 16, 16)) for n in (number, 9)], -1))
    asked = ["plan", str(tmp_path / "data"), "-o", str(tmp_path / "plan.json"), "--alignment", "none"]
    assert main(asked) == 2 and "series of 2 volumes" in capsys.readouterr().err
    assert main([*asked, "--channels", "CT", "dose"]) == 0
    channels = json.loads((tmp_path / "plan.json").read_text())["channels"]
    assert [(channel["name"], channel["mapping"]) for channel in channels] == [("CT", "window"), ("dose", "window")]
    assert len(as_planned(find_dataset(tmp_path / "data"), Plan.load(tmp_path / "plan.json")).channel_names) == 2
    save(tmp_path / "two" / "p0_0000.nii.gz", scan()), save(tmp_path / "two" / "p1_0000.nii.gz", scan())
    save(tmp_path / "two" / "p0_0001.nii.gz", scan()), save(tmp_path / "two" / "p1_0001.nii.gz", scan())
    asked[1], asked[3] = str(tmp_path / "two"), str(tmp_path / "other.json")
    assert main([*asked, "--channels", "CT"]) == 2 and "has 2 channel(s), and 1 names" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["", "segmentations"])
def test_masks_of_structures_become_labels_by_their_names(tmp_path, folder):
    for number in range(3):
        patient = tmp_path / f"s{number}"
        save(patient / "ct.nii.gz", scan(number))
        if folder:
            save(patient / folder / "organ.nii.gz", (ball() == 1).astype(np.uint8))
            save(patient / folder / "lesion.nii.gz", (ball() == 2).astype(np.uint8) * 255)
        else:
            save(patient / "ct_seg.nii.gz", ball())
    dataset = find_dataset(tmp_path)
    fingerprint = check_dataset(dataset)
    names = [label.name for label in fingerprint.labels]
    assert names == (["lesion", "organ"] if folder else ["label 1", "label 2"])
    counted = fingerprint.cases[0].label_voxels
    assert sorted(counted.values()) == sorted(np.bincount(ball().ravel())[1:].tolist())
    if folder:
        assert counted["organ"] == 48
        save(tmp_path / "s1" / folder / "organ.nii.gz", np.ones((4, 4, 4), np.uint8))
        with pytest.raises(InputError, match=r"organ\.nii\.gz and its image have different grids: 4 x 4 x 4 against"):
            check_dataset(dataset)


def test_patients_that_lack_an_image_are_named(tmp_path):
    for number, word in itertools.product(range(3), ("t1", "t2")):
        save(tmp_path / f"P{number}" / f"P{number}_{word}.nii.gz", scan(number))
    save(tmp_path / "P0" / "localiser.nii.gz", scan())
    dataset = find_dataset(tmp_path)
    assert dataset.channel_names == ("t1", "t2") and "localiser" in dataset.warnings[0]
    (tmp_path / "P2" / "P2_t1.nii.gz").unlink()
    with pytest.raises(InputError, match="P2 has no image t1"):
        find_dataset(tmp_path)


# ---- intensities


def body_with_bone(seed: int, kind) -> tuple[np.ndarray, np.ndarray]:
    """CT numbers of a small body in much air, padded in a corner, and its labels: soft tissue and a little bone."""
    random = np.random.default_rng(seed)
    radius = np.sqrt(((np.indices((24, 24, 24)) - 11.5) ** 2).sum(0))
    labels = np.select([radius < 2, radius < 6], [2, 1], 0).astype(np.uint8)
    numbers = np.select([labels == 2, labels == 1], [900, 40], -1000) + random.normal(0, 8, labels.shape)
    numbers[:3, :3] = -3024
    return numbers.astype(kind), labels


@pytest.mark.parametrize("kind", [np.int16, np.float32])
@pytest.mark.parametrize("name", ["images", "imagesTr"])
def test_the_window_of_ct_holds_body_and_labels_however_it_is_stored(tmp_path, kind, name):
    for number in range(3):
        voxels, labels = body_with_bone(number, kind)
        save(tmp_path / name / f"p{number}.nii.gz", voxels)
        save(tmp_path / name.replace("images", "labels") / f"p{number}.nii.gz", labels)
    (channel,) = make_plan(check_dataset(find_dataset(tmp_path)), "cpu").channels
    assert (channel.name, channel.mapping) == ("CT", "window")
    assert -1100 < channel.typical[0] < -990 and 900 < channel.typical[1] < 950
    assert channel.integer == (kind is np.int16)


def test_a_dose_is_kept_to_its_maximum_and_each_channel_has_its_type(tmp_path):
    for number in range(3):
        voxels, labels = body_with_bone(number, np.int16)
        dose = (70 * np.exp(-(((np.indices(labels.shape) - 11.5) ** 2).sum(0)) / 8)).astype(np.float32)
        save(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", voxels)
        save(tmp_path / "imagesTr" / f"p{number}_0001.nii.gz", dose)
        save(tmp_path / "labelsTr" / f"p{number}.nii.gz", labels)
    described = {"channel_names": {"0": "planning", "1": "dose"}, "labels": {"b": 0, "soft": 1, "target": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    plan = make_plan(check_dataset(find_dataset(tmp_path)), "cpu")
    assert [channel.mapping for channel in plan.channels] == ["window", "window"]
    assert [channel.integer for channel in plan.channels] == [True, False]
    assert plan.channels[1].typical == (0.0, pytest.approx(63.7, abs=0.2))
    described["channel_names"]["1"] = "something"
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    plan = make_plan(check_dataset(find_dataset(tmp_path)), "cpu")
    assert plan.channels[1].mapping == "foreground"


def test_the_range_of_a_scan_does_not_depend_on_how_much_air_it_has(tmp_path):
    """And tells what of a label lies beyond it."""
    random = np.random.default_rng(0)
    head = 300 + 60 * random.standard_normal((20, 20, 20))
    head[4:7, 4:7, 4:7] = 900 + random.standard_normal((3, 3, 3))  # brightest of all, and less than a hundredth
    tight, wide = np.pad(head, 2), np.pad(head, 20)
    airy = wide + np.abs(5 * random.standard_normal(wide.shape))
    ranges = [foreground_range(each) for each in (tight, wide, airy)]
    assert all(low < 20 for low, _ in ranges)
    assert [high for _, high in ranges] == pytest.approx([ranges[0][1]] * 3, rel=0.03)
    below = [percentile_range(each)[1] for each in (tight, wide)]
    assert below[1] < 0.85 * below[0]
    assert foreground_range(np.full((8, 8, 8), 7.0)) == (7.0, 7.0)
    few = np.zeros((20, 20, 20))
    few[3, 3, 3:7] = (10, 20, 30, 40)  # almost all of it air
    assert foreground_range(few) == (0.0, pytest.approx(40, rel=0.01))
    channel = Channel("image", "foreground", (0.0, 1.0), False)
    assert channel.range_of(few) == foreground_range(few)
    assert replace(channel, mapping="percentiles").range_of(wide) == percentile_range(wide)
    labels = np.zeros(tight.shape, np.uint8)
    labels[6:9, 6:9, 6:9] = 1
    for number in range(3):
        save(tmp_path / "images" / f"p{number}.nii.gz", (tight + number).astype(np.float32))
        save(tmp_path / "labels" / f"p{number}.nii.gz", labels)
    plan = make_plan(check_dataset(find_dataset(tmp_path)), "cpu")
    assert any("100% of label 1 is brighter than that range" in words for words in plan.reasons)
    assert plan.channels[0].typical[1] == pytest.approx(ranges[0][1] + 1, rel=0.01)


def test_beyond_the_grid_that_was_learned_is_air():
    """And no bars of what touches its edge."""
    source = OutputGrid((8, 8, 8), placed((0, 0, 10), (0, 0, 0)))
    larger = OutputGrid((12, 8, 8), source.affine @ np.array([[1, 0, 0, -2], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    output = np.stack([np.ones(source.shape), np.zeros(source.shape), np.ones(source.shape)]).astype(np.float32)
    image, labels = to_grid(output, 1, source, larger)
    assert image[:2].max() == -1 and image[10:].max() == -1 and image[2:10].min() == 1
    assert labels[:2].max() == 0 and labels[2:10].min() == 1
    finer = OutputGrid((16, 16, 16), source.affine @ np.diag([0.5, 0.5, 0.5, 1]) + _shift(source.affine, -0.25))
    assert to_grid(output, 1, source, finer)[0].min() == 1


def _shift(affine: np.ndarray, voxels: float) -> np.ndarray:
    moved = np.zeros((4, 4))
    moved[:3, 3] = affine[:3, :3] @ np.full(3, voxels)
    return moved


@pytest.mark.parametrize("factor", [1.0, 1e-3])
def test_voxels_of_any_size_are_made_larger_alike(tmp_path, factor):
    for number in range(2):
        save(tmp_path / f"p{number}.nii.gz", scan(number, (128, 128, 128)), np.diag([*[1.5 * factor] * 3, 1]))
    grid = make_plan(check_dataset(find_dataset(tmp_path)), "cpu").grid
    assert grid.shape == (64, 64, 64)
    assert grid.spacing == pytest.approx([3.0 * factor] * 3, rel=5e-3)


# ---- dataset.json


DESCRIBED = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "lesion": 2}}
FORMS = {
    "as it is": {},
    "values in quotation marks": {"labels": {"background": "0", "liver": "1", "lesion": "2"}},
    "values with a point": {"labels": {"background": 0.0, "liver": 1.0, "lesion": 2.0}},
    "a list": {"labels": ["background", "liver", "lesion"], "channel_names": ["CT"]},
}


def described_folder(tmp_path: Path, described: dict) -> Path:
    for number in range(3):
        save(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", scan(number))
        save(tmp_path / "labelsTr" / f"p{number}.nii.gz", ball())
    (tmp_path / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
def test_descriptions_are_read_in_all_their_forms(tmp_path, form):
    dataset = find_dataset(described_folder(tmp_path, DESCRIBED | FORMS[form]))
    assert dataset.label_names == {1: "liver", 2: "lesion"} and dataset.channel_names == ("CT",)
    assert not dataset.warnings


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (json.dumps(DESCRIBED).encode("utf-8-sig"), None),
        ('{"description": "Mäuse"}'.encode("latin-1"), "not written in UTF-8"),
        (b"[1, 2]", "does not describe a data set"),
        (b'{"labels": {"liver": "red"}}', "says no value for liver: red"),
        (b'{"channel_names": {"first": "CT"}}', "does not say what its channels are"),
        (b'{"labels": ', "something is wrong in line 1"),
    ],
)
def test_descriptions_that_are_odd_are_told_in_words(tmp_path, content, words):
    (described_folder(tmp_path, DESCRIBED) / "dataset.json").write_bytes(content)
    if words is None:
        assert find_dataset(tmp_path).label_names == {1: "liver", 2: "lesion"}
        return
    with pytest.raises(InputError, match=words):
        find_dataset(tmp_path)


@pytest.mark.parametrize("form", ["training", "dataset"])
def test_pairs_that_are_listed_are_used_wherever_they_lie(tmp_path, form):
    for number in range(3):
        save(tmp_path / "data" / f"p{number}" / "ct.nii.gz", scan(number))
        save(tmp_path / "data" / f"p{number}" / "seg.nii.gz", ball())
    pairs = {f"p{number}": (f"data/p{number}/ct.nii.gz", f"data/p{number}/seg.nii.gz") for number in range(4)}
    listed = {
        "training": [{"image": image, "label": label} for image, label in pairs.values()],
        "dataset": {name: {"images": [image], "label": label} for name, (image, label) in pairs.items()},
    }[form]
    (tmp_path / "dataset.json").write_text(json.dumps(DESCRIBED | {form: listed, "numTraining": 4}))
    dataset = find_dataset(tmp_path)
    names = [f"p{number}" if form == "dataset" else f"p{number}_ct" for number in range(3)]
    assert [case.name for case in dataset.cases] == names
    assert [case.label.parent.name for case in dataset.cases] == ["p0", "p1", "p2"]
    assert len(dataset.warnings) == 2  # one is not there, and three are not four


def test_pairs_of_other_names_are_by_the_list(tmp_path):
    for number in range(3):
        save(tmp_path / "imagesTr" / f"img{number:04d}.nii.gz", scan(number))
        save(tmp_path / "labelsTr" / f"of_{number + 5}.nii.gz", ball())
    listed = [{"image": f"imagesTr/img{n:04d}.nii.gz", "label": f"labelsTr/of_{n + 5}.nii.gz"} for n in range(3)]
    described = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "x"}, "training": listed}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    assert [case.label.name for case in find_dataset(tmp_path).cases] == [f"of_{n + 5}.nii.gz" for n in range(3)]


# ---- DICOM


def change(folder: Path, change_one, which=None) -> None:
    """Rewrite the slices of a series; ``change_one`` takes each, and its number."""
    import pydicom

    files = sorted(folder.iterdir(), key=lambda path: int(path.name.split("_")[1]))
    for number, path in enumerate(files):
        if which is None or number in which:
            one = pydicom.dcmread(path)
            change_one(one, number)
            pydicom.dcmwrite(path, one)


@pytest.fixture
def series(tmp_path) -> Path:
    case, _ = asymmetric_case("LPS")
    write_dicom(tmp_path / "p0" / "CT", case)
    return tmp_path


@pytest.mark.parametrize("modality", ["SEG", "RTDOSE", "RTSTRUCT", "SR"])
def test_what_is_no_scan_is_named_and_left_out(series, modality):
    import pydicom

    source = next((series / "p0" / "CT").iterdir())
    other = pydicom.dcmread(source)
    other.Modality, other.SeriesInstanceUID = modality, "1.2.3.4"
    if modality in ("RTSTRUCT", "SR"):
        del other.PixelData, other.Rows, other.Columns
    (series / "p0" / "other").mkdir()
    pydicom.dcmwrite(series / "p0" / "other" / "1.dcm", other)
    dataset = find_dataset(series)
    assert [case.name for case in dataset.cases] == ["p0_CT"]
    assert any(f"({modality}) are left out" in words for words in dataset.warnings)
    for path in (series / "p0" / "other").iterdir():
        path.rename(series / "p0" / "CT" / path.name)
    assert [case.name for case in find_dataset(series).cases] == ["p0_CT"]
    assert read_volume(series / "p0" / "CT").array.ndim == 3


@pytest.mark.parametrize("where", [".", "CT"])
def test_volumes_beside_dicom_are_told_and_no_cases(series, where):
    save(series / "p0" / where / "tumor.nii.gz", ball())
    case, _ = asymmetric_case("LPS")
    write_dicom(series / "p1" / "CT", case)
    save(series / "p1" / where / "tumor.nii.gz", ball())
    dataset = find_dataset(series)
    assert [case.name for case in dataset.cases] == ["p0_CT", "p1_CT"]
    assert any("2 file(s) beside DICOM series are left out" in words for words in dataset.warnings)


def test_a_tree_of_dicom_without_a_scan_says_what_it_is(series):
    change(series / "p0" / "CT", lambda one, _: setattr(one, "Modality", "SEG"))
    with pytest.raises(InputError, match=r"holds no DICOM scan.*segmentation \(SEG\)"):
        find_dataset(series)


def test_a_tilted_gantry_is_refused(series):
    folder = series / "p0" / "CT"

    def tilt(one, number):
        one.ImagePositionPatient = [one.ImagePositionPatient[0], one.ImagePositionPatient[1] + 0.7 * number,
                                    one.ImagePositionPatient[2]]  # fmt: skip

    change(folder, tilt)
    with pytest.raises(InputError, match=r"tilted gantry.*by \d+(\.\d+)? degrees"):
        read_volume(folder)


def test_a_slope_a_slice_is_kept(series):
    folder = series / "p0" / "CT"
    before = read_volume(folder).array

    def scale(one, number):
        one.RescaleSlope, one.RescaleIntercept = ("1", "0") if number == 0 else ("0.037", "2")

    change(folder, scale)
    after = read_volume(folder).array
    first_is_scaled_by_one = np.allclose(after[..., 0], before[..., 0])
    one, other = (0, -1) if first_is_scaled_by_one else (-1, 0)
    np.testing.assert_allclose(after[..., one], before[..., one])
    np.testing.assert_allclose(after[..., other], 0.037 * before[..., other] + 2, rtol=1e-4)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda one, number: setattr(one, "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]),
            "slice of another direction",
        ),
        (lambda one, number: delattr(one, "ImagePositionPatient"), "does not say where its slice lies"),
    ],
)
def test_slices_that_make_no_volume_are_refused_by_name(series, spoil, words):
    folder = series / "p0" / "CT"
    change(folder, spoil, which=[4])
    with pytest.raises(InputError, match=words):
        read_volume(folder)
    assert POSITION == "0020|0032"


def test_segmentations_of_dicom_scans_are_used(tmp_path):
    case, _ = asymmetric_case("LPS")
    for name in ("p0", "p1"):
        write_dicom(tmp_path / "images" / name / "T1", case)
        volume = read_volume(tmp_path / "images" / name / "T1")
        save(
            tmp_path / "labels" / f"{name}.nii.gz", (volume.array > volume.array.mean()).astype(np.uint8), volume.affine
        )
    dataset = find_dataset(tmp_path)
    assert [case.label.name for case in dataset.cases] == ["p0.nii.gz", "p1.nii.gz"]
    assert [label.value for label in check_dataset(dataset).labels] == [1]


def test_folders_whose_names_fall_together_are_two_cases(tmp_path):
    case, _ = asymmetric_case("LPS")
    write_dicom(tmp_path / "a" / "b_c", case)
    write_dicom(tmp_path / "a_b" / "c", case)
    assert [case.name for case in find_dataset(tmp_path).cases] == ["a_b_c", "a_b_c_2"]
