"""The embedded cohort: distinct, reproducible, labelled, small, and called what it is."""

from __future__ import annotations

import runpy
from pathlib import Path

import nibabel
import numpy as np
import pytest

from GEDGANLib.volumes.cohort import TEMPLATE, make_case

ROOT = Path(__file__).parents[2]


def test_the_same_arguments_make_the_same_case():
    first, again = make_case(3, seed=5), make_case(3, seed=5)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels, again.labels)


def test_a_case_does_not_depend_on_the_ones_before():
    later = make_case(7)
    for index in range(3):
        make_case(index)
    np.testing.assert_array_equal(make_case(7).image, later.image)


def test_cases_differ_in_shape_and_intensity():
    cases = [make_case(index) for index in range(8)]
    volumes = [float((case.labels > 0).sum()) for case in cases]
    assert len({case.image.tobytes() for case in cases}) == 8
    assert np.std(volumes) / np.mean(volumes) > 0.03
    overlaps = [
        2 * ((a.labels > 0) & (b.labels > 0)).sum() / ((a.labels > 0).sum() + (b.labels > 0).sum())
        for i, a in enumerate(cases)
        for b in cases[:i]
    ]
    assert 0.6 < np.mean(overlaps) < 0.95
    assert max(overlaps) < 0.985


@pytest.mark.parametrize(("shape", "spacing"), [((24, 30, 26), 7.0), ((48, 48, 48), 4.0), ((64, 72, 60), 2.5)])
def test_labels_fit_the_image(shape, spacing):
    """White matter is brighter than grey matter, and both than what is outside, on every grid."""
    case = make_case(1, shape=shape, spacing=spacing)
    assert case.image.shape == (1, *shape) and case.labels.shape == shape
    image = case.image[0]
    outside, grey, white = (float(np.median(image[case.labels == value])) for value in range(3))
    assert outside < 0.3 * grey < 0.3 * white
    assert image.min() >= 0 and image.max() <= 1300
    assert 900_000 < (case.labels > 0).sum() * spacing**3 < 2_200_000  # mm³, the range of adult brains


def test_it_says_what_it_is():
    case = make_case(0)
    assert "one average brain" in case.description and "not a person" in case.description


def test_the_template_is_small_and_its_notice_is_beside_it():
    assert TEMPLATE.stat().st_size <= 1_000_000
    notice = (TEMPLATE.parent / "NOTICE.txt").read_text(encoding="utf-8")
    assert "ICBM" in notice and "McConnell Brain Imaging Centre" in notice


@pytest.mark.slow
def test_the_template_is_what_its_tool_makes():
    """``make_template.py`` makes the file in the package from nilearn's, so that anybody can check where it is from."""
    fresh = runpy.run_path(str(ROOT / "Testing" / "Tools" / "make_template.py"))["make_template"]()
    ours = nibabel.load(TEMPLATE)
    np.testing.assert_array_equal(ours.affine, fresh.affine)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(fresh.dataobj))


def test_the_template_is_read_alike_without_nibabel(monkeypatch):
    """3D Slicer has SimpleITK and no nibabel: its sample data need nothing installed."""
    import sys

    from GEDGANLib.volumes.cohort import _read_template

    voxels, affine = _read_template()
    monkeypatch.setitem(sys.modules, "nibabel", None)
    other_voxels, other_affine = _read_template()
    np.testing.assert_array_equal(voxels, other_voxels)
    np.testing.assert_allclose(affine, other_affine)
