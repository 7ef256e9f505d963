"""Scans that are deformed to an edit of their segmentation: where it is reached, what stays, and what is refused."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from GEDGANLib.alignment.editing import Edit, pieces_holes_and_cavities, signed_distance, topology_changed
from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.steps import through
from GEDGANLib.synthesis.simulated import simulating
from GEDGANLib.volumes.case import Case, Label
from GEDGANLib.volumes.files import read_volume
from GEDGANLib.volumes.segmentation_file import write_segmentation

SHAPE = (26, 28, 26)
TABLE = (Label(1, 1, "core", (1, 0, 0)), Label(2, 2, "shell", (0, 1, 0)), Label(3, 3, "far", (0, 0, 1)))


def ball(radius: float, centre=(12, 13, 12), shape=SHAPE, spacing=(1.0, 1.0, 1.0)) -> np.ndarray:
    away = [(index - middle) * step for index, middle, step in zip(np.indices(shape), centre, spacing)]
    return sum(each**2 for each in away) <= radius**2


def scan(labels: np.ndarray, spacing=(1.0, 1.0, 1.0), kind: str = "int16") -> Case:
    """A scan whose brightness tells its segments, and a little noise."""
    random = np.random.default_rng(0)
    image = 100.0 + 200 * labels + random.integers(-9, 10, labels.shape)
    return Case(
        "scan", image[None].astype(np.float32), labels.astype(np.uint8), np.diag([*spacing, 1.0]), TABLE, kind=kind
    )


def edited(case: Case, labels: np.ndarray) -> Case:
    return Case(case.name, case.image, labels.astype(np.uint8), case.affine, case.label_table, kind=case.kind)


@pytest.fixture(scope="module")
def grown():
    """A ball that was drawn larger, beside one that was left as it is."""
    before = np.where(ball(5), 1, 0) + np.where(ball(3, (12, 13, 22)), 3, 0)
    after = np.where(ball(6.6), 1, 0)
    after[ball(3, (12, 13, 22))] = 3
    case = scan(before)
    return case, after, through(simulating(case, edited(case, after), reach=8.0))


def test_the_image_comes_to_what_was_drawn(grown):
    _case, after, found = grown
    (reached,) = found.deformation.reached
    assert reached.dice >= 0.98 and abs(reached.volume) <= 0.02 and reached.followed >= 0.8 and not found.missed
    assert found.deformation.smallest_jacobian >= 0.2
    assert np.array_equal(found.case.labels, after) and found.case.labels.dtype == np.uint8
    image = found.case.image[0]
    assert abs(np.median(image[ball(6)]) - 300) < 8  # what was drawn looks like the segment now
    assert np.array_equal(image, image.round()) and "deformed to an edit" in found.case.description
    assert found.names == ("core",) and "Dice 0.9" in found.case.provenance["figures"][0]
    assert found.case.provenance["simulated_from"] == "scan"


def test_what_is_held_or_out_of_reach_stays_to_the_voxel(grown):
    from scipy import ndimage

    case, after, found = grown
    changed = case.image[0] != found.case.image[0]
    assert changed.any() and not changed[case.labels == 3].any()
    away = ndimage.distance_transform_edt(case.labels == after)
    assert not changed[away > 8].any()
    assert found.deformation.farthest < 8


def test_segments_that_may_move_along_keep_to_their_image():
    before = np.where(ball(4), 1, 0) + np.where(ball(3, (12, 13, 20)), 3, 0)
    after = np.where(ball(4.9), 1, before)
    case = scan(before)
    found = through(simulating(case, edited(case, after), ["far"]))
    moved = found.case.labels == 3
    assert np.array_equal(found.case.labels == 1, after == 1)
    assert moved.any() and not np.array_equal(moved, before == 3)
    assert np.median(found.case.image[0][moved]) > 600  # 700 is what it looks like
    with pytest.raises(InputError, match="core is no segment that was left"):
        through(simulating(case, edited(case, after), ["core"]))


def test_thick_slices_and_plain_images_are_deformed_too():
    spacing, shape = (1.0, 1.0, 3.0), (24, 24, 10)
    before = ball(5, (11, 12, 4), shape, spacing).astype(np.uint8)
    after = ball(6.2, (11.5, 12, 4), shape, spacing).astype(np.uint8)
    case = scan(before, spacing)
    found = through(simulating(case, edited(case, after)))
    assert not found.missed and found.deformation.smallest_jacobian >= 0.2
    disc, larger = (ball(radius, (12, 13), (26, 28), (1.0, 1.0)).astype(np.uint8) for radius in (5, 6.5))
    flat = through(Edit(disc, larger, (1.0, 1.0)).solving())
    assert flat.enough and flat.displacement.shape[0] == 2


def test_what_cannot_be_reached_is_told_with_figures():
    middle, shape = (8, 8, 8), (17, 17, 17)
    before = np.where(ball(1.8, middle, shape), 1, 0)
    after = np.where(ball(6, middle, shape), 1, 0)  # some thirty times the volume
    case = scan(before)
    found = through(simulating(case, edited(case, after), reach=4.0))
    assert found.missed == ["core"] and found.deformation.smallest_jacobian >= 0.2
    assert np.array_equal(found.case.labels, after)
    assert found.deformation.reached[0].dice < 0.98 and found.case.provenance["missed"] == ["core"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda labels: np.where(ball(2, (12, 13, 22)), 2, labels), "shell is in the edited segmentation and was not"),
        (lambda labels: np.where(labels == 1, 0, labels), "core is gone"),
        (lambda labels: np.where(ball(2, (3, 4, 3)), 1, labels), "2 piece.s. after the edit, and of 1 before"),
        (lambda labels: np.where(ball(2), 0, labels), "encloses 1 cavity"),
        (lambda labels: np.where(tunnel(), 0, labels), "1 hole.s. through it after the edit, and 0 before"),
        (lambda labels: labels, "the same as before"),
    ],
)
def test_what_no_deformation_can_do_is_refused(change, words):
    before = np.where(ball(6), 1, 0)
    case = scan(before)
    with pytest.raises(InputError, match=words):
        through(simulating(case, edited(case, change(before))))


def test_what_is_held_stays_in_images_of_fractions_and_nonsense_is_refused(grown):
    case, after, _ = grown
    fractions = Case(case.name, case.image + 0.123, case.labels, case.affine, TABLE)
    found = through(simulating(fractions, edited(fractions, after), reach=8.0))
    changed = found.case.image[0] != fractions.image[0]
    assert changed.any() and not changed[case.labels == 3].any()
    with pytest.raises(InputError, match="leaves nothing to move"):
        through(simulating(case, edited(case, after), reach=0.0))
    twice = Case(case.name, case.image, case.labels, case.affine, (*TABLE[:2], Label(3, 3, "core", (0, 0, 1))))
    with pytest.raises(InputError, match="Two segments are called core"):
        through(simulating(twice, twice))
    slice_of = Case("slice", case.image[..., :1], case.labels[..., :1], case.affine, TABLE)
    with pytest.raises(InputError, match="one slice only"):
        through(simulating(slice_of, edited(slice_of, after[..., :1])))


def tunnel() -> np.ndarray:
    found = np.zeros(SHAPE, bool)
    found[10:15, 11:16] = True
    return found


def test_pieces_holes_and_cavities_are_counted():
    solid = ball(6)
    ring = solid & ~tunnel()
    hollow = solid & ~ball(3)
    assert pieces_holes_and_cavities(solid) == (1, 0, 0)
    assert pieces_holes_and_cavities(ring) == (1, 1, 0)
    assert pieces_holes_and_cavities(hollow) == (1, 0, 1)
    assert pieces_holes_and_cavities(solid | ball(2, (3, 4, 3))) == (2, 0, 0)
    assert pieces_holes_and_cavities(ring[:, :, 12]) == (1, 1, 0)
    rough = solid.copy()
    rough[12, 13, 18:20] = True  # a spine of voxels, and a pit
    assert topology_changed(solid, rough) is None and topology_changed(solid, np.roll(solid, 2, 0)) is None


def test_distances_are_in_millimetres_and_negative_inside():
    mask = np.zeros((9, 9, 9), bool)
    mask[3:6, 3:6, 3:6] = True
    distance = signed_distance(mask, (1.0, 2.0, 1.0))
    assert distance[4, 4, 4] == -2 and distance[4, 6, 4] == 2 and distance[4, 7, 4] == 4
    assert np.isneginf(signed_distance(np.ones((2, 2, 2), bool), (1, 1, 1))).all()


@pytest.fixture
def files(tmp_path):
    """A scan and its segmentation before and after an edit, as NIfTI."""
    before, after = np.where(ball(5), 1, 0), np.where(ball(6, (12, 13.5, 12)), 1, 0)
    case = scan(before)
    paths = [tmp_path / f"{name}.nii.gz" for name in ("scan", "before", "after")]
    arrays = (case.image[0].astype(np.int16), before.astype(np.uint8), after.astype(np.uint8))
    for path, array in zip(paths, arrays):
        nibabel.save(nibabel.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), path)
    return paths


def test_the_command_writes_scan_segmentation_figures_and_a_picture(files, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["simulate", *map(str, files), "-o", str(out), "--reach", "10", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "label 1: Dice 0.9" in said and "10 mm from the edit" in said
    image = nibabel.load(out / "images" / "scan_simulated.nii.gz")
    given = nibabel.load(files[0])
    assert image.get_data_dtype() == given.get_data_dtype() and np.array_equal(image.affine, given.affine)
    labels = nibabel.load(out / "labels" / "scan_simulated.nii.gz")
    assert np.array_equal(labels.dataobj, nibabel.load(files[2]).dataobj)
    told = json.loads((out / "provenance.json").read_text())["cases"]["scan_simulated"]
    assert told["reach_mm"] == 10 and told["missed"] == []
    assert (out / "simulated.png").stat().st_size > 10_000


def test_segments_of_slicer_keep_their_names(files, tmp_path, capsys):
    given = [read_volume(path) for path in files]
    for name, volume in zip(("before", "after"), given[1:]):
        case = Case(name, given[0].array[None], volume.array, volume.affine, TABLE[:1])
        write_segmentation(tmp_path, case, ".nrrd")
    edits = [str(tmp_path / f"{name}.seg.nrrd") for name in ("before", "after")]
    assert main(["simulate", str(files[0]), *edits, "-o", str(tmp_path / "out")]) == 0
    assert "core: Dice" in capsys.readouterr().out
    written = read_volume(tmp_path / "out" / "labels" / "scan_simulated.seg.nrrd")
    assert written.segments[0].name == "core" and np.array_equal(written.array, given[2].array)


def test_an_edit_without_names_is_matched_by_its_numbers(files, tmp_path, capsys):
    """Segments of Slicer before, a plain label map after; and an edit that lies outside the data set."""
    given = [read_volume(path) for path in files]
    case = Case("before", given[0].array[None], given[1].array, given[1].affine, TABLE[:1])
    write_segmentation(tmp_path, case, ".nrrd")
    before = tmp_path / "before.seg.nrrd"
    assert main(["simulate", str(files[0]), str(before), str(files[2]), "-o", str(tmp_path / "one")]) == 0
    assert "core: Dice" in capsys.readouterr().out
    data = tmp_path / "data"
    for folder, path in (("imagesTr", files[0]), ("labelsTr", files[1])):
        (data / folder).mkdir(parents=True)
        name = "x_0000.nii.gz" if folder == "imagesTr" else "x.nii.gz"
        (data / folder / name).write_bytes(path.read_bytes())
    about = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "core": 1}, "numTraining": 1}
    (data / "dataset.json").write_text(json.dumps(about | {"file_ending": ".nii.gz"}))
    scan_and_labels = [str(data / "imagesTr" / "x_0000.nii.gz"), str(data / "labelsTr" / "x.nii.gz")]
    assert main(["simulate", *scan_and_labels, str(files[2]), "-o", str(tmp_path / "two"), "--free"]) == 0
    assert "core: Dice" in capsys.readouterr().out


def test_what_cannot_be_simulated_is_said_and_leaves_nothing(files, tmp_path, capsys):
    shifted = nibabel.load(files[2])
    nibabel.save(nibabel.Nifti1Image(np.asarray(shifted.dataobj)[2:], shifted.affine), tmp_path / "cropped.nii.gz")
    for edit, options, words in (
        (files[1], (), "the same as before"),
        (tmp_path / "cropped.nii.gz", (), "different grids"),
        (files[2], ("--free", "nobody"), "nobody is no segment"),
        (tmp_path / "none.nii.gz", (), "does not exist"),
    ):
        arguments = ["simulate", *map(str, files[:2]), str(edit), "-o", str(tmp_path / "out"), *options]
        assert main(arguments) == 2
        assert words in " ".join(capsys.readouterr().err.split()) and not (tmp_path / "out").exists()
