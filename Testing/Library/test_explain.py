"""Explanations: colours that mean directions in the patient, weights that sum to 1, a map that is the critic's."""

from __future__ import annotations

from dataclasses import replace

import nibabel
import nrrd
import numpy as np
import pytest
import torch
from landmark import ORIENTATIONS
from scipy import ndimage

from GEDGANLib.commands.main import main
from GEDGANLib.errors import InputError
from GEDGANLib.structure.shape import ShapeField
from GEDGANLib.synthesis.explain import structure_maps, unlikeness_map
from GEDGANLib.synthesis.model_file import load_model, save_model
from GEDGANLib.training.request import Limit, claim_run_folder
from GEDGANLib.training.run import train
from GEDGANLib.training.trainer import Trainer
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.files import read_volume


def test_the_discriminator_falls_apart_into_places(small_plan, small_cases):
    trainer = Trainer(small_plan, small_cases, "cpu", 0)
    for weight in trainer.discriminator.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    batch = trainer.loader.read(torch.arange(3))
    inputs, labelled = trainer.view.seen(trainer.view.real(batch)), batch.labelled
    realness = trainer.discriminator.realness(*inputs, labelled=labelled)
    logits = trainer.discriminator(*inputs, labelled=labelled)
    torch.testing.assert_close(realness.flatten(1).sum(1) + trainer.discriminator.logit.bias, logits)


@pytest.mark.parametrize(("kind", "weight"), [("sheet", 0), ("tube", 1), ("ball", 2)])
def test_weights_name_the_shape(kind, weight):
    axis = torch.arange(25, dtype=torch.float32) - 12
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    radius = {"sheet": x.abs(), "tube": (x**2 + y**2).sqrt(), "ball": (x**2 + y**2 + z**2).sqrt()}[kind]
    image = torch.sigmoid(4 - radius)[None, None]
    maps = ShapeField(spacing=(1.0,) * 3, sigma=1.0, rho=4.0, tau=1.0)(image)[0, :, 12, 12, 12]
    assert maps[weight] > 0.95
    torch.testing.assert_close(maps[:3].sum(), torch.tensor(1.0))
    direction = {"sheet": maps[4:7], "tube": maps[7:10]}.get(kind)
    if direction is not None:
        assert direction.abs().argmax() == {"sheet": 0, "tube": 2}[kind] and direction.abs().max() > 0.999


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_colours_mean_directions_in_the_patient(orientation):
    """A surface that faces front is green, however the scan was turned."""
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * (1.0, 1.2, 1.5)
    index = np.stack(np.meshgrid(*[np.arange(24) - 11.5] * 3, indexing="ij"), -1)
    front = (index @ affine[:3, :3].T)[..., 1]
    maps = structure_maps(1 / (1 + np.exp(-front)), affine, sigma=1.5, rho=2.0)
    red, green, blue = maps.surface_direction[12, 12, 12].astype(int)
    assert green > 200 and max(red, blue) < 25


def test_empty_air_is_nothing():
    maps = structure_maps(np.zeros((12, 12, 12)), np.eye(4))
    assert maps.energy.max() == 0 and maps.surface_direction.max() == 0
    np.testing.assert_array_equal(maps.spherical, 1)


@pytest.fixture(scope="module")
def model(small_plan, small_cases, tmp_path_factory):
    run = tmp_path_factory.mktemp("explained") / "run"
    claim_run_folder(run, False)
    train(small_plan, small_cases, run, Limit(steps=25), "cpu", 0, lambda event, **fields: None, save_model)
    return run / "model.safetensors"


def test_the_critic_travels_in_the_model_file(model):
    assert load_model(model).critic is None
    critic = load_model(model, with_critic=True).critic
    assert critic.tau > 0 and float(critic.deviation.min()) > 0
    assert critic.mean.shape == critic.deviation.shape == critic.discriminator.basis.shape[2:]


def test_training_cases_are_like_themselves_and_noise_is_not(model, small_cases, small_plan):
    loaded = load_model(model, with_critic=True)

    def map_of(image):
        return unlikeness_map(loaded, Case("case", image, None, small_cases[0].affine))

    real = np.stack([map_of(case.image) for case in small_cases])
    assert real.shape[1:] == small_plan.grid.shape
    assert abs(real.mean()) < 0.3  # counted from their own mean
    random = np.random.default_rng(0)
    spoilt = map_of(np.clip(small_cases[0].image + random.standard_normal(small_cases[0].image.shape), -1, 1))
    assert np.abs(spoilt).mean() > 1.5 * np.abs(real).mean()


def test_a_model_without_a_critic_and_other_channels_are_refused(model, small_cases):
    case = Case("case", small_cases[0].image, None, small_cases[0].affine)
    with pytest.raises(InputError, match="no discriminator"):
        unlikeness_map(load_model(model), case)
    two = replace(case, image=np.concatenate([case.image, case.image]))
    with pytest.raises(InputError, match="takes 1"):
        unlikeness_map(load_model(model, with_critic=True), two)


def test_the_command_writes_maps_on_the_grid_of_the_volume(model, tmp_path, random):
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS["oblique LPS"] * (7.0, 8.0, 9.0)
    affine[:3, 3] = (10, -20, 30)
    image = ndimage.gaussian_filter(random.standard_normal((20, 22, 18)), 2).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "scan.nii.gz")
    out = tmp_path / "out"
    assert main(["explain", str(tmp_path / "scan.nii.gz"), "-o", str(out), "--model", str(model)]) == 0
    for name in ("linear", "planar", "spherical", "energy", "unlike-real"):
        volume = read_volume(out / f"{name}.nrrd")
        assert volume.array.shape == image.shape and np.isfinite(volume.array).all()
        np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    total = sum(read_volume(out / f"{name}.nrrd").array for name in ("linear", "planar", "spherical"))
    np.testing.assert_allclose(total, 1, atol=1e-5)
    for name in ("surface-direction", "tube-direction"):
        colours, header = nrrd.read(str(out / f"{name}.nrrd"), index_order="F")
        assert colours.shape == (3, *image.shape) and colours.dtype == np.uint8
        assert list(header["kinds"]) == ["RGB-color", "domain", "domain", "domain"]
    assert (out / "explanation.png").stat().st_size > 1000


def test_colours_and_complex_numbers_are_refused(tmp_path, capsys):
    colours = np.zeros((9, 9, 9), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "colours.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((9, 9, 9), np.complex64) * 1j, np.eye(4)), tmp_path / "complex.nii")
    for name in ("colours.nii", "complex.nii"):
        assert main(["explain", str(tmp_path / name), "-o", str(tmp_path / "out")]) == 2
        assert "does not hold numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
