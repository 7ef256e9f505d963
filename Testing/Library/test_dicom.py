"""Folders of DICOM series, read into the same cases as other files."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_slices import write_dicom
from landmark import asymmetric_case, landmark_of

from GEDGANLib.errors import InputError
from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import read_volume
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.geometry import same_grid

NAMES = ("patient_1", "patient_2")


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "oblique"])
def test_dicom_series_folders(tmp_path, orientation):
    case, landmark = asymmetric_case(orientation)
    for name in NAMES[:2]:
        write_dicom(tmp_path / name / "T1", case)
    dataset = find_dataset(tmp_path)
    assert [files.name for files in dataset.cases] == ["patient_1_T1", "patient_2_T1"]
    volume = read_volume(dataset.cases[0].images[0])
    assert np.linalg.norm(landmark_of(volume.array.astype(float), volume.affine) - landmark) < 0.6
    assert sorted(volume.array.shape) == sorted(case.image.shape[1:])
    if np.linalg.det(case.affine) * np.linalg.det(volume.affine) > 0:
        assert same_grid(volume.affine, volume.array.shape, case.affine, case.image.shape[1:])
    assert make_plan(check_dataset(dataset)).channels[0].integer


def test_two_dicom_series_in_one_folder_are_refused(tmp_path):
    case, _ = asymmetric_case("RAS")
    write_dicom(tmp_path / "scan", case)
    write_dicom(tmp_path / "other", case, series="1.2.826.0.1.3680043.2.1125.2")
    for path in (tmp_path / "other").iterdir():
        path.rename(tmp_path / "scan" / f"b{path.name}")
    with pytest.raises(InputError, match="2 DICOM series"):
        find_dataset(tmp_path)


def test_a_dicom_series_with_missing_slices_is_refused(tmp_path):
    case, _ = asymmetric_case("oblique")
    for name in NAMES[:2]:
        write_dicom(tmp_path / name, case)
    missing = next((tmp_path / NAMES[1]).glob("*_11"))
    missing.unlink()
    with pytest.raises(InputError, match=r"2\.6 mm apart, but 5\.2 mm between slice 11 and 12 of 25") as caught:
        check_dataset(find_dataset(tmp_path))
    assert NAMES[1] in str(caught.value)


def test_several_images_of_one_slice_are_refused(tmp_path):
    case, _ = asymmetric_case("RAS")
    flat = case.affine.copy()
    flat[:3, 2] *= 1e-6
    case.affine = flat
    with pytest.raises(InputError, match="several images of one slice"):
        write_dicom(tmp_path / "scan", case)
        read_volume(tmp_path / "scan")
