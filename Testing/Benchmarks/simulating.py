"""Scans deformed to edits of their segmentation: ten edits of real scans and three that are refused, with pictures.

    .venv/bin/python Testing/Benchmarks/simulating.py --hippocampi FOLDER --brains FOLDER [--pictures FOLDER]

Edits are what a brush does: a ball painted or erased at a segment's border, a segment grown or shrunk by a voxel, and a
smooth push. Which scans, segments and places is drawn by seed; an edit that no deformation can follow is drawn again,
and the number of such draws is in the table.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import machine, table
from scipy import ndimage

from GEDGANLib.alignment.carrying import dice
from GEDGANLib.errors import InputError
from GEDGANLib.jobs.steps import through
from GEDGANLib.synthesis.simulated import simulating
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.geometry import spacing_of
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pictures import contact_sheet
from GEDGANLib.volumes.reading import read_case

RESULTS = Path(__file__).parent / "results"
BRUSH, PUSH, WIDTH = 2.5, 1.5, 3.0
"""Voxels: radius of a brush, and how far and how broadly a push goes."""
TRIES = 20


def ball_at_border(labels: np.ndarray, label: int, spacing: np.ndarray, random: np.random.Generator) -> np.ndarray:
    mask = labels == label
    border = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    centre = border[random.integers(len(border))]
    away = sum(((index - middle) * step) ** 2 for index, middle, step in zip(np.indices(labels.shape), centre, spacing))
    return away <= (BRUSH * spacing.min()) ** 2


def painted(labels, label, spacing, random):
    return np.where(ball_at_border(labels, label, spacing, random), label, labels)


def erased(labels, label, spacing, random):
    return np.where(ball_at_border(labels, label, spacing, random) & (labels == label), 0, labels)


def grown(labels, label, spacing, random):
    """Over what belongs to no segment, and white matter; never right up to another segment."""
    others = (labels > 0) & (labels != label) & (labels != 3)
    free = ~ndimage.binary_dilation(others, np.ones((3, 3, 3)))
    return np.where(ndimage.binary_dilation(labels == label) & free, label, labels)


def shrunk(labels, label, spacing, random):
    mask = labels == label
    return np.where(mask & ~ndimage.binary_erosion(mask), 0, labels)


def pushed(labels, label, spacing, random):
    """What the segment leaves goes to what is nearest to it."""
    field = [ndimage.gaussian_filter(random.standard_normal(labels.shape), WIDTH) for _ in range(3)]
    longest = max(np.abs(part).max() for part in field)
    where = np.indices(labels.shape) + np.stack(field) / longest * PUSH
    mask = labels == label
    there = ndimage.map_coordinates(mask.astype(np.float32), where, order=1) > 0.5
    nearest = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    return np.where(there, label, np.where(mask, labels[tuple(nearest)], labels))


EDITS = {"painted": painted, "erased": erased, "grown": grown, "shrunk": shrunk, "pushed": pushed}


def refused_edits(labels: np.ndarray) -> dict[str, np.ndarray]:
    """Edits that no deformation can follow: a segment torn, hollowed out, and gone."""
    mask = labels == 1
    middle = np.round(np.argwhere(mask).mean(0)).astype(int)
    torn, hollow, gone = labels.copy(), labels.copy(), labels.copy()
    along = int(np.argmax(np.ptp(np.argwhere(mask), axis=0)))
    cut = [slice(None)] * 3
    cut[along] = slice(middle[along], middle[along] + 2)
    torn[tuple(cut)] = np.where(torn[tuple(cut)] == 1, 0, torn[tuple(cut)])
    deepest = np.unravel_index(ndimage.distance_transform_edt(mask).argmax(), mask.shape)
    hollow[deepest] = 0
    gone[mask] = 0
    return {"torn in two": torn, "hollowed out": hollow, "gone": gone}


def cases_of(folder: Path, count: int) -> list[Case]:
    """Some scans, evenly chosen, with their segmentations."""
    dataset = find_dataset(folder)
    found = []
    for files in dataset.cases[:: max(len(dataset.cases) // count, 1)][:count]:
        label_table, raw = LabelTable(dataset), read_case(files, dataset)
        label_table.add(raw, files.label)
        labels = label_table.labels()
        found.append(Case(files.name, raw.image, label_table.renumber(raw, labels), raw.affine, labels, kind=raw.kind))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hippocampi", type=Path, required=True)
    parser.add_argument("--brains", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, help="folder for a sheet of each edit")
    arguments = parser.parse_args()
    rows, refused = [], []
    for words, folder, segments in (("hippocampus", arguments.hippocampi, (1, 2)), ("brain", arguments.brains, (1, 6))):
        others = iter(cases_of(folder, len(EDITS) + 2 * TRIES))
        for number, (what, edit) in enumerate(EDITS.items()):
            case = next(others)
            random, label = np.random.default_rng(number), segments[number % 2]
            spacing, drawn = spacing_of(case.affine), 0
            while True:
                drawn += 1
                edited = replace(case, labels=edit(case.labels, label, spacing, random).astype(np.uint8))
                begun = time.monotonic()
                try:
                    found = through(simulating(case, edited))
                    break
                except InputError as error:
                    print(f"{case.name}: {what}: {error.message}", flush=True)
                    case = next(others)
                    if drawn == TRIES:
                        raise
            seconds, deformation = time.monotonic() - begun, found.deformation
            reached = deformation.reached
            before = [dice(case.labels, edited.labels, each.label) for each in reached]
            rows.append(
                [f"{words}: {found.names[0]} and others" if len(found.names) > 1 else f"{words}: {found.names[0]}",
                 what, str(drawn), f"{min(before):.3f}", f"{min(each.dice for each in reached):.3f}",
                 f"{max((each.volume for each in reached), key=abs):+.1%}",
                 f"{min(each.followed for each in reached):.0%}", f"{deformation.smallest_jacobian:.2f}",
                 f"{deformation.farthest:.1f}", "yes" if deformation.enough else "no", f"{seconds:.1f}"]
            )  # fmt: skip
            print(rows[-1], flush=True)
            if arguments.pictures is not None:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                sheet(arguments.pictures / f"{words}-{what}.png", case, found.case)
    case = cases_of(arguments.hippocampi, 1)[0]
    for what, labels in refused_edits(case.labels).items():
        try:
            through(simulating(case, replace(case, labels=labels)))
            refused.append(f"- {what}: NOT refused")
        except InputError as error:
            refused.append(f"- {what}: {error.message} {error.hint}")
    heading = ["segment", "edit", "draws", "Dice before", "Dice after", "volume", "followed", "smallest Jacobian",
               "farthest mm", "reached", "s"]  # fmt: skip
    words = (
        "Of several edited segments the worst figure of each kind. Draws: until one came that a deformation can "
        "follow. Followed: share of the edited voxels in which the image follows."
    )
    text = f"# Scans deformed to edits\n\n{machine()}\n\n{words}\n\n{table(heading, rows)}\n\nRefused:\n\n"
    text += "\n".join(refused) + "\n"
    (RESULTS / "simulating.md").write_text(text)
    print(text)


def sheet(path: Path, before: Case, after: Case) -> None:
    drawn = replace(before, labels=after.labels)
    headings = [["scan", "scan and edit", "deformed"]]
    contact_sheet(path, [("", [before, drawn, after])], "", headings, before.labels != after.labels)


if __name__ == "__main__":
    main()
