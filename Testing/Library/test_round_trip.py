"""A landmark stays where it is: through every orientation, every format, the working grid and back."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from landmark import ORIENTATIONS, asymmetric_case, landmark_of

from GEDGANLib.planning.choosing import make_plan
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import LPS_TO_RAS, read_volume, write_volume
from GEDGANLib.volumes.fingerprint import check_dataset
from GEDGANLib.volumes.geometry import directions_of, resample, spacing_of, to_closest_ras
from GEDGANLib.volumes.pipeline import from_working, load_working_cases, map_intensities, to_working, unmap_intensities

WRITTEN = (".nii", ".nii.gz", ".nrrd", ".mha")
READ_ONLY = (".nhdr", ".mhd", ".seg.nrrd")
FORMATS = (*WRITTEN, *READ_ONLY)


def write(path, array, affine):
    """As the library writes, or as other programs do what it only reads; ``.seg.nrrd`` is for labels alone."""
    lps = LPS_TO_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if path.name.endswith(".mhd"):
        import SimpleITK

        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
        image.SetSpacing(spacing.tolist())
        image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
        image.SetOrigin(lps[:3, 3].tolist())
        SimpleITK.WriteImage(image, str(path))
    elif path.name.endswith((".nhdr", ".seg.nrrd")):
        import nrrd

        header = {
            "space": "left-posterior-superior",
            "space directions": lps[:3, :3].T,
            "space origin": lps[:3, 3],
            "kinds": ["domain"] * 3,
        }
        if path.name.endswith(".seg.nrrd"):
            header |= {
                "Segment0_ID": "ball",
                "Segment0_Name": "ball",
                "Segment0_LabelValue": "1",
                "Segment0_Layer": "0",
            }
        nrrd.write(str(path), array, header, index_order="F")
    else:
        write_volume(path, array, affine)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_formats_keep_voxels_and_geometry(tmp_path, orientation, suffix):
    case, _ = asymmetric_case(orientation)
    path = tmp_path / f"scan{suffix}"
    array = case.labels if suffix == ".seg.nrrd" else case.image[0]
    write(path, array, case.affine)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, case.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_landmark_through_files_and_working_grid(tmp_path, orientation, suffix):
    case, landmark = asymmetric_case(orientation)
    for folder, array in (("images", case.image[0]), ("labels", case.labels)):
        (tmp_path / folder).mkdir()
        ending = ".nrrd" if suffix == ".seg.nrrd" and folder == "images" else suffix
        for name in ("a", "b"):
            write(tmp_path / folder / f"{name}{ending}", array, case.affine)
    dataset = find_dataset(tmp_path)
    plan = make_plan(check_dataset(dataset), "cpu", spacing=(1.7, 2.1, 2.9))
    half_voxel = np.linalg.norm(plan.grid.spacing) / 2
    for working in load_working_cases(dataset, plan):
        assert tuple(working.image.shape[1:]) == tuple(plan.grid.shape)
        assert nibabel.aff2axcodes(working.affine) == ("R", "A", "S")
        np.testing.assert_allclose(spacing_of(working.affine), plan.grid.spacing)
        assert np.linalg.norm(landmark_of(working.image[0], working.affine) - landmark) < half_voxel
        assert np.linalg.norm(landmark_of(working.labels, working.affine) - landmark) < half_voxel
        back = from_working(working, plan)
        np.testing.assert_allclose(back.affine, case.affine, atol=1e-4)
        assert back.image.shape == case.image.shape
        assert np.linalg.norm(landmark_of(back.image[0], back.affine) - landmark) < half_voxel
        assert np.linalg.norm(landmark_of(back.labels, back.affine) - landmark) < half_voxel
        outside = (back.labels != case.labels).mean()
        assert outside < 0.02


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_same_spacing_copies_voxels(orientation):
    """Where the plan has the scan's spacing nothing is interpolated: the way there and back changes no label."""
    case, _ = asymmetric_case(orientation)
    ras, affine = to_closest_ras(case.image, case.affine)
    plan = plan_like(case, shape=[side + (-side) % 8 + 8 for side in ras.shape[1:]], spacing=spacing_of(affine))
    working = to_working(case, plan)
    back = from_working(working, plan)
    np.testing.assert_array_equal(back.labels, case.labels)
    ranges = [channel.range_of(voxels) for channel, voxels in zip(plan.channels, case.image)]
    expected = unmap_intensities(map_intensities(case.image, ranges), [c.typical for c in plan.channels])
    np.testing.assert_allclose(back.image, expected, atol=1e-3)


