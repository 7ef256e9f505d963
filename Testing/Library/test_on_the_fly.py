"""Variations in somebody's own training loop: known by name and place, whatever became of the voxels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose, LoadImaged, Orientationd, SpatialPadd

from GEDGANLib.errors import InputError
from GEDGANLib.exchange.monai_transform import RandVariationd
from GEDGANLib.exchange.preprocessed import affine_of, class_locations
from GEDGANLib.synthesis.on_the_fly import OnTheFly, affine_change
from GEDGANLib.volumes.cohort import make_case
from GEDGANLib.volumes.dataset import find_dataset

SHAPE, BOX = (16, 24, 16), 9.0


@pytest.fixture(scope="module")
def data(aligned_folder):
    return aligned_folder


@pytest.fixture(scope="module")
def run(aligned_run):
    return aligned_run


@pytest.fixture(scope="module")
def files(data):
    return [
        {"image": str(case.images[0]), "label": str(case.label)}
        for case in find_dataset(data).cases
        if case.label is not None
    ]


KEYS = ("image", "label")
LOADED = LoadImaged(KEYS, ensure_channel_first=True)


def test_monai_varies_image_and_label_alike_and_the_same_with_the_same_seed(run, files):
    varied = RandVariationd(KEYS, run, strength=(0.5, 1.0), look=0.0)
    before = LOADED(files[0])
    first, again, other = (varied.set_random_state(seed)(before) for seed in (1, 1, 2))
    assert torch.equal(first["image"], again["image"]) and not torch.equal(first["image"], other["image"])
    assert isinstance(first["image"], MetaTensor) and torch.equal(first["image"].affine, before["image"].affine)
    assert first["image"].shape == before["image"].shape and first["label"].dtype == before["label"].dtype
    assert set(first["label"].unique().tolist()) <= set(before["label"].unique().tolist())
    assert not torch.equal(first["label"], before["label"])
    tissue = first["image"][first["label"] > 0]
    assert float((tissue > 0).float().mean()) > 0.97
    still = RandVariationd(KEYS, run, strength=0.0, look=0.0)(before)
    assert torch.equal(still["image"], before["image"]) and torch.equal(still["label"], before["label"])
    never = RandVariationd(KEYS, run, prob=0.0)(before)
    assert never["image"] is before["image"]


def test_the_place_counts_and_not_the_order_of_the_voxels_or_how_they_were_cut(run, files):
    """Turned to another orientation, and with a margin: the same anatomy in the same place."""
    varied = RandVariationd(KEYS, run, look=0.0, order=5)
    plain = varied.set_random_state(3)(LOADED(files[1]))["image"]
    turned = Compose([LOADED, Orientationd(KEYS, axcodes="PIR", labels=None), SpatialPadd(KEYS, (30, 22, 21))])
    other = varied.set_random_state(3)(turned(files[1]))
    back = Orientationd("image", axcodes="RAS", labels=None)(other)["image"]
    offset = np.linalg.inv(back.affine.numpy()) @ plain.affine.numpy()
    np.testing.assert_allclose(offset[:3, :3], np.eye(3), atol=1e-6)
    first = np.round(offset[:3, 3]).astype(int)
    cut = back[(slice(None), *(slice(start, start + side) for start, side in zip(first, SHAPE)))]
    inner = (slice(None), *[slice(2, -2)] * 3)
    assert float((cut[inner] - plain[inner]).abs().mean()) < 0.02 * float(plain.max())


def test_workers_draw_what_a_seed_says(run, files):
    transform = Compose([LOADED, RandVariationd(KEYS, run)])
    transform.set_random_state(0)
    batches = [batch["image"] for batch in DataLoader(Dataset(files[:4], transform), batch_size=2, num_workers=1)]
    assert torch.cat(batches).shape == (4, 1, *SHAPE)


def test_an_affine_change_is_composed_and_interpolated_once(run, data):
    draw = OnTheFly(run, strength=0.0, look=0.0, turn=20.0, scale=0.1, order=5)
    case = make_case(0, 0, SHAPE, BOX)
    name = find_dataset(data).cases[0].name
    made, labels = draw(name, case.image, case.labels, case.affine, np.random.default_rng(1))
    assert not np.array_equal(made, case.image) and labels.shape == SHAPE
    assert not np.array_equal(labels, case.labels) and (made[0][labels > 0] > 0).mean() > 0.97
    matrix = affine_change(SHAPE, case.affine, 20.0, 0.1, np.array([1.0, 0, 0, 0]))
    middle = (np.array(SHAPE) - 1) / 2
    np.testing.assert_allclose(matrix[:, :3] @ middle + matrix[:, 3], middle)
    turned = matrix[:, :3] @ [0, 1, 0]
    np.testing.assert_allclose(turned, [0, np.cos(np.radians(20)), np.sin(np.radians(20))], atol=1e-9)


def test_modes_leave_out_who_is_validated_on_and_unknown_scans_are_named(run, data, tmp_path):
    names = [case.name for case in find_dataset(data).cases]
    draw = OnTheFly(run, left_out=names[:2])
    case = make_case(3, 0, SHAPE, BOX)
    whole = OnTheFly(run)
    count = {each: each.variations.population(each.left_out).modes.count for each in (draw, whole)}
    assert count[draw] < count[whole]
    draw(names[3], case.image, None, case.affine, np.random.default_rng(0))
    with pytest.raises(InputError, match="knows no case nobody"):
        draw("nobody", case.image, None, case.affine, np.random.default_rng(0))
    with pytest.raises(InputError, match="holds no alignment"):
        OnTheFly(tmp_path)


def test_preprocessed_voxels_lie_where_they_lay():
    """Of a scan of 4 x 6 x 8 voxels (x, y, z): transposed to (y, z, x), cropped, every voxel made two."""
    properties = {
        "sitk_stuff": {"spacing": (1.0, 2.0, 3.0), "origin": (10.0, 20.0, 30.0), "direction": tuple(np.eye(3).ravel())},
        "bbox_used_for_cropping": [[1, 5], [2, 8], [0, 4]],
        "shape_after_cropping_and_before_resampling": (4, 6, 4),
    }
    affine = affine_of(properties, (1, 0, 2), (4, 6, 8))  # axes of z, y, x
    # The first voxel: y 1, z 2, and the first half of x 0.
    np.testing.assert_allclose(affine @ [0, 0, 0, 1], [-(10 - 0.25), -(20 + 2), 30 + 6, 1])
    np.testing.assert_allclose(affine @ [1, 2, 3, 1], [-(10 + 1.25), -(20 + 4), 30 + 12, 1])
    with pytest.raises(ValueError, match="where it lies"):
        affine_of({"spacing": (1, 1, 1)}, (0, 1, 2), (4, 6, 8))
    labels = np.zeros((4, 5, 6), np.int8)
    labels[1, 2, 3], labels[3, 4, 5] = 1, 2
    found = class_locations(labels, {1: None, (1, 2): None, 3: None}, np.random.default_rng(0))
    assert found[1].tolist() == [[0, 1, 2, 3]] and len(found[(1, 2)]) == 2 and found[3].shape == (0, 4)
