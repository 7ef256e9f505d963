"""The commands that show: ``explain``, ``render`` and ``devices``.

Heavy packages are imported by the command that needs them, so that help and mistyped options answer at once.
"""

from __future__ import annotations

import argparse
import textwrap

from .. import __version__
from ..errors import InputError
from ..jobs.events import Events
from .making import claim_scene
from .options import DEVICE, a_model, a_path, above_zero
from .scans import read_scan, warn_of_other_kind


def add(kinds: argparse._SubParsersAction) -> None:
    """Add the commands of this group to the parser."""
    explain = kinds.add_parser("explain", help="show which way a volume's structure runs, and what a model doubts")
    explain.add_argument("volume", type=a_path, metavar="VOLUME", help="an image file, or a folder with a DICOM series")
    explain.add_argument("-o", "--output", type=a_path, required=True, metavar="OUT", help="new folder for the maps")
    explain.add_argument(
        "--model", type=a_model, help="show too where its discriminator finds the volume unlike real ones"
    )
    explain.add_argument("--sigma", type=above_zero(float), metavar="MM", help="scale of edges (default: a voxel)")
    explain.add_argument("--rho", type=above_zero(float), metavar="MM", help="scale of averages (default: two voxels)")
    explain.add_argument("--scene", type=a_path, help="write all maps as a Slicer scene too (.mrb)")
    explain.add_argument("--device", **DEVICE)
    explain.set_defaults(run=run_explain)

    render = kinds.add_parser("render", help="draw a scene as Slicer shows it: three slices and a volume rendering")
    render.add_argument("scene", type=a_path, metavar="SCENE", help=".mrb or .mrml")
    render.add_argument("-o", "--output", type=a_path, required=True, metavar="PNG")
    render.add_argument("--case", type=above_zero(int), default=1, help="which case of the scene (default: 1)")
    render.set_defaults(run=run_render)

    devices = kinds.add_parser("devices", help="list what can compute here, the best first")
    devices.set_defaults(run=run_devices)


UNLIKE = 2.0
"""Standard deviations, on average over a volume, from which it is probably of another kind than a model's scans."""


def run_explain(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import new_folder
    from ..synthesis.explain import colour_maps, draw_explanation, scalar_maps, structure_maps, unlikeness_map
    from ..synthesis.model_file import load_model
    from ..volumes.files import write_colours, write_volume

    with new_folder(arguments.output) as folder:
        claim_scene(arguments.scene)
        model = None
        if arguments.model is not None:
            model = load_model(arguments.model, arguments.device, with_critic=True)
        channels = ["image"] if model is None else [channel.name for channel in model.plan.channels]
        case = read_scan(arguments.volume, channels, events)
        with events.bar("explaining") as show:
            show(0, 2, "structure")
            maps = structure_maps(case.image[0], case.affine, arguments.sigma, arguments.rho)
            show(1, 2, "discriminator")
            unlikeness = None if model is None else unlikeness_map(model, case)
            show(2, 2, "")
        if model is not None:
            warn_of_other_kind(arguments.volume, case.image.shape[1:], case.affine, model.plan, events)
        if unlikeness is not None and unlikeness.mean() > UNLIKE:
            message = f"{arguments.volume} is unlike the model's scans nearly everywhere: is it a scan of their kind?"
            events.emit("warning", message=message)
        about = f"GED-GAN {__version__}, explanation of {case.name}"
        for name, array in scalar_maps(maps, unlikeness):
            write_volume(folder / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
        for name, array in colour_maps(maps):
            write_colours(folder / f"{name}.nrrd", array, case.affine, f"{name}; {about}")
        draw_explanation(folder / "explanation.png", case, maps, unlikeness)
    print(f"The maps are in {arguments.output}, to be loaded into Slicer; explanation.png shows them side by side.")
    if arguments.scene is not None:
        from ..scene.headless import headless_application, save_scene
        from ..scene.nodes import add_maps

        with headless_application() as application:
            add_maps(case, scalar_maps(maps, unlikeness), colour_maps(maps), f"Explanation of {case.name}")
            save_scene(application, arguments.scene)
        print(f"Scene: {arguments.scene}")


def run_render(arguments: argparse.Namespace, events: Events) -> None:
    from ..jobs.writing import claim_new_file
    from ..scene.headless import headless_application, load_scene
    from ..scene.read import cases_in_scene
    from ..scene.render import check_rendering, render_scene
    from ..scene.sequences import shown_item

    check_rendering()
    claim_new_file(arguments.output, ".png")
    with events.bar("drawing") as show, headless_application() as application:
        show(0, 1, "")
        load_scene(application, arguments.scene)
        cases = cases_in_scene(application.scene)
        if not cases:
            raise InputError(f"{arguments.scene} holds no volume.", "Choose another scene.")
        if arguments.case > len(cases):
            raise InputError(f"{arguments.scene} has {len(cases)} case(s).", f"Choose --case 1 to {len(cases)}.")
        volume, segmentation = cases[arguments.case - 1]
        for _, other in cases:
            if other is not None:
                other.GetDisplayNode().SetVisibility(other is segmentation)
        words = [volume.GetName(), shown_item(volume), volume.GetDescription() or ""]
        title = textwrap.shorten(" · ".join(filter(None, words)), 400, placeholder=" …")
        render_scene(application, volume, segmentation, arguments.output, title)
        show(1, 1, "")
    print(f"{arguments.output} shows case {arguments.case} of {arguments.scene}.")


def run_devices(arguments: argparse.Namespace, events: Events) -> None:
    import torch

    from ..device import devices

    found = devices()
    events.emit("devices", devices=found, torch=str(torch.__version__))
    for each in found:
        memory = f", {each['memory_gb']} GB" if "memory_gb" in each else ""
        print(f"{each['kind']}: {each['name']}{memory}")
    if found[0]["kind"] == "cpu":
        print("No GPU can be used; training on the CPU takes an hour or more, for small volumes.")
