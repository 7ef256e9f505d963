"""The generator as a MONAI bundle, which runs where GED-GAN is not installed.

``configs/metadata.json`` describes it, ``configs/inference.json`` synthesizes cases with MONAI's own transforms,
``models/model.ts`` is the generator in TorchScript (latent in, image channels and label probabilities out) and
``docs/README.md`` says how to run it::

    python -m monai.bundle run --config_file configs/inference.json --number 4
"""

from __future__ import annotations

import json
import platform
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..jobs.writing import beside, explain_unwritable, write_bytes
from ..synthesis.model_file import Model
from ..synthesis.synthesizer import describe_origin

SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"


def write_bundle(folder: Path, model: Model) -> None:
    """Write the bundle.

    :param folder: claimed by :func:`GEDGANLib.jobs.writing.claim_empty_folder`.
    :param model: on the CPU.
    :raises InputError: it cannot be written.
    """
    make_parts(folder)
    _write_network(folder / "models" / "model.ts", model)
    describe(folder, metadata(model), inference(model), _readme(model))


def make_parts(folder: Path) -> None:
    """The folders of a bundle.

    :raises InputError: they cannot be made.
    """
    try:
        for part in ("configs", "models", "docs"):
            (folder / part).mkdir(exist_ok=True)
    except OSError as error:
        raise explain_unwritable(folder, error) from error


def describe(folder: Path, metadata: dict[str, Any], inference: dict[str, Any], readme: str) -> None:
    """Write what a bundle is besides its weights.

    :raises InputError: it cannot be written.
    """
    for name, content in (("metadata", metadata), ("inference", inference)):
        write_bytes(folder / "configs" / f"{name}.json", (json.dumps(content, indent=4) + "\n").encode("utf-8"))
    write_bytes(folder / "docs" / "README.md", readme.encode("utf-8"))


def made_with() -> dict[str, Any]:
    """What ``metadata.json`` says of any bundle: its schema, and the versions it was written with."""
    import monai
    import torch

    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"written by GED-GAN {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).split("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": _version_of("nibabel"), "fire": _version_of("fire")},
        "authors": "the owner of the training data",
        "copyright": "the owner of the training data",
        "data_type": "nibabel",
        "eval_metrics": {},
        "references": [],
    }


