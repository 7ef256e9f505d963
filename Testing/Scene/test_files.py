"""Scenes on disk: saved, loaded again and compared voxel for voxel; pictures; the command line."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
import slicer
from landmark import ORIENTATIONS, asymmetric_case, landmark_of

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.networks.build import build_generator
from GEDGANLib.scene.headless import headless_application, load_scene, save_scene
from GEDGANLib.scene.nodes import add_cases
from GEDGANLib.scene.read import case_from_scene
from GEDGANLib.scene.render import GAP, SIZE, _compose
from GEDGANLib.synthesis.model_file import save_model
from GEDGANLib.volumes.cohort import make_case


def nodes_of(scene, class_name: str) -> list:
    collection = scene.GetNodesByClass(class_name)
    return [collection.GetItemAsObject(i) for i in range(collection.GetNumberOfItems())]


def cases_in(scene) -> list:
    return [
        case_from_scene([volume], segmentation)
        for volume, segmentation in zip(
            nodes_of(scene, "vtkMRMLScalarVolumeNode"), nodes_of(scene, "vtkMRMLSegmentationNode")
        )
    ]


def test_a_saved_scene_is_the_same_voxel_for_voxel(tmp_path):
    cases = [make_case(i, shape=(20, 24, 20), spacing=8.0) for i in range(3)]
    path = tmp_path / "batch.mrb"
    with headless_application() as application:
        add_cases(cases, "batch")
        save_scene(application, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["batch.mrb"]
    with headless_application() as application:
        load_scene(application, path)
        back = cases_in(application.scene)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(application.scene)
        folder = hierarchy.GetItemByName("batch")
        children = []
        hierarchy.GetItemChildren(folder, children)
        assert len(children) == 6
        descriptions = [node.GetDescription() for node in nodes_of(application.scene, "vtkMRMLScalarVolumeNode")]
        assert all("not a person" in text for text in descriptions)
    assert len(back) == 3
    for case, loaded in zip(cases, back):
        assert loaded.name == case.name
        np.testing.assert_array_equal(loaded.image, case.image)
        np.testing.assert_array_equal(loaded.labels, case.labels)
        np.testing.assert_allclose(loaded.affine, case.affine, atol=1e-6)
        assert [label.name for label in loaded.label_table] == ["grey matter", "white matter"]
        np.testing.assert_allclose(loaded.label_table[0].color, case.label_table[0].color, atol=1e-5)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_landmark_through_a_saved_scene(tmp_path, orientation):
    case, landmark = asymmetric_case(orientation)
    with headless_application() as application:
        add_cases([case], "one")
        save_scene(application, tmp_path / "scene.mrb")
    with headless_application() as application:
        load_scene(application, tmp_path / "scene.mrb")
        back = cases_in(application.scene)[0]
    half_voxel = 0.5 * np.linalg.norm([1.2, 1.5, 2.6])
    assert np.linalg.norm(landmark_of(back.image[0], back.affine) - landmark) < half_voxel
    assert np.linalg.norm(landmark_of(back.labels, back.affine) - landmark) < half_voxel


def test_a_scene_that_is_none(tmp_path):
    wrong = tmp_path / "wrong.mrb"
    wrong.write_text("no scene")
    with headless_application() as application:
        for path, words in ((wrong, "not a scene"), (tmp_path / "none.mrb", "There is no scene")):
            with pytest.raises(InputError, match=words):
                load_scene(application, path)


def test_saving_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with headless_application() as application:
        add_cases([make_case(0, shape=(16, 16, 16), spacing=9.0)], "one")
        with pytest.raises(InputError):
            save_scene(application, tmp_path / "file" / "scene.mrb")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture(scope="module")
def scene_path(tmp_path_factory, small_plan):
    """What ``gedgan synthesize --scene`` writes, with a generator that was not trained."""
    folder = tmp_path_factory.mktemp("scene")
    save_model(folder / "model.safetensors", build_generator(small_plan), small_plan, {})
    arguments = [str(folder / "model.safetensors"), "-n", "2", "-o", str(folder / "out")]
    assert main(["synthesize", *arguments, "--scene", str(folder / "out" / "scene.mrb")]) == 0
    return folder / "out" / "scene.mrb"


def test_synthesize_writes_a_scene_with_what_is_on_disk(scene_path):
    import nibabel

    with headless_application() as application:
        load_scene(application, scene_path)
        cases = cases_in(application.scene)
        nodes = nodes_of(application.scene, "vtkMRMLScalarVolumeNode")
        assert all("Synthetic" in node.GetDescription() for node in nodes)
    assert [case.name for case in cases] == ["synthetic_0_0000", "synthetic_0_0001"]
    for case in cases:
        image = nibabel.load(scene_path.parent / "imagesTr" / f"{case.name}_0000.nii.gz")
        np.testing.assert_allclose(case.image[0], np.asarray(image.dataobj), atol=0.5)
        np.testing.assert_allclose(case.affine, image.affine, atol=1e-4)
        label = nibabel.load(scene_path.parent / "labelsTr" / f"{case.name}.nii.gz")
        np.testing.assert_array_equal(case.labels, np.asarray(label.dataobj))


@pytest.mark.slow
def test_rendered_picture_shows_the_brain_where_it_is(tmp_path, capfd, monkeypatch):
    """Slicer's own views: right of the patient on the left, front at the top, the labels' colours over the voxels."""
    case = make_case(0, shape=(40, 48, 40), spacing=4.0)
    # Only the right, front, upper part is left, so that a mirrored view would show it elsewhere.
    right_front_upper = np.zeros(case.labels.shape, bool)
    right_front_upper[20:, 24:, 20:] = True
    case.image[0][~right_front_upper] = 0
    # The planes go through the middle of the labels: hold it near the middle of the volume, yet off the origin.
    case.labels[:] = 0
    case.labels[20:26, 24:30, 20:26] = 1
    case.affine[:3, 3] += (150, 80, -60)
    with headless_application() as application:
        add_cases([case], "one")
        save_scene(application, tmp_path / "scene.mrb")
    monkeypatch.setattr("GEDGANLib.scene.render.SIZE", 210)  # software paints half the pixels in a quarter of the time
    picture = tmp_path / "scene.png"
    assert main(["render", str(tmp_path / "scene.mrb"), "-o", str(picture)]) == 0
    assert "warn" not in capfd.readouterr().err.lower()
    pixels = matplotlib.image.imread(picture)[..., :3].mean(-1)
    top = round(pixels.shape[0] * 0.035)
    height, width = (pixels.shape[0] - top) // 2, pixels.shape[1] // 2
    quarter = {
        "axial": pixels[top : top + height, :width],
        "3D": pixels[top : top + height, width:],
        "coronal": pixels[top + height :, :width],
        "sagittal": pixels[top + height :, width:],  # the patient looks to the left
    }
    for name in ("axial", "coronal", "sagittal"):
        view = quarter[name][40:]  # below its caption
        middle_row, middle_column = view.shape[0] // 2 - 20, view.shape[1] // 2
        upper_left = view[:middle_row, :middle_column].mean()
        assert upper_left > 4 * view[middle_row:, middle_column:].mean(), name
        assert upper_left > 0.05
    assert quarter["3D"][40:].std() > 0.05


@pytest.mark.parametrize("widest", [200.0, 24.0, 2.0])
def test_a_pixel_of_a_view_is_a_pixel_of_the_picture(tmp_path, random, widest):
    """A picture that is a little smaller than its views lacks whole rows of them, and outlines that lie in these."""
    views = [random.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(4)]
    _compose(views, tmp_path / "picture.png", "title " * 60, widest, [])
    picture = np.round(255 * matplotlib.image.imread(tmp_path / "picture.png")[..., :3]).astype(np.uint8)
    top, far = picture.shape[0] - 2 * SIZE - GAP, SIZE + GAP
    for view, (row, column) in zip(views, ((0, 0), (far, 0), (far, far), (0, far))):
        found = picture[top + row : top + row + SIZE, column : column + SIZE]
        assert (found == view).all(-1).mean() > 0.98  # names and letters lie over the rest


def test_render_says_what_is_missing(tmp_path, capsys):
    assert main(["render", str(tmp_path / "none.mrb"), "-o", str(tmp_path / "scene.png")]) == 2
    assert "There is no scene" in capsys.readouterr().err
