"""The plan: readable, editable, and right for the data and the device."""

from __future__ import annotations

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from GEDGANLib.errors import InputError
from GEDGANLib.planning.choosing import TOLERANCE, make_plan
from GEDGANLib.planning.grids import LARGEST_VOXELS
from GEDGANLib.planning.plan import Plan
from GEDGANLib.synthesis.output import original_grid, share_beyond
from GEDGANLib.volumes.case import Label
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.fingerprint import CaseFacts, Fingerprint, check_dataset
from GEDGANLib.volumes.pipeline import load_working_cases


def facts(
    shape=(40, 48, 40), spacing=(3.0, 3.0, 3.0), percentiles=(0.0, 900.0), minimum=0.0, kind="int16", reach=(0, 0, 0)
) -> CaseFacts:
    return CaseFacts(
        name="case",
        shape=shape,
        spacing=spacing,
        directions=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
        centre=(0.0, -10.0, 20.0),
        percentiles=(percentiles,),
        minima=(minimum,),
        kind=kind,
        labelled=True,
        label_reach=reach,
    )


def fingerprint(*cases: CaseFacts, channel: str = "T1") -> Fingerprint:
    labels = (Label(1, 1, "a", (1.0, 0.0, 0.0)), Label(2, 5, "b", (0.0, 1.0, 0.0), "terminology"))
    return Fingerprint(cases or (facts(),) * 3, labels, (channel,), "scans", ())


def test_a_plan_is_the_same_after_saving_and_loading(tmp_path):
    plan = make_plan(fingerprint())
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_an_edit_counts(tmp_path):
    path = tmp_path / "plan.json"
    make_plan(fingerprint()).save(path)
    values = json.loads(path.read_text())
    values["training"]["batch"] = 3
    values["networks"]["generator_widths"] = [24, 16, 8]
    path.write_text(json.dumps(values))
    plan = Plan.load(path)
    assert plan.training.batch == 3 and plan.networks.generator_widths == (24, 16, 8)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda plan: plan["grid"].update(shape=[40, 47, 40]), "multiple of"),
        (lambda plan: plan["networks"].update(generator_widths=[8, 8]), "equally many"),
        (lambda plan: plan["training"].update(batch=0), "above 0"),
        (lambda plan: plan["training"].update(bach=4), "bach"),
        (lambda plan: plan.pop("grid"), "grid"),
        (lambda plan: plan.update(format_version=99), "newer GED-GAN"),
        (lambda plan: plan["grid"].update(spacing=[1, 1]), "for each of 2 or 3 axes"),
        (lambda plan: plan["grid"].update(origin=[0, 0]), "for each of 2 or 3 axes"),
        (lambda plan: plan["grid"].update(shape=[16.5, 16, 16]), "grid.shape is 16.5 and must be a whole number"),
        (lambda plan: plan["grid"].update(directions=[[1, 0, 0]] * 3), "direction cosines"),
        (lambda plan: plan["channels"][0].update(mapping="percentile"), "Choose percentiles, foreground, window"),
        (lambda plan: plan["channels"][0].update(typical=[5]), "two typical intensities"),
        (lambda plan: plan["training"].update(batch=2.5), "training.batch is 2.5 and must be a whole number"),
        (lambda plan: plan["training"].update(learning_rate="fast"), "'fast' and must be a number"),
        (lambda plan: plan["training"].update(precision="int8"), "training.precision is 'int8'"),
        (lambda plan: plan["training"].update(beta2=1.5), "from 0 to below 1"),
        (lambda plan: plan["training"].update(ema_share=-1), "must not be below 0"),
        (lambda plan: plan["field"].update(rho=-1), "field.rho is -1"),
        (lambda plan: plan["field"].update(stage=9), "field.stage is 9"),
        (lambda plan: plan["networks"].update(latent_size=0), "networks.latent_size is 0"),
        (
            lambda plan: plan["networks"].update(generator_widths=[0] * len(plan["networks"]["generator_widths"])),
            "widths",
        ),
        (lambda plan: plan.update(labels=[{"index": 7, "value": 1, "name": "a", "color": [1, 0, 0]}]), "without a gap"),
    ],
)
def test_an_edit_that_cannot_be_is_refused(tmp_path, edit, words):
    path = tmp_path / "plan.json"
    make_plan(fingerprint()).save(path)
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=words) as caught:
        Plan.load(path)
    assert "plan.json" in str(caught.value)