def plan_like(case, shape, spacing):
    """A plan for data like ``case`` with a grid given."""
    import dataclasses

    from GEDGANLib.planning.plan import Channel, Field, Grid, Networks, Plan, Prediction, Training

    low, high = np.percentile(case.image[0], (0.5, 99.5))
    grid = Grid(tuple(shape), tuple(spacing), tuple(map(tuple, np.eye(3))), (0.0, 0.0, 0.0))
    return Plan(
        grid=grid,
        channels=(Channel("image", "percentiles", (float(low), float(high)), False),),
        labels=case.label_table,
        networks=Networks((8, 8, 8), (8, 8, 8), 1, 8),
        field=Field(1.0, 2.0),
        training=Training(2, 1e-3, 0.9, 1.0, 1.0, 0.05, "float32", "whole"),
        prediction=Prediction("cpu", 0.0, 0.0),
        description=dataclasses.asdict(case)["description"],
    )


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_synthesized_cases_lie_where_the_plan_says(tmp_path, orientation):
    """Directions, spacing and origin of the plan are those of the data, oblique ones included."""
    case, _ = asymmetric_case(orientation)
    for name in ("a", "b", "c"):
        write_volume(tmp_path / f"{name}.nii.gz", case.image[0], case.affine)
    plan = make_plan(check_dataset(find_dataset(tmp_path)), "cpu")
    _, ras = to_closest_ras(case.image, case.affine)
    np.testing.assert_allclose(directions_of(plan.grid.affine), directions_of(ras), atol=1e-5)
    middle = (plan.grid.affine @ [*(np.array(plan.grid.shape) - 1) / 2, 1])[:3]
    centre = (case.affine @ [*(np.array(case.image.shape[1:]) - 1) / 2, 1])[:3]
    np.testing.assert_allclose(middle, centre, atol=1e-3)


def test_nifti_without_orientation_lies_where_slicer_puts_it(tmp_path):
    import SimpleITK

    path = tmp_path / "bare.nii.gz"
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), None)
    image.header.set_zooms((2, 3, 4))
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(image, path)
    reference = SimpleITK.ReadImage(str(path))
    lps = np.array(reference.TransformIndexToPhysicalPoint((2, 1, 3)))
    np.testing.assert_allclose((read_volume(path).affine @ [2, 1, 3, 1])[:3], lps * [-1, -1, 1])


def test_same_file_bytes_every_time(tmp_path):
    case, _ = asymmetric_case("RAS")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_volume(tmp_path / name / "scan.nii.gz", case.image[0], case.affine, "text")
    assert (tmp_path / "a" / "scan.nii.gz").read_bytes() == (tmp_path / "b" / "scan.nii.gz").read_bytes()


def test_outside_of_the_view_is_the_edge_for_images_and_nothing_for_labels():
    array = np.ones((1, 6, 6, 6))
    affine = np.eye(4)
    larger = affine.copy()
    larger[:3, 3] = -2
    for shift in (0.0, 0.25):  # copied, and interpolated
        larger[:3, 3] = -2 + shift
        border = resample(array, affine, larger, (10, 10, 10))
        zeros = resample(array, affine, larger, (10, 10, 10), outside="zeros")
        assert border.min() == 1
        assert zeros[0, 0, 0, 0] == 0 and zeros[0, 5, 5, 5] == 1
        assert zeros.sum() < border.sum() / 3
