"""What the commands ``directions``, ``vary`` and ``project`` do, from parsed arguments to files and words.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..jobs.events import Events, with_progress
from .making import cases_folder, claim_scene
from .options import DEVICE, MODEL, a_model, a_path, a_seed, a_share, a_whole_number, above_zero
from .scans import find_for, read_scan, warn_of_other_kind


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    directions = kinds.add_parser("directions", help="find what can be steered in a model, and name it")
    directions.add_argument("model", type=a_model, metavar="MODEL", help=MODEL)
    directions.add_argument("--device", **DEVICE)
    directions.set_defaults(run=run_directions)

    vary = kinds.add_parser("vary", help="make a series of cases along one direction")
    vary.add_argument("model", type=a_model, metavar="MODEL", help=MODEL)
    vary.add_argument("--direction", required=True, metavar="NAME", help="as `gedgan directions` names it")
    vary.add_argument("--from", dest="start", type=float, metavar="SD", help="default: the direction's own")
    vary.add_argument("--to", dest="end", type=float, metavar="SD", help="default: the direction's own")
    vary.add_argument("--frames", type=above_zero(int), default=9, metavar="N", help="cases (default: 9)")
    vary.add_argument("--seed", type=a_seed, help="vary a case of this seed (default: the most typical case)")
    vary.add_argument(
        "--index", type=a_whole_number, default=0, metavar="N", help="which case of the seed (default: 0)"
    )
    vary.add_argument("--class", dest="class_name", metavar="NAME", help="class to start from")
    vary.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the cases")
    vary.add_argument("--scene", type=a_path, help="write the series as a sequence in a Slicer scene too (.mrb)")
    vary.add_argument("--device", **DEVICE)
    vary.set_defaults(run=run_vary)

    project = kinds.add_parser("project", help="find the case of a model that is nearest to a real volume")
    project.add_argument("model", type=a_model, metavar="MODEL", help=MODEL)
    project.add_argument("volume", type=a_path, metavar="VOLUME", help="an image file, or a folder with a DICOM series")
    project.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the maps")
    project.add_argument(
        "--healthy",
        type=a_path,
        metavar="DATA",
        help="write an anomaly map: folder of at least five healthy cases, or the file that was made of them before",
    )
    project.add_argument("--more", type=a_whole_number, default=0, metavar="N", help="make N more like it (default: 0)")
    project.add_argument(
        "--difference", type=a_share, default=0.3, metavar="SHARE", help="of those, from 0 to 1 (default: 0.3)"
    )
    project.add_argument("--seed", type=a_seed, default=0, help="of those (default: 0)")
    project.add_argument("--steps", type=above_zero(int), default=120, metavar="N", help="of the search (default: 120)")
    project.add_argument("--scene", type=a_path, help="write volume and maps as a Slicer scene too (.mrb)")
    project.add_argument("--device", **DEVICE)
    project.set_defaults(run=run_project)


def run_directions(arguments: argparse.Namespace, events: Events) -> None:
    from ..synthesis.directions import directions_of, directions_path
    from ..synthesis.model_file import load_model

    model = load_model(arguments.model, arguments.device)
    with events.bar("finding directions") as show:
        found = directions_of(model, show)
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Directions of {arguments.model}", title_justify="left")
    for heading in ("name", "from", "to", "what it does"):
        table.add_column(heading)
    for direction in found:
        table.add_row(direction.name, f"{direction.low:g}", f"{direction.high:g}", direction.meaning)
    console = Console(highlight=False)
    console.print(table)
    console.print("Values count standard deviations (SD) of what the model makes; of a class, 1 is all of it.")
    path = directions_path(arguments.model)
    if path.exists():
        print(f"They are kept in {path}.")


def run_vary(arguments: argparse.Namespace, events: Events) -> None:
    from ..exchange.nnunet import write_dataset
    from ..jobs.writing import new_folder
    from ..synthesis.directions import choose, directions_of
    from ..synthesis.explorer import Explorer
    from ..synthesis.model_file import load_model
    from ..synthesis.synthesizer import Form, Synthesizer, describe_origin, latent_of

    model = load_model(arguments.model, arguments.device)
    with events.bar("finding directions") as show:
        directions = directions_of(model, show)
    direction = choose(directions, arguments.direction)
    start = direction.low if arguments.start is None else arguments.start
    end = direction.high if arguments.end is None else arguments.end
    latent = None
    if arguments.seed is not None:
        latent = latent_of(arguments.seed, arguments.index, model.plan.networks.latent_size)
    explorer = Explorer(Synthesizer(model, Form()), directions, latent, arguments.class_name)
    values = np.linspace(start, end, arguments.frames)
    # A class is a share, from none to all of it.
    unit = "" if direction.class_name else "SD"
    sheet = "contact-sheet.png"
    with new_folder(arguments.output) as folder:
        claim_scene(arguments.scene)
        with events.bar("synthesizing") as show:
            frames = with_progress(explorer.series(direction, start, end, arguments.frames), arguments.frames, show)
            made = list(frames)
        write_dataset(folder, made, describe_origin(model), model.plan.kinds)
        _draw_series(folder / sheet, made, values, f" {unit}".rstrip(), f"{direction.name}: {direction.meaning}")
    print(
        f"{len(made)} cases along '{direction.name}' are in {arguments.output}; {arguments.output / sheet} shows them."
    )
    if arguments.scene is not None:
        from ..scene.headless import headless_application, save_scene
        from ..scene.sequences import add_sequence

        with headless_application() as application:
            add_sequence(zip(values.tolist(), made), direction.name, direction.name, unit)
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}; the toolbar Sequences of 3D Slicer plays it.")


SHEET_FRAMES = 9


def _draw_series(path: Path, made: list, values: np.ndarray, unit: str, title: str) -> None:
    """Frames side by side, the value of the direction above each; not all where there are many."""
    from ..volumes.pictures import contact_sheet

    chosen = np.unique(np.linspace(0, len(made) - 1, min(len(made), SHEET_FRAMES)).round().astype(int))
    headings = [f"{values[index]:+.2g}{unit}" for index in chosen]
    contact_sheet(path, [("series", [made[index] for index in chosen])], title, [headings])


def run_project(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import new_folder
    from ..synthesis.model_file import load_model

    with new_folder(arguments.output) as folder:
        claim_scene(arguments.scene)
        model = load_model(arguments.model, arguments.device, with_critic=True)
        case = read_scan(arguments.volume, [channel.name for channel in model.plan.channels], events)
        warn_of_other_kind(arguments.volume, case.image.shape[1:], case.affine, model.plan, events)
        usual = _what_is_usual(arguments, model, case, events)
        projection, maps = _project(arguments, events, model, case, usual, folder)
    words = ", what is left and the anomaly map" if arguments.healthy is not None else " and what is left"
    share = f"explains {projection.explained:.0%} of {case.name}"
    if projection.explained < 0:
        share = f"resembles {case.name} less than an even grey would (such a scan the model cannot make)"
    print(f"The nearest case {share}; it{words} are in {arguments.output}.")
    if (arguments.output / HEALTHY).exists():
        kept = f"is kept in {arguments.output / HEALTHY}; give that file the next time."
        print(f"What is usual in {len(usual)} healthy cases {kept}")
    if arguments.more:
        _make_more(arguments, events, model, case, projection)
    if arguments.scene is not None:
        from ..scene.headless import headless_application, save_scene
        from ..scene.nodes import add_maps

        with headless_application() as application:
            add_maps(case, maps, [], f"Projection of {case.name}")
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}")


HEALTHY = "healthy.safetensors"
"""Name of the file of what is usual in healthy cases."""


def _project(
    arguments: argparse.Namespace, events: Events, model: Any, case: Any, usual: Any | None, folder: Path
) -> tuple[Any, list[tuple[str, np.ndarray]]]:
    """Write all maps into a folder; returns the projection, and name and voxels of each map."""
    from ..jobs.writing import write_bytes
    from ..synthesis.projection import on_grid_of
    from ..synthesis.repainted import projector_of
    from ..synthesis.synthesizer import describe_origin
    from ..volumes.files import write_volume
    from ..volumes.pipeline import from_working

    with events.bar("looking at random cases") as show:
        show(0, 1, "")
        projector = projector_of(model)
        show(1, 1, "")
    with events.bar("projecting") as show:
        projection = projector.project(case, arguments.steps, show)
    maps = []
    in_units = _in_units_of(case, model, projection)
    lowest = [float(channel.range_of(voxels)[0]) for channel, voxels in zip(model.plan.channels, case.image)]
    for kind, (values, outside) in {"nearest": (in_units[0], lowest), "residual": (in_units[1], 0)}.items():
        for index, channel in enumerate(model.plan.channels):
            beyond = outside[index] if isinstance(outside, list) else outside
            name = kind if len(model.plan.channels) == 1 else f"{kind} {channel.name}"
            maps.append((name, on_grid_of(values[index], projection, beyond)))
    _write_maps(folder, maps, case, model)
    if projection.labels is not None:
        labels = from_working(replace(projection.working, labels=projection.labels), model.plan).labels
        write_volume(folder / "nearest-segmentation.nrrd", labels, case.affine, describe_origin(model))
    healthy = _healthy(arguments, model, projector, usual, events, folder)
    if healthy is not None:
        maps.append(("anomaly", on_grid_of(healthy.anomaly(projection.working.image, projection.made), projection)))
        _write_maps(folder, maps[-1:], case, model)
    about = {
        "volume": str(arguments.volume),
        "explained": round(projection.explained, 4),
        "latent": [round(float(value), 5) for value in projection.latent],
    }
    write_bytes(folder / "projection.json", json.dumps(about, indent=1).encode("utf-8"))
    _draw(folder / "projection.png", case, maps)
    return projection, maps


def _make_more(arguments: argparse.Namespace, events: Events, model: Any, case: Any, projection: Any) -> None:
    """Write cases that are like the nearest one into the folder ``more``."""
    from ..exchange.nnunet import write_dataset
    from ..synthesis.explorer import near
    from ..synthesis.synthesizer import Synthesizer, describe_origin

    synthesizer, folder = Synthesizer(model), arguments.output / "more"
    made = (
        synthesizer.case(
            near(projection.latent, arguments.difference, arguments.seed, index),
            f"like_{case.name}_{index:04d}",
            {"like": case.name, "difference": arguments.difference},
            class_weights=projection.class_weights,
        )
        for index in range(arguments.more)
    )
    with cases_folder(folder, arguments.more) as count, events.bar("synthesizing") as show:
        shown = count(with_progress(made, arguments.more, show))
        write_dataset(folder, shown, describe_origin(model), model.plan.kinds)
    print(f"{arguments.more} more like this one are in {folder}.")


def _write_maps(folder: Path, maps: list[tuple[str, np.ndarray]], case: Any, model: Any) -> None:
    from ..synthesis.synthesizer import describe_origin
    from ..volumes.files import write_volume

    for name, array in maps:
        path = folder / f"{name.replace(' ', '-')}.nrrd"
        # What is left over is the patient's scan as much as the model's.
        whose = describe_origin(model) if name.startswith("nearest") else "made from a real scan; treat it like that"
        write_volume(path, array, case.affine, f"{name} of {case.name}: {whose}")


def _in_units_of(case: Any, model: Any, projection: Any) -> tuple[np.ndarray, np.ndarray]:
    """The nearest case and what is left, (C, *grid) on the working grid, in the units of the volume."""
    from ..volumes.pipeline import unmap_intensities

    ranges = [channel.range_of(voxels) for channel, voxels in zip(model.plan.channels, case.image)]
    half = np.array([(high - low) / 2 for low, high in ranges], np.float32).reshape(-1, 1, 1, 1)
    return unmap_intensities(projection.made, ranges), projection.residual * half


def _what_is_usual(arguments: argparse.Namespace, model: Any, case: Any, events: Events) -> Any | None:
    """Before anything is computed: what an earlier projection kept, or the healthy cases to project.

    Cases that the model learned from are left out where there are others enough: it makes those too well. So is the
    very scan that is projected.

    :returns: a ``Healthy``, a list of working cases, or None when no anomaly map is asked for.
    :raises InputError: a file or folder that cannot be used, too few cases.
    """
    from ..synthesis.anomaly import FEWEST, Healthy
    from ..synthesis.membership import membership
    from ..training.request import image_digest
    from ..volumes.pipeline import load_working_cases, to_working

    if arguments.healthy is None:
        return None
    own = image_digest(to_working(case, model.plan))
    if arguments.healthy.is_file():
        healthy = Healthy.load(arguments.healthy, model.digest)
        if own in healthy.digests:
            message = f"{case.name} is one of the healthy cases of {arguments.healthy}: its own map is too mild."
            events.emit("warning", message=message)
        if healthy.digests:
            taught = model.about.get("trained_images")
            _tell_new(len(set(healthy.digests) - set(taught)) if taught else 0, events)
        return healthy
    dataset = find_for(model, arguments.healthy)
    # Their segmentations are not needed, whatever they are.
    dataset = replace(dataset, cases=tuple(replace(files, label=None) for files in dataset.cases))
    cases = [working for working in load_working_cases(dataset, model.plan) if image_digest(working) != own]
    for working in cases:
        warn_of_other_kind(working.name, working.source_shape, working.source_affine, model.plan, events)
    unseen = [cases[index] for index in membership(model.about, cases).unseen]
    if len(unseen) >= FEWEST:
        return unseen
    if len(cases) < FEWEST:
        raise InputError(
            f"{arguments.healthy} holds {len(cases)} healthy cases besides this one; {FEWEST} are needed.", "Add more."
        )
    _tell_new(len(unseen), events)
    return cases


def _tell_new(count: int, events: Events) -> None:
    """Warn where what is usual was taken from few cases that are new to the model."""
    from ..synthesis.anomaly import FEWEST

    if count < FEWEST:
        events.emit(
            "warning",
            message=f"Only {count} of the healthy cases are new to the model. What is usual is taken from such that it "
            "learned from too, which makes other scans look more unusual than they are.",
        )


def _healthy(
    arguments: argparse.Namespace, model: Any, projector: Any, usual: Any | None, events: Events, folder: Path
) -> Any | None:
    """What is usual as a ``Healthy``; projected where it is cases, and then kept."""
    from ..synthesis.anomaly import Healthy
    from ..training.request import image_digest

    if usual is None or isinstance(usual, Healthy):
        return usual
    made = []
    with events.bar("projecting healthy cases") as show:
        for done, working in enumerate(usual):

            def show_step(step: int, steps: int, name: str, done: int = done) -> None:
                show(done + step / steps, len(usual), name)

            made.append(projector.project_working(working, arguments.steps, show_step).made)
    healthy = Healthy.of([working.image for working in usual], made, [image_digest(working) for working in usual])
    healthy.save(folder / HEALTHY, model.digest)
    return healthy


def _draw(path: Path, case: Any, maps: list[tuple[str, np.ndarray]]) -> None:
    """The volume and its maps, a column each, a plane a row."""
    from ..volumes.pictures import draw_maps

    low, high = (float(value) for value in np.percentile(case.image[0], (0.5, 99.5)))
    grey = {"cmap": "gray", "vmin": low, "vmax": max(high, low + 1e-6)}
    options = {
        "nearest": grey,
        "residual": {"cmap": "coolwarm", "vmin": low - high, "vmax": high - low},
        "anomaly": {"cmap": "inferno", "vmin": 0, "vmax": 6},
    }
    units = {"nearest": "", "residual": ": scan less nearest", "anomaly": ", SD"}
    columns: list[tuple[str, np.ndarray, dict, bool]] = [("volume", case.image[0], grey, False)]
    for name, array in maps:
        kind = name.split()[0]
        columns.append((f"{name}{units[kind]}", array, options[kind], kind != "nearest"))
    draw_maps(path, columns, case.affine, f"{case.name}; the residual is in the units of the scan")