def test_the_data_that_fit_keep_their_spacing():
    plan = make_plan(fingerprint())
    assert plan.grid.spacing == (3.0, 3.0, 3.0)
    assert all(side >= wanted for side, wanted in zip(plan.grid.shape, (40, 48, 40)))
    stride = 2 ** len(plan.networks.generator_widths)
    assert all(side % stride == 0 for side in plan.grid.shape)


def test_the_grid_holds_every_label():
    """One case reaches further than the median field of view."""
    small, large = facts(), facts(shape=(60, 70, 60), reach=(80.0, 100.0, 70.0))
    plan = make_plan(fingerprint(small, small, small, large))
    assert all(n * s >= 2 * r for n, s, r in zip(plan.grid.shape, plan.grid.spacing, (80.0, 100.0, 70.0)))


@pytest.mark.parametrize("device", ["cpu", "mps", "cuda"])
def test_large_scans_get_larger_voxels(device):
    plan = make_plan(fingerprint(*[facts(shape=(512, 512, 300), spacing=(0.7, 0.7, 1.0))] * 3), device)
    assert np.prod(plan.grid.shape) < TOLERANCE * LARGEST_VOXELS[device]
    assert any("instead of the data's" in reason for reason in plan.reasons)


def test_thick_slices_keep_their_resolution_within_the_slice_longest():
    plan = make_plan(fingerprint(*[facts(shape=(160, 160, 24), spacing=(1.2, 1.2, 6.0))] * 3))
    assert plan.grid.spacing[2] == 6.0
    assert plan.grid.spacing[0] == plan.grid.spacing[1] < 3.0


def test_spacing_and_grid_as_asked_for():
    plan = make_plan(fingerprint(), grid_shape=(30, 32, 30), spacing=(4.0, 4.0, 4.0))
    assert plan.grid.shape == (32, 32, 32) and plan.grid.spacing == (4.0, 4.0, 4.0)


@pytest.mark.parametrize(
    ("channel", "minimum", "mapping"), [("CT", 0.0, "window"), ("image", -1024.0, "window"), ("T1", 0.0, "foreground")]
)
def test_ct_gets_one_window_for_all(channel, minimum, mapping):
    cases = [facts(percentiles=(-1000.0, 800.0 + 10 * i), minimum=minimum) for i in range(3)]
    plan = make_plan(fingerprint(*cases, channel=channel))
    assert plan.channels[0].mapping == mapping
    voxels = np.array([-1000.0, 0.0, 3000.0])
    if mapping == "window":
        assert plan.channels[0].range_of(voxels) == (-1000.0, 810.0)


def test_it_says_why():
    reasons = " ".join(make_plan(fingerprint()).reasons)
    for word in ("Spacing", "Grid", "Channel", "Networks of"):
        assert word in reasons


def test_prediction_grows_with_grid_and_batch():
    from dataclasses import replace

    from GEDGANLib.networks.cost import PROCESS_MEMORY, predict

    small = make_plan(fingerprint())
    large = replace(small, training=replace(small.training, batch=4 * small.training.batch))
    before = PROCESS_MEMORY["cuda"] / 1e9
    assert predict(large, "cuda")[0] - before > 1.5 * (predict(small, "cuda")[0] - before)
    assert predict(large, "cuda")[1] == pytest.approx(4 * predict(small, "cuda")[1])


