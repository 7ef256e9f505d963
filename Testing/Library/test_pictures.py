"""Contact sheets: planes the way radiologists look at them, labels outlined in their colours."""

from __future__ import annotations

import numpy as np
import pytest
from landmark import ORIENTATIONS
from matplotlib.image import imread

from GEDGANLib.volumes.case import Case, Label
from GEDGANLib.volumes.pictures import contact_sheet


def panels(path) -> list[np.ndarray]:
    """Axial, coronal and sagittal panel of a sheet with one case, RGB, without title and foot."""
    picture = imread(path)[..., :3]
    rows = picture[int(0.09 * len(picture)) : int(0.95 * len(picture))]
    return np.array_split(rows, 3)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_right_and_front_are_on_the_left_and_the_head_is_up(tmp_path, orientation):
    side = 30
    affine = np.eye(4)
    affine[:3, :3] = ORIENTATIONS[orientation] * 3.0
    index = np.stack(np.meshgrid(*[np.arange(side) - (side - 1) / 2] * 3, indexing="ij"), -1)
    world = index @ affine[:3, :3].T
    bright = (np.linalg.norm(world - [20, 20, 20], axis=-1) < 35).astype(np.float32)  # right, front, up
    path = tmp_path / "sheet.png"
    contact_sheet(path, [("case", [Case("case", bright[None], None, affine)])])
    for panel, (left, up) in zip(panels(path), [(True, True), (True, True), (True, True)]):
        light = panel.min(2) > 0.9
        rows, columns = np.argwhere(light).mean(0) / light.shape
        middle = 0.5 + 0.5 * 0.5 / 2.2  # the panels begin right of the names of the planes
        assert (columns < middle) == left
        assert (rows < 0.5) == up


def test_labels_are_outlined_in_their_colours(tmp_path):
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[8:16, 8:16, 8:16] = 1
    table = (Label(1, 1, "cube", (0.0, 1.0, 0.0)),)
    image = np.random.default_rng(0).random((1, 24, 24, 24)).astype(np.float32)
    for name, shown in (("with", labels), ("without", None)):
        contact_sheet(tmp_path / f"{name}.png", [("case", [Case("case", image, shown, np.eye(4) * 3, table)])])
    green = {name: imread(tmp_path / f"{name}.png")[..., :3] for name in ("with", "without")}
    count = {name: int(((p[..., 1] > 0.8) & (p[..., 0] < 0.3) & (p[..., 2] < 0.3)).sum()) for name, p in green.items()}
    assert count["with"] > 100 and count["without"] == 0