def _write_network(path: Path, model: Model) -> None:
    import torch

    plan, generator = model.plan, model.generator
    inputs = [torch.zeros(1, plan.networks.latent_size)]
    if plan.classes:
        inputs.append(torch.zeros(1, len(plan.classes)))
    for weight in generator.parameters():
        weight.requires_grad_(False)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that shapes become constants is meant, that TorchScript is old is known
        traced = torch.jit.trace(generator, tuple(inputs), check_trace=False)
    with beside(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(traced, str(partial))


def metadata(model: Model) -> dict[str, Any]:
    """``metadata.json`` after MONAI's schema."""
    plan = model.plan
    names = [channel.name for channel in plan.channels]
    labels = ["background", *(label.name for label in plan.labels)] if plan.labels else []
    shape = list(plan.grid.shape)
    latent = {
        "type": "latent",
        "format": "latent",
        "num_channels": plan.networks.latent_size,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": {"0": "standard normal"},
    }
    kinds = {**latent, "num_channels": len(plan.classes), "channel_def": dict(enumerate_text(plan.classes))}
    pair = {
        "type": "image",
        "format": "image and label probabilities" if labels else "image",
        "num_channels": len(names) + len(labels),
        "spatial_shape": shape,
        "dtype": "float32",
        "value_range": [-1, 1],
        "is_patch_data": False,
        "channel_def": dict(enumerate_text([*names, *(f"probability of {name}" for name in labels)])),
    }
    return {
        **made_with(),
        "name": f"GED-GAN {model.path.stem}",
        "task": "Synthesis of volumes with their segmentations" if labels else "Synthesis of volumes",
        "description": f"{describe_origin(model)} Grid {' x '.join(map(str, shape))}, "
        f"{' x '.join(f'{side:g}' for side in plan.grid.spacing)} mm. {_gives_away(model)}".strip(),
        "data_source": plan.description or "unnamed scans",
        "image_classes": ", ".join(names),
        "label_classes": ", ".join(labels),
        "pred_classes": ", ".join([*names, *labels]),
        "intended_use": "Research. Synthetic cases are not patients; not a medical device.",
        "network_data_format": {
            "inputs": {"latent": latent, **({"classes": kinds} if plan.classes else {})},
            "outputs": {"pred": pair},
        },
    }


def enumerate_text(values: Any) -> list[tuple[str, str]]:
    """Values with their positions as text, for JSON."""
    return [(str(index), str(value)) for index, value in enumerate(values)]


def _version_of(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def inference(model: Model) -> dict[str, Any]:
    """``inference.json``: latents from a seed, the generator, and MONAI's ``SaveImage`` for images and labels."""
    plan = model.plan
    channels = len(plan.channels)
    lows = [channel.typical[0] for channel in plan.channels]
    highs = [channel.typical[1] for channel in plan.channels]
    save = {
        "_target_": "SaveImage",
        "output_dir": "@output_dir",
        "separate_folder": False,
        "resample": False,
        "print_log": False,
        "output_ext": ".nii.gz",
    }
    # Each latent has a generator of its own, so case 5 is the same whether 8 or 800 are made.
    draw = (
        "$torch.stack([torch.randn(@latent_size, generator=torch.Generator().manual_seed(@seed * 1000003 + i)) "
        "for i in range(@number)])"
    )
    network = "@network(@latents[i:i + 1].to(@device))"
    config: dict[str, Any] = {
        "imports": ["$import torch", "$import numpy", "$from monai.data import MetaTensor"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/synthetic'",
        # What a traced statistical model takes positions from stays where it was traced.
        "device": f"$torch.device({CPU if plan.method == 'modes' or plan.repaints else CUDA_OR_CPU})",
        "number": 4,
        "seed": 0,
        "latent_size": plan.networks.latent_size,
        "network": "$torch.jit.load(@bundle_root + '/models/model.ts').to(@device).eval()",
        "latents": draw,
        "affine": np.asarray(plan.grid.affine).tolist(),
        "low": lows,
        "high": highs,
    }
    if plan.classes:
        # Which class, by its position in metadata.json; -1 for none in particular.
        config["class_index"] = -1
        config["classes"] = (
            f"$torch.nn.functional.one_hot(torch.tensor([max(@class_index, 0)]), {len(plan.classes)}).float() "
            "* float(@class_index >= 0)"
        )
        network = "@network(@latents[i:i + 1].to(@device), @classes.to(@device))"
    view = "(-1," + " 1," * (plan.spatial_dims - 1) + " 1)"
    config["outputs"] = f"$[{network}[0].cpu() for i in range(@number)]"
    scale = f"(x[:{channels}] + 1) / 2 * (torch.tensor(@high) - torch.tensor(@low)).reshape{view}"
    whole = plan.whole_numbers if plan.whole_numbers and _fits(plan) else ""
    shown = f"({scale} + torch.tensor(@low).reshape{view}){'.round()' if whole else ''}"
    config["images"] = (
        f"$[MetaTensor({shown}, affine=torch.tensor(@affine), "
        "meta={'filename_or_obj': 'synthetic_{}_{:04d}'.format(@seed, i)}) for i, x in enumerate(@outputs)]"
    )
    config["save_image"] = {
        **save,
        "output_postfix": "image",
        "output_dtype": f"$numpy.{whole or 'float32'}",
    }
    run = ["$[@save_image(x) for x in @images]"]
    if plan.labels:
        config["labels"] = (
            f"$[MetaTensor(x[{channels}:].argmax(0, keepdim=True), affine=torch.tensor(@affine), "
            "meta={'filename_or_obj': 'synthetic_{}_{:04d}'.format(@seed, i)}) for i, x in enumerate(@outputs)]"
        )
        config["save_label"] = {**save, "output_postfix": "label", "output_dtype": "$numpy.uint8"}
        run.append("$[@save_label(x) for x in @labels]")
    config["run"] = ["$torch.set_grad_enabled(False)", *run]
    return config


CPU, CUDA_OR_CPU = "'cpu'", "'cuda' if torch.cuda.is_available() else 'cpu'"


def _fits(plan) -> bool:
    limits = np.iinfo(plan.whole_numbers)
    return all(limits.min <= low and high <= limits.max for low, high in (each.typical for each in plan.channels))


def _gives_away(model: Model) -> str:
    """The card of a model for sharing, a paragraph; nothing where there is none."""
    card = model.about.get("card")
    return f"What it gives away of the scans it is of: {card}\n\n" if card else ""


def _readme(model: Model) -> str:
    plan = model.plan
    classes = (
        f"\nClasses, for `--class_index`: {', '.join(f'{i} {name}' for i, name in enumerate(plan.classes))}.\n"
        if plan.classes
        else ""
    )
    return f"""# {model.path.stem}

{describe_origin(model)}

    python -m monai.bundle run --config_file configs/inference.json --number 4 --seed 0

run in the folder of this bundle, writes four cases into `synthetic/`: `*_image.nii.gz` and `*_label.nii.gz`.
{classes}
{_gives_away(model)}Labels: {", ".join(f"{label.index} {label.name}" for label in plan.labels) or "none"}.

The latents are not those of `gedgan synthesize`: the same seed gives other cases there. Written with PyTorch's
TorchScript by GED-GAN {__version__} on Python {platform.python_version()}. Research use; not a medical device.
"""
