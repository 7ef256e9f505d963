"""What variations are worth for a segmentation, told on the user's own labelled cases: right, and not by chance."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from GEDGANLib.commands.main import main
from GEDGANLib.quality.worth import (
    FEWEST_UPDATES,
    HARMS,
    HELPS,
    NOTHING,
    Effort,
    Worth,
    interval,
    measure_worth,
)
from GEDGANLib.segmentation.examples import Example
from GEDGANLib.segmentation.learner import Recipe
from GEDGANLib.synthesis.model_file import read_report

SHAPE = (16, 16, 16)
SMALL = Recipe(SHAPE, 25, widths=(4, 4, 4))


def ball(seed: int, bright: float | None = None) -> Example:
    """A ball in noise with its mask.

    :param bright: of the ball, in [-1, 1]; whatever comes when not given."""
    random = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*[np.arange(side) for side in SHAPE], indexing="ij"), -1)
    inside = np.linalg.norm(index - random.uniform(5, 10, 3), axis=-1) < random.uniform(3, 5)
    level = 0.6 if bright is None else bright
    image = np.where(inside, level, -0.6 if bright is None else 0.0) + 0.3 * random.standard_normal(SHAPE)
    return Example(torch.from_numpy(image[None]).float(), torch.from_numpy(inside.astype(np.uint8)))


def worth(low: float, high: float) -> Worth:
    dice = {"classical augmentation": 0.5, "strong augmentation": 0.6, "with variations": 0.62}
    return Worth(dice, "strong augmentation", 0.02, low, high, 8, Effort(5, 3, 300))


def test_the_verdict_goes_by_the_interval_and_is_a_sentence() -> None:
    assert worth(0.01, 0.03).verdict == HELPS and worth(-0.01, 0.05).verdict == NOTHING
    assert worth(-0.05, -0.01).verdict == HARMS
    assert "helps: +2.0 points of Dice (+1.0 to +3.0), 0.620 with variations" in worth(0.01, 0.03).words
    assert "(" not in worth(-math.inf, math.inf).words.split("points of Dice")[1].split(",")[0]


def test_the_interval_is_that_of_the_corrected_t_test() -> None:
    """By hand: three folds, mean 2, variance 1; t of 2 degrees is 4.3027."""
    low, high = interval(np.array([1.0, 2.0, 3.0]), 0.5)
    reach = 4.302653 * math.sqrt(1 / 3 + 0.5)
    assert low == pytest.approx(2 - reach, rel=1e-4) and high == pytest.approx(2 + reach, rel=1e-4)
    assert interval(np.array([1.0]), 0.5) == (-math.inf, math.inf)


def test_the_time_that_is_given_is_kept() -> None:
    assert Effort(3, 3).networks == 27 and Effort().networks == 45
    assert Effort.within(15, 10, 0.02, 2000) == Effort(5, 3, 1000)
    assert Effort.within(1000, 3, 0.02, 2000) == Effort(3, 3, 2000)
    assert Effort.within(1.6, 10, 0.02, 2000) == Effort(5, 2, 160)  # fewer seeds, and then fewer folds
    assert Effort.within(0.9, 10, 0.02, 2000) == Effort(3, 2, 150)
    assert Effort.within(0.01, 10, 1.0, 2000) == Effort(3, 1, FEWEST_UPDATES)


def test_variations_with_wrong_labels_harm_and_never_show_the_tested_cases() -> None:
    nothing = [replace(ball(number), labels=torch.zeros(SHAPE, dtype=torch.uint8)) for number in range(3)]
    seen: list[tuple[int, frozenset[int]]] = []

    def vary(index: int, without: frozenset[int]) -> list[Example]:
        seen.append((index, without))
        return nothing

    wrong = measure_worth([ball(number) for number in range(3)], vary, 1, SMALL)
    assert wrong.difference < -0.05 and wrong.verdict in (HARMS, NOTHING), wrong.words
    assert all(index not in without and len(without) == 1 for index, without in seen) and len(seen) == 6
    with pytest.raises(ValueError, match="too few"):
        measure_worth([ball(0), ball(1)], vary, 1, SMALL)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_exact_copies_are_hardly_ever_said_to_help() -> None:
    found = Counter(
        measure_worth(examples, lambda index, _without, of=examples: [of[index]] * 4, 1, SMALL, seed=seed).verdict
        for seed, examples in ((seed, [ball(1000 * seed + number) for number in range(4)]) for seed in range(20))
    )
    assert found[HELPS] <= 2, found


def test_a_report_begins_with_what_variations_are_worth(aligned_run, aligned_folder, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(aligned_run, run)
    model = run / "model.safetensors"
    arguments = ["--data", str(aligned_folder), "-n", "4", "--updates", "2", "--minutes", "0.01", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("GEDGANLib.quality.worth.FEWEST_UPDATES", 2)
        patch.setattr("GEDGANLib.segmentation.plan.VARIATIONS", 8)
        assert main(["evaluate", str(model), *arguments, "-o", str(tmp_path / "report")]) == 0
    said = capsys.readouterr().out
    assert "small trainings of 2 updates" in said and "Worth for a segmentation of your data: " in said
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["summary"][0].startswith("Worth for a segmentation") and "8 labelled cases" in report["summary"][0]
    assert next(iter(report["figures"])) == "worth" and report["figures"]["worth"]["folds"] == 3
    assert "Worth" in (tmp_path / "report" / "report.html").read_text()
    assert read_report(model)["summary"][0] == report["summary"][0]


def test_with_one_or_two_labelled_cases_it_is_said_that_they_cannot_tell(
    aligned_run, aligned_folder, tmp_path, capsys
) -> None:
    folder, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(aligned_folder, folder)
    shutil.copytree(aligned_run, run)
    for path in sorted((folder / "labelsTr").iterdir())[2:]:
        path.unlink()
    arguments = ["--data", str(folder), "-n", "4", "--updates", "2", "--device", "cpu"]
    status = main(["evaluate", str(run / "model.safetensors"), *arguments, "-o", str(tmp_path / "report")])
    assert status == 0
    said = capsys.readouterr().out
    assert "2 labelled case(s) cannot tell; from 3 on they can" in said and "On public scans" in said