def test_each_channel_has_a_mapping_of_its_own():
    """PET beside CT is not CT."""
    from dataclasses import replace

    case = replace(facts(), percentiles=((-1000.0, 900.0), (0.0, 20.0)), minima=(-1024.0, 0.0))
    plan = make_plan(replace(fingerprint(case, case), channel_names=("channel 0", "channel 1")))
    assert [channel.mapping for channel in plan.channels] == ["window", "foreground"]
    assert plan.channels[0].name == "CT"  # which nnU-Net knows to treat as absolute


def test_labels_beyond_the_grid_that_was_asked_for_are_told():
    cases = [facts(reach=(50.0, 60.0, 50.0))] * 3
    assert not any("cut off" in reason for reason in make_plan(fingerprint(*cases)).reasons)
    assert any("cut off" in reason for reason in make_plan(fingerprint(*cases), grid_shape=(16, 16, 16)).reasons)


def test_spacings_are_not_rounded():
    """Or voxels would be interpolated that could be copied."""
    plan = make_plan(fingerprint(*[facts(spacing=(0.48828125, 0.48828125, 3.3333333))] * 3))
    assert plan.grid.spacing == (0.48828125, 0.48828125, 3.3333333)


def test_what_is_too_large_to_be_trained_whole_is_trained_on_parts():
    plan = make_plan(fingerprint(*[facts(shape=(256, 256, 240), spacing=(0.8, 0.8, 0.8))] * 3), "cuda")
    assert plan.training.volume == "parts" and plan.training.part == (64, 64, 64)
    assert plan.grid.spacing == (0.8, 0.8, 0.8)
    assert any("Trained on parts" in reason for reason in plan.reasons)
    thick = make_plan(fingerprint(*[facts(shape=(320, 320, 30), spacing=(0.7, 0.7, 5.0))] * 3), "cuda")
    assert thick.grid.spacing == (0.7, 0.7, 5.0)
    small = make_plan(fingerprint(), "cpu")
    assert small.training.volume == "whole" and small.training.part == ()
    asked = make_plan(fingerprint(), "cpu", grid_shape=(128, 128, 128), spacing=(1.0, 1.0, 1.0))
    assert asked.training.volume == "parts"


def test_thick_slices_are_left_alone_until_the_slice_is_as_coarse():
    plan = make_plan(fingerprint(*[facts(shape=(256, 256, 20), spacing=(0.8, 0.8, 5.0))] * 3), "cuda")
    assert plan.grid.shape == (256, 256, 20) and plan.grid.spacing == (0.8, 0.8, 5.0)
    assert plan.networks.strides[0] == plan.networks.strides[1] == (2, 2, 1)
    assert plan.networks.strides[2][2] == 2  # 3.2 mm within the slice: nearly as coarse as the slices are thick
    assert plan.field_stride == (2, 2, 1)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict())), "plan.json") == plan


def test_a_plan_of_thick_slices_trains():
    from GEDGANLib.training.trainer import Trainer
    from GEDGANLib.volumes.pipeline import WorkingCase

    plan = make_plan(fingerprint(*[facts(shape=(32, 32, 8), spacing=(1.0, 1.0, 5.0))] * 3), "cpu")
    assert plan.networks.strides and plan.training.volume == "whole"
    random = np.random.default_rng(0)
    shape = plan.grid.shape
    cases = [
        WorkingCase(
            f"{i}",
            random.uniform(-1, 1, (1, *shape)).astype(np.float32),
            random.integers(0, 2, shape).astype(np.uint8) if plan.labels else None,
            np.eye(4),
            np.eye(4),
            shape,
        )
        for i in range(3)
    ]
    trainer = Trainer(plan, cases, "cpu", 0)
    assert all(trainer.step().sound() for _ in range(2)) and trainer.critic() is not None


