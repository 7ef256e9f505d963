"""Variations of segmented scans: sharpness, time, sliders, and scans that lie elsewhere.

    .venv/bin/python Testing/Benchmarks/variations.py power RUN DATA   # power near Nyquist: real, linear, cubic, ours
    .venv/bin/python Testing/Benchmarks/variations.py moved RUN DATA   # a scan turned by 20 degrees and put 20 mm away
    .venv/bin/python Testing/Benchmarks/variations.py slider           # milliseconds of a slider
    .venv/bin/python Testing/Benchmarks/variations.py time             # beside TorchIO's, where that is installed
    .venv/bin/python Testing/Benchmarks/variations.py pictures RUN DATA -o FOLDER

RUN is of ``gedgan align DATA``. ``results/variations.md`` keeps the tables.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from common import interleaved, machine, table
from scipy import ndimage
from scipy.spatial.transform import Rotation

from GEDGANLib.alignment.lattice import Lattice
from GEDGANLib.alignment.modes import Modes
from GEDGANLib.alignment.runs import model_and_run
from GEDGANLib.alignment.sampling import coarser_shape
from GEDGANLib.alignment.transformations import Transformations
from GEDGANLib.alignment.variations import (
    NODES_IN_A_HURRY,
    ORDER,
    ORDER_IN_A_HURRY,
    Population,
    Request,
    Scan,
    Subject,
    Variation,
)
from GEDGANLib.alignment.velocity import smooth
from GEDGANLib.structure.spectrum import fine_power_ratio
from GEDGANLib.synthesis.model_file import load_model
from GEDGANLib.synthesis.variations import Places, Variations, changed, key_of
from GEDGANLib.volumes.case import Case
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.labels import LabelTable
from GEDGANLib.volumes.pipeline import load_case

CASES = 12


def some_cases(variations: Variations, data: Path, count: int) -> Iterator[Case]:
    """Segmented scans, evenly over the data set."""
    dataset, plan = find_dataset(data), variations.plan
    labelled = [files for files in dataset.cases if files.label is not None]
    labels, table = tuple(plan.labels), LabelTable(dataset)
    for index in np.linspace(0, len(labelled) - 1, count).astype(int):
        yield load_case(labelled[index], dataset, labels, table, {label.name for label in labels})


def opened(run: Path) -> Variations:
    path, folder = model_and_run(run)
    return Variations(load_model(path, "cpu", with_population=True), Places.of(folder))


def power(run: Path, data: Path) -> None:
    """Of 12 scans, two variations each, without a change of brightness."""
    variations = opened(run)
    ratios: dict[str, list[float]] = {}
    spacing = []
    for case in some_cases(variations, data, CASES):
        place, _ = variations.place(case)
        subject = variations.subject(place, case.affine, case.image.shape[1:])
        spacing.append(np.linalg.norm(case.affine[:3, :3], axis=0))
        for index in range(2):
            varied = subject.varied(Request(1.0, 0.0), key_of(0, case.name, index))
            made = {
                "linear": linear(subject, varied, case.image[0]),
                "cubic": Scan(subject, case.image, None, [None], 3).varied(varied)[0][0],
                f"ours (order {ORDER})": Scan(subject, case.image, None, [None]).varied(varied)[0][0],
            }
            for name, image in made.items():
                ratios.setdefault(name, []).append(fine_power_ratio([case.image[0]], [image]))
    print(f"{data.name}, {np.median(spacing):.3g} mm, {CASES} scans, two variations each; {machine()}")
    rows = [["real", "1"]]
    rows += [[name, f"{np.mean(values):.2f} ({np.std(values):.2f})"] for name, values in ratios.items()]
    print(table(["interpolation", "power near Nyquist's frequency (deviation over variations)"], rows))


def linear(subject: Subject, variation: Variation, image: np.ndarray) -> np.ndarray:
    displacement = subject.nodes.refined(variation.displacement)[0].numpy()
    where = np.stack(np.meshgrid(*map(np.arange, image.shape), indexing="ij")) + displacement
    return ndimage.map_coordinates(image, where, order=1, mode="nearest")


def moved(run: Path, data: Path) -> None:
    """Both scans are aligned anew. Said to lie elsewhere, the voxels are the same; truly turned, they are others."""
    variations = opened(run)
    variations.known = Places({}, {})
    rigid = np.eye(4)
    rigid[:3, :3] = Rotation.from_euler("z", 20, degrees=True).as_matrix()
    rigid[:3, 3] = 20, 0, 0
    rows = []
    for case in some_cases(variations, data, 4):
        said = replace(case, affine=rigid @ case.affine)
        # On a grid of the same directions as before, with room for what is turned.
        margin = [int(np.ceil(0.25 * side)) for side in case.image.shape[1:]]
        affine = rigid @ case.affine
        turned_affine = case.affine.copy()
        turned_affine[:3, 3] = 0
        shape = [side + 2 * extra for side, extra in zip(case.image.shape[1:], margin)]
        middle = (affine @ [*(np.array(case.image.shape[1:]) - 1) / 2, 1])[:3]
        turned_affine[:3, 3] = middle - turned_affine[:3, :3] @ (np.array(shape) - 1) / 2
        back = np.linalg.inv(affine) @ turned_affine
        lowest = float(case.image.min())
        image = ndimage.affine_transform(
            case.image[0], back[:3, :3], back[:3, 3], shape, order=3, mode="constant", cval=lowest
        )
        turned = replace(case, image=np.maximum(image, lowest)[None], labels=None, affine=turned_affine)
        found = []
        inner = case.image[0] > lowest + 0.1 * (np.percentile(case.image, 99) - lowest)
        points = case.affine[:3, :3] @ np.argwhere(inner)[::7].T + case.affine[:3, 3:]
        for each, there in ((case, np.eye(4)), (said, rigid), (turned, rigid)):
            place, _ = variations.place(each)
            subject = variations.subject(place, each.affine, each.image.shape[1:])
            displacement = subject.nodes.refined(subject.varied(Request(1, 0), (5,)).displacement)[0].numpy()
            world = there[:3, :3] @ points + there[:3, 3:]
            index = np.linalg.inv(each.affine[:3, :3]) @ (world - each.affine[:3, 3:])
            voxels = np.stack([ndimage.map_coordinates(part, index, order=1, mode="nearest") for part in displacement])
            found.append(there[:3, :3].T @ each.affine[:3, :3] @ voxels)
        voxel = float(np.linalg.norm(case.affine[:3, :3], axis=0).mean())
        apart = [np.linalg.norm(other - found[0], axis=0) / voxel for other in found[1:]]
        size = np.linalg.norm(found[0], axis=0).mean() / voxel
        rows.append(
            [case.name, f"{size:.2f}", f"{apart[0].max():.4f}",
             f"{np.median(apart[1]):.2f} / {np.percentile(apart[1], 95):.2f}"]
        )  # fmt: skip
    print(table(["scan", "mean way, voxels", "said to lie elsewhere: largest difference",
                 "turned: difference, median / 95 %"], rows))  # fmt: skip


def made_subject(side: int, modes: int, hurry: bool) -> tuple[Subject, np.ndarray, np.ndarray]:
    """Of made modes, which takes as long as of true ones."""
    random = torch.Generator().manual_seed(0)
    shape, extent = (side,) * 3, (192.0,) * 3
    control = coarser_shape(shape if side <= 64 else (64,) * 3, extent, 2.0)
    fields = smooth(torch.randn(modes + 1, 3, *control, generator=random), 24.0, extent)
    fields *= 0.7 / fields.std()
    looks = 0.1 * torch.randn(modes, 1, 32, 32, 32, generator=random)
    made = Modes(torch.zeros(3, 4), torch.zeros(3, *control), torch.zeros(1, 32, 32, 32), torch.ones(3),
                 torch.zeros(modes, 3, 4), fields[1:], looks, width=24.0)  # fmt: skip
    population = Population.of(made, torch.zeros(1, 32, 32, 32), extent)
    affine = np.diag([192 / side] * 3 + [1.0])
    still = Transformations(torch.zeros(1, 3, 4), fields[:1] * 3, extent)
    options = {"spacing": NODES_IN_A_HURRY} if hurry else {}
    subject = Subject(population, still, Lattice.of(affine, shape, affine, shape), **options)
    image = np.random.default_rng(0).random((1, *shape), np.float32)
    labels = (ndimage.gaussian_filter(image[0], 3) * 40).astype(np.uint8) % 5
    return subject, image, labels


def slider() -> None:
    """What one movement of a slider takes: deformation, image, segmentation."""
    rows = []
    for side in (32, 64, 96):
        for hurry, words in ((True, "while it moves"), (False, "when it is let go")):
            subject, image, labels = made_subject(side, 60, hurry)
            order, sliders = ORDER_IN_A_HURRY if hurry else ORDER, np.zeros(60)
            numbers = iter(np.linspace(0, 2, 1000))

            scan = Scan(subject, image, labels, [0.0], order)

            def work(scan=scan, sliders=sliders, numbers=numbers):
                sliders[0] = next(numbers)
                scan.varied(scan.subject.varied(Request(0.3, 0.5, sliders), (1,)))

            took = interleaved({"one": work}, 5)["one"]
            rows.append([f"{side} cubed", words, f"{1000 * took:.0f}"])
    print(machine())
    print(table(["scan", "", "ms"], rows))


def timed() -> None:
    """128 cubed, image and segmentation, in turns."""
    subject, image, labels = made_subject(128, 60, False)
    count = iter(range(100_000))

    def ours(order: int) -> None:
        # From the voxels on, as the rival does it: of further variations of the same scan a part is done already.
        Scan(subject, image, labels, [None], order).varied(subject.varied(Request(1.0, 0.0), (next(count),)))

    works = {"ours, cubic": lambda: ours(3), f"ours, order {ORDER}": lambda: ours(ORDER)}
    try:
        import torchio

        kept = torchio.Subject(
            image=torchio.ScalarImage(tensor=torch.from_numpy(image)),
            label=torchio.LabelMap(tensor=torch.from_numpy(labels)[None]),
        )
        for words in ("bspline", "linear"):
            transform = torchio.RandomElasticDeformation(image_interpolation=words)
            works[f"TorchIO {torchio.__version__}, {words}"] = lambda transform=transform: transform(kept)
    except ImportError:
        print("TorchIO is not installed here: pip install torchio")
    found = interleaved(works, 5)
    rival = next((took for name, took in found.items() if "bspline" in name), None)
    print(machine())
    rows = [[name, f"{took:.2f}", "" if rival is None else f"{took / rival:.2f}"] for name, took in found.items()]
    print(table(["128 cubed, image and segmentation", "s", "of TorchIO's cubic"], rows))


def pictures(run: Path, data: Path, folder: Path) -> None:
    """Scans, two variations each, what changed, and how much volume was made of one."""
    from matplotlib.figure import Figure

    variations = opened(run)
    folder.mkdir(parents=True, exist_ok=True)
    for case in some_cases(variations, data, 3):
        place, _ = variations.place(case)
        scan = variations.scan(place, case)
        subject = scan.subject
        figure = Figure(figsize=(14, 8))
        axes = figure.subplots(2, 4)
        middle = case.image.shape[3] // 2
        low, high = np.percentile(case.image[0], (1, 99.5))
        for row in range(2):
            start = time.perf_counter()
            varied = subject.varied(Request(), key_of(0, case.name, row))
            made = changed(case, scan, varied, "variation")
            took = time.perf_counter() - start
            displacement = subject.nodes.refined(varied.displacement)[0].numpy()
            gradient = np.stack(np.gradient(displacement, axis=(1, 2, 3)), -1).transpose(1, 2, 3, 0, 4)
            jacobian = 1 / np.linalg.det(gradient + np.eye(3)).clip(0.02)
            difference = made.image[0] - case.image[0]
            reach = np.percentile(np.abs(difference), 99)
            shown = (
                (case.image[0], "scan", "gray", (low, high), case.labels),
                (made.image[0], f"variation, {took:.2f} s", "gray", (low, high), made.labels),
                (difference, "difference", "RdBu", (-reach, reach), None),
                (np.log2(jacobian), "volume of one, log2", "PuOr", (-2, 2), None),
            )
            for axis, (array, words, colours, limits, labels) in zip(axes[row], shown):
                axis.imshow(array[:, :, middle].T, origin="lower", cmap=colours, vmin=limits[0], vmax=limits[1])
                if labels is not None:
                    for label in np.unique(labels)[1:]:
                        axis.contour((labels[:, :, middle] == label).T, [0.5], linewidths=0.8, colors=f"C{label}")
                axis.set_title(words, fontsize=9)
                axis.set_axis_off()
        figure.savefig(folder / f"{case.name}.png", dpi=70, bbox_inches="tight")
        print(folder / f"{case.name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("power", "moved", "slider", "time", "pictures"))
    parser.add_argument("run", type=Path, nargs="?")
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path("variations"))
    given = parser.parse_args()
    if given.what == "slider":
        slider()
    elif given.what == "time":
        timed()
    elif given.what == "pictures":
        pictures(given.run, given.data, given.output)
    else:
        {"power": power, "moved": moved}[given.what](given.run, given.data)
