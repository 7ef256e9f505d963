"""Directions do what their names say; a projection finds back what the model made; an anomaly stands out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import nrrd
import numpy as np
import pytest

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.synthesis.anomaly import MAPS, SMOOTHED, Healthy, averaged
from GEDGANLib.synthesis.directions import choose, directions_of, directions_path, find_directions
from GEDGANLib.synthesis.explorer import Explorer, interpolate, near, on_arc
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.projection import Projector, on_grid_of
from GEDGANLib.synthesis.synthesizer import Synthesizer, latent_of
from GEDGANLib.volumes.measures import measure


@pytest.fixture(scope="module")
def model(trained_model):
    return load_model(trained_model, with_critic=True)


@pytest.fixture(scope="module")
def directions(model):
    return find_directions(model, samples=150)


@pytest.fixture(scope="module")
def projector(model):
    return Projector(model, candidates=24)


def test_measured_directions_move_what_they_are_named_after(model, directions):
    measured = [direction for direction in directions if direction.kind == "measured"]
    assert measured
    synthesizer = Synthesizer(model)
    size = model.plan.networks.latent_size
    for direction in measured:
        rises = 0
        for index in range(5):  # cases that the direction was not found on
            explorer = Explorer(synthesizer, directions, latent_of(99, index, size))
            values = [measure(explorer.case({direction.name: value})).named()[direction.name] for value in (-2, 0, 2)]
            rises += values[0] < values[2]
        assert rises >= 4, direction.name


def test_unsupervised_directions_have_length_one_differ_and_say_what_goes_with_them(directions):
    found = [direction for direction in directions if direction.kind in ("maps", "features")]
    assert {direction.kind for direction in found} == {"maps", "features"}
    vectors = np.array([direction.latent for direction in found])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    cosines = np.abs(vectors @ vectors.T) - np.eye(len(vectors))
    assert cosines.max() <= 0.9 + 1e-9
    assert len({direction.name for direction in directions}) == len(directions)
    assert all(direction.meaning for direction in directions)


def test_the_first_pattern_changes_the_first_maps_more_than_random_directions(model, directions):
    import torch

    pattern = next(direction for direction in directions if direction.kind == "maps")
    size = model.plan.networks.latent_size
    random = np.random.default_rng(0).standard_normal((20, size))
    random /= np.linalg.norm(random, axis=1, keepdims=True)

    def change(vector: np.ndarray) -> float:
        with torch.no_grad():
            zero, moved = (
                model.generator.pattern(torch.tensor(z, dtype=torch.float32)[None]) for z in (0 * vector, vector)
            )
        return float((moved - zero).square().sum())

    assert change(np.array(pattern.latent)) > max(change(vector) for vector in random)


def test_directions_are_kept_beside_the_very_model(model, trained_model):
    path = directions_path(trained_model)
    path.unlink(missing_ok=True)
    first = directions_of(model)
    content = json.loads(path.read_text())
    assert directions_of(model) == first
    content["directions"] = []
    path.write_text(json.dumps(content))
    assert directions_of(model) == []  # read, not found anew
    path.write_text(json.dumps({**content, "model_digest": "another"}))
    assert directions_of(model) == first
    path.unlink()


def test_a_direction_is_chosen_by_a_part_of_its_name(directions):
    named = next(direction for direction in directions if direction.kind == "measured")  # which one depends on the CPU
    assert choose(directions, named.name[:-2]) == named
    with pytest.raises(InputError, match="more than one direction 'pattern'"):
        choose(directions, "pattern")
    with pytest.raises(InputError, match=r"no direction 'age'"):
        choose(directions, "age")


def test_interpolation_goes_from_one_case_to_the_other_on_an_arc(model):
    size = model.plan.networks.latent_size
    first, last = latent_of(0, 0, size), latent_of(0, 1, size)
    synthesizer = Synthesizer(model)
    made = list(interpolate(synthesizer, first, last, 5))
    np.testing.assert_allclose(made[0].image, synthesizer.case(first, "a").image, atol=1e-3)
    np.testing.assert_allclose(made[-1].image, synthesizer.case(last, "b").image, atol=1e-3)
    lengths = [np.linalg.norm(on_arc(first, last, share)) for share in np.linspace(0, 1, 9)]
    assert min(lengths) > 0.9 * min(lengths[0], lengths[-1])
    np.testing.assert_allclose(on_arc(first, first, 0.4), first, atol=1e-6)


def test_more_like_this_is_as_near_as_asked_for():
    latent = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    np.testing.assert_array_equal(near(latent, 0.0, 0, 0), latent)
    correlations = [float(np.corrcoef(latent, near(latent, share, 0, 0))[0, 1]) for share in (0.3, 0.8, 1.0)]
    np.testing.assert_allclose(correlations, [np.sqrt(1 - 0.09), 0.6, 0.0], atol=0.04)


def test_projection_finds_what_the_model_made_itself(model, projector):
    synthesizer = Synthesizer(model)
    case = synthesizer.draw(77, 3)[0]
    found = projector.project(replace(case, labels=None), steps=80)
    random = [synthesizer.draw(78, i)[1][0] for i in range(8)]
    target = found.working.image[0]
    nearest_random = min(float(np.abs(image - target).mean()) for image in random)
    assert float(np.abs(found.residual).mean()) < 0.6 * nearest_random
    assert found.explained > 0.8
    assert found.labels.shape == target.shape
    assert (found.labels == case.labels).mean() > 0.9


def test_a_lesion_stands_out_of_the_anomaly_map(model, projector):
    synthesizer = Synthesizer(model)
    found = [projector.project(synthesizer.draw(5, i)[0], steps=25) for i in range(6)]
    healthy = Healthy.of([each.working.image for each in found], [each.made for each in found])
    case = synthesizer.draw(5, 20)[0]
    lesion = np.zeros(case.image.shape[1:], bool)
    lesion[6:9, 10:13, 6:9] = True
    sick = replace(case, image=np.where(lesion, case.image.max(), case.image).astype(np.float32), labels=None)
    found = projector.project(sick, steps=25)
    anomaly = on_grid_of(healthy.anomaly(found.working.image, found.made), found)
    assert anomaly.shape == case.image.shape[1:]
    assert anomaly[lesion].mean() > np.quantile(anomaly[~lesion], 0.95)
    with pytest.raises(InputError, match="2 healthy cases are too few"):
        Healthy.of([found.made] * 2, [found.made] * 2)


def test_what_is_unexplained_is_the_residual_where_the_model_tells_all_and_the_z_score_where_nothing():
    random = np.random.default_rng(0)
    usual, own = random.standard_normal((2, 200, 2, 6, 6, 6)).astype(np.float32)
    usual[:, 1] *= 3  # a channel that varies more
    new, known = np.ones((2, 2, 6, 6, 6), np.float32)
    blank = Healthy.of(usual, np.zeros_like(usual))
    assert not blank.slope.any()
    z = averaged(new - usual.mean(0), SMOOTHED) / np.array([1, 3]).reshape(2, 1, 1, 1)
    noise = float(averaged(usual[:, 0], SMOOTHED).std())
    np.testing.assert_allclose(blank.anomaly(new, 0 * new), np.sqrt((z**2).mean(0)) / noise, rtol=0.25)
    told = Healthy.of(usual + 0.1 * own, usual)
    assert told.slope.min() > 0.9
    assert told.anomaly(known, known).max() < 1.5 < told.anomaly(known + 1, known).min()
    alone = Healthy.of(usual[:, :1], np.zeros_like(usual[:, :1]))
    np.testing.assert_allclose(alone.deviation, blank.deviation[:1])


def test_what_is_usual_is_kept_with_the_model_it_belongs_to(tmp_path):
    healthy = Healthy.of(*np.random.default_rng(0).standard_normal((2, 6, 1, 8, 8, 8)).astype(np.float32))
    path = tmp_path / "healthy.safetensors"
    healthy.save(path, "digest")
    again = Healthy.load(path, "digest")
    for name in MAPS:
        np.testing.assert_array_equal(getattr(again, name), getattr(healthy, name))
    assert again.cases == 6
    with pytest.raises(InputError, match="another model"):
        Healthy.load(path, "other")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="does not say what healthy"):
        Healthy.load(path, "digest")


def test_the_commands_write_series_projection_and_anomaly(trained_model, trained_folder, tmp_path, capsys):
    assert main(["directions", str(trained_model)]) == 0
    assert "volume of white matter" in " ".join(capsys.readouterr().out.split())
    series = tmp_path / "series"
    command = ["vary", str(trained_model), "--direction", "volume of white", "--frames", "3", "-o", str(series)]
    assert main([*command, "--from", "-2", "--to", "2", "--seed", "1"]) == 0
    assert len(list((series / "imagesTr").iterdir())) == 3 and (series / "contact-sheet.png").exists()
    origins = json.loads((series / "provenance.json").read_text())
    assert origins["002"]["directions"] == {"volume of white matter": 2.0}
    scan = sorted((trained_folder / "imagesTr").iterdir())[-1]
    out = tmp_path / "projection"
    few = tmp_path / "healthy"
    few.mkdir()
    for path in sorted((trained_folder / "imagesTr").iterdir())[-7:]:  # new to the model, and the scan itself
        shutil.copy(path, few)
    command = ["project", str(trained_model), str(scan), "-o", str(out), "--steps", "5", "--more", "2"]
    assert main([*command, "--healthy", str(few)]) == 0
    assert "What is usual in 6 healthy cases" in capsys.readouterr().out  # all but the scan itself
    assert set(np.unique(nrrd.read(str(out / "nearest-segmentation.nrrd"))[0])) <= {0, 1, 2}
    anomaly, about = nrrd.read(str(out / "anomaly.nrrd"))
    # Only what the model made is no patient.
    assert "not a patient" in nrrd.read_header(str(out / "nearest.nrrd"))["content"]
    for header in (about, nrrd.read_header(str(out / "residual.nrrd"))):
        assert "made from a real scan" in header["content"] and "not a patient" not in header["content"]
    assert np.isfinite(anomaly).all() and anomaly.std() > 0
    assert len(list((out / "more" / "imagesTr").iterdir())) == 2
    kept = out / "healthy.safetensors"
    command = ["project", str(trained_model), str(scan), "--steps", "5", "--healthy", str(kept)]
    assert main([*command, "-o", str(tmp_path / "again")]) == 0
    assert "Warning" not in capsys.readouterr().err
    other = ["project", str(trained_model), str(next(few.iterdir())), "--steps", "2", "--healthy", str(kept)]
    assert main([*other, "-o", str(tmp_path / "other")]) == 0
    assert "is one of the healthy cases" in capsys.readouterr().err
    np.testing.assert_allclose(nrrd.read(str(tmp_path / "again" / "anomaly.nrrd"))[0], anomaly, atol=1e-3)


def test_a_scan_of_another_kind_is_told(trained_model, trained_folder, tmp_path, capsys):
    import nibabel

    scan = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).integers(0, 900, (16, 24, 16)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), scan)
    for command in (["project", str(trained_model), str(scan), "--steps", "1"], ["explain", str(scan)]):
        more = ["--model", str(trained_model)] if command[0] == "explain" else []
        assert main([*command, *more, "-o", str(tmp_path / command[0])]) == 0
        said = capsys.readouterr()
        assert "reaches 32 x 48 x 32 mm, the model's scans about 144 x 216 x 144 mm" in " ".join(said.err.split())
        assert "-" not in said.out.partition("explains")[2].partition("%")[0]
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for path in [*sorted((trained_folder / "imagesTr").iterdir())[-6:], scan]:
        shutil.copy(path, mixed)
    own = sorted((trained_folder / "imagesTr").iterdir())[-1]
    command = ["project", str(trained_model), str(own), "--steps", "1", "--healthy", str(mixed)]
    assert main([*command, "-o", str(tmp_path / "of-mixed")]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("is it a scan of their kind?") == 1 and "scan reaches 32 x 48 x 32 mm" in said
    nibabel.save(nibabel.Nifti1Image((voxels > 450).astype(np.int16), np.diag([9.0, 9.0, 9.0, 1.0])), scan)
    assert main(["explain", str(scan), "-o", str(tmp_path / "labels")]) == 0
    assert "looks like a segmentation" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_used_for_healthy_is_said_before_the_search(trained_model, trained_folder, tmp_path, capsys):
    scan = sorted((trained_folder / "imagesTr").iterdir())[-1]
    command = ["project", str(trained_model), str(scan), "-o", str(tmp_path / "out"), "--healthy"]
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((trained_folder / "imagesTr").iterdir())[:3]:
        shutil.copy(path, few)
    assert main([*command, str(few)]) == 2 and "holds 3 healthy cases" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "nothing")]) == 2
    assert not (tmp_path / "out").exists()


def test_the_nearest_case_is_in_the_units_of_the_volume(trained_model, trained_folder, tmp_path):
    """Also of a scan whose intensities have another scale than those of the training."""
    import nibabel

    scan = nibabel.load(sorted((trained_folder / "imagesTr").iterdir())[0])
    other = tmp_path / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.asarray(scan.dataobj, np.float32) * 7 + 100, scan.affine), other)
    assert main(["project", str(trained_model), str(other), "-o", str(tmp_path / "out"), "--steps", "20"]) == 0
    voxels = nibabel.load(other).get_fdata()
    nearest, residual = (nrrd.read(str(tmp_path / "out" / f"{name}.nrrd"))[0] for name in ("nearest", "residual"))
    assert abs(nearest.mean() - voxels.mean()) < 0.2 * voxels.std()
    np.testing.assert_allclose(nearest + residual, np.clip(voxels, nearest.min() - 1e3, None), atol=0.3 * voxels.std())