def test_few_labelled_cases_fill_half_of_each_batch():
    from dataclasses import replace

    case = facts()
    few = [replace(case, name=f"{i}", labelled=i < 3) for i in range(20)]
    plan = make_plan(fingerprint(*few))
    assert plan.training.labelled_share == 0.5 and any("3 labelled cases" in reason for reason in plan.reasons)
    for count in (0, 12, 20):
        other = [replace(case, name=f"{i}", labelled=i < count) for i in range(20)]
        assert make_plan(fingerprint(*other)).training.labelled_share == 0.0


@pytest.mark.parametrize("channel", ["CT", "image"])
def test_numbers_of_ct_that_1024_may_have_been_added_to_are_told(channel):
    usual = [replace(facts(minimum=-1000.0, percentiles=(-1000.0, 900.0)), name=f"a{number}") for number in range(5)]
    other = replace(facts(minimum=0.0, percentiles=(0.0, 1924.0)), name="shifted")
    said = [reason for reason in make_plan(fingerprint(*usual, other, channel=channel)).reasons if "1024" in reason]
    assert len(said) == 1 and "1 case(s) have nothing below 0, shifted, where 5 have air" in said[0]
    few = [replace(case, name=f"b{number}", minima=(0.0,)) for number, case in enumerate(usual[:4])]
    said = [reason for reason in make_plan(fingerprint(*few, usual[0], channel="CT")).reasons if "1024" in reason]
    assert len(said) == 1 and "1 case(s) have air below 0, a0, where 4 have none" in said[0]
    for cases in (usual, few, [*usual, replace(other, minima=(-120.0,))]):  # nothing to be said
        assert not any("1024" in reason for reason in make_plan(fingerprint(*cases, channel="CT")).reasons)


def test_a_grid_leaves_out_what_is_empty_in_every_scan(tmp_path, random):
    """Padding, and air with a scanner's noise, about a ball that is not in the middle; one is larger than others."""
    places = np.indices((64, 48, 48)).astype(float)
    for number in range(4):
        centre = np.array([31.5 + number, 23.5, 23.5]).reshape(3, 1, 1, 1)
        ball = np.linalg.norm(places - centre, axis=0) < (12 if number == 2 else 9)
        air = np.abs(random.normal(0, 2, ball.shape)) if number % 2 else 0
        image = np.where(ball, 100 + random.normal(0, 8, ball.shape), air)
        nibabel.save(
            nibabel.Nifti1Image(image.astype(np.int16), np.diag([2.0, 2, 2, 1])), tmp_path / f"c{number}.nii.gz"
        )
    found = check_dataset(find_dataset(tmp_path))
    # 12 voxels about 33.5, the middle being 31.5.
    np.testing.assert_allclose(np.max([case.content_reach for case in found.cases], axis=0), [28, 24, 24], atol=2.1)
    plan = make_plan(found)
    said = next(reason for reason in plan.reasons if "is empty in every scan" in reason)
    assert "87% of the median field of view, 128 x 96 x 96 mm" in said
    assert plan.grid.shape == (32, 28, 28)
    for working, files in zip(load_working_cases(find_dataset(tmp_path), plan), range(4)):
        given = np.asarray(nibabel.load(tmp_path / f"c{files}.nii.gz").dataobj)
        assert np.count_nonzero(working.image > 0) == pytest.approx(np.count_nonzero(given > 50), rel=0.02)
    asked = make_plan(found, grid_shape=(64, 48, 48))
    assert asked.grid.shape == (64, 48, 48) and not any("is not learned" in reason for reason in asked.reasons)
    small = make_plan(found, grid_shape=(16, 24, 24))  # 32 mm of a ball of 36 and more
    assert any("the grid reaches 32 x 48 x 48 mm about their middle" in reason for reason in small.reasons)
    assert share_beyond(small, original_grid(small)) == pytest.approx(1 - 16 * 24 * 24 / (64 * 48 * 48))
    assert share_beyond(asked, original_grid(asked)) == share_beyond(plan, original_grid(plan)) == 0
