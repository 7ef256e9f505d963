"""How well the anomaly map finds lesions put into real scans, beside the plain intensity z-score.

    python Testing/Benchmarks/anomaly.py --model MODEL --data TRAINING --new UNSEEN --radius 3 5

MODEL was trained on TRAINING; the cases of UNSEEN are new to it. Half of them say what is usual, into the other half
lesions are put: a ball of a random radius (mm), blurred at its rim, inside the segmented structures, half of the way to
a level 15 % of the intensity range brighter than the brightest, or darker than the darkest tenth of the labelled
voxels. Both maps score every voxel of the labelled region widened by 5 voxels; the figure is the area under the ROC
curve, lesion voxels against all others, mean and interval over cases (bootstrap). The z-score compares each voxel with
mean and deviation of TRAINING and the first half of UNSEEN at that place, averaged over Gaussians just as the anomaly
map is: as much data as the model had.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import machine, table
from scipy import ndimage, stats

from GEDGANLib.synthesis.anomaly import Healthy
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.projection import Projector
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.pipeline import WorkingCase, load_working_cases

STRENGTH = 0.5
WIDENED = 5


def with_lesion(case: WorkingCase, radius: float, spacing: np.ndarray, random: np.random.Generator):
    """The image with a lesion, where it is, and whether it is bright."""
    image = np.array(case.image[0])
    inside = np.argwhere(case.labels > 0)
    centre = inside[random.integers(len(inside))]
    places = np.indices(image.shape).transpose(1, 2, 3, 0)
    ball = np.linalg.norm((places - centre) * spacing, axis=-1) <= radius
    weight = ndimage.gaussian_filter(ball.astype(np.float32), 0.7)
    bright = bool(random.integers(2))
    level = np.quantile(image[case.labels > 0], 0.9 if bright else 0.1)
    level += 0.3 if bright else -0.3
    return np.clip(image + STRENGTH * weight * (level - image), -1, 1)[None].astype(np.float32), ball, bright


def area(scores: np.ndarray, lesion: np.ndarray) -> float:
    """Area under the ROC curve."""
    ranks = stats.rankdata(scores)
    positive = int(lesion.sum())
    return float((ranks[lesion].sum() - positive * (positive + 1) / 2) / (positive * (len(scores) - positive)))


def interval(values: list[float]) -> str:
    random = np.random.default_rng(0)
    means = [np.mean(random.choice(values, len(values))) for _ in range(2000)]
    return f"{np.mean(values):.3f} ({np.quantile(means, 0.025):.3f} to {np.quantile(means, 0.975):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="training cases")
    parser.add_argument("--new", type=Path, required=True, help="cases that are new to the model")
    parser.add_argument("--radius", type=float, nargs=2, required=True, metavar="MM", help="smallest and largest")
    parser.add_argument("--steps", type=int, default=60, help="of a projection (default: 60)")
    parser.add_argument("--most", type=int, default=40, help="new cases used (default: 40)")
    arguments = parser.parse_args()
    model = load_model(arguments.model, "cpu", with_critic=True)
    plan, spacing = model.plan, np.array(model.plan.grid.spacing)
    training = list(load_working_cases(find_dataset(arguments.data), plan))
    new = list(load_working_cases(find_dataset(arguments.new), plan))[: arguments.most]
    usual, tested = new[: len(new) // 2], new[len(new) // 2 :]
    start = time.perf_counter()
    projector = Projector(model)
    healthy = Healthy.of([c.image for c in usual], [projector.project_working(c, arguments.steps).made for c in usual])
    known = [case.image for case in [*training, *usual]]
    nothing = np.zeros_like(known[0])
    plain = Healthy.of(known, [nothing] * len(known))  # beside nothing its map is the z-score
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {"anomaly map": [], "intensity z-score": []}
    for case in tested:
        image, lesion, _ = with_lesion(case, float(random.uniform(*arguments.radius)), spacing, random)
        looked_at = ndimage.binary_dilation(case.labels > 0, iterations=WIDENED) | lesion
        sick = WorkingCase(case.name, image, None, case.affine, case.source_affine, case.source_shape)
        made = projector.project_working(sick, arguments.steps).made
        for name, scores in (
            ("anomaly map", healthy.anomaly(image, made)),
            ("intensity z-score", plain.anomaly(image, nothing)),
        ):
            found[name].append(area(scores[looked_at], lesion[looked_at]))
        print(f"{case.name}: " + ", ".join(f"{name} {values[-1]:.3f}" for name, values in found.items()), flush=True)
    differences = [a - b for a, b in zip(*found.values())]
    rows = [[name, interval(values)] for name, values in found.items()]
    rows.append(["difference", interval(differences)])
    print(table(["map", "area under the ROC curve over voxels, mean over cases (95 %)"], rows))
    spent = time.perf_counter() - start
    low, high = arguments.radius
    print(
        f"\n{len(tested)} cases with a lesion of {low:g} to {high:g} mm, {len(usual)} to say what is usual; "
        f"{spent / 60:.0f} min; {machine()}"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
