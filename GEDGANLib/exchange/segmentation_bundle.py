"""A segmentation network as a MONAI bundle, which runs where GED-GAN is not installed.

``configs/metadata.json`` describes it, ``configs/inference.json`` segments the scans of a folder with MONAI's own
transforms, inferer and network, ``models/model.pt`` holds the weights and ``docs/README.md`` says how to run it::

    python -m monai.bundle run --config_file configs/inference.json --images "/data/*.nii.gz"
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from .. import __version__
from ..jobs.writing import beside, explain_unwritable
from ..segmentation.applying import OVERLAP
from ..segmentation.network_file import SegmentationNetwork
from ..segmentation.unet import strides_of
from ..volumes.fingerprint import FAINT, PERCENTILES
from .monai_bundle import describe, enumerate_text, made_with, make_parts


def write_segmentation_bundle(folder: Path, network: SegmentationNetwork) -> None:
    """Write the bundle.

    :param folder: claimed by :func:`GEDGANLib.jobs.writing.claim_empty_folder`.
    :raises InputError: it cannot be written.
    """
    import torch

    make_parts(folder)
    try:
        weights = {name: tensor.detach().cpu().clone() for name, tensor in network.network.state_dict().items()}
        with beside(folder / "models" / "model.pt") as partial:
            torch.save(weights, partial)
    except OSError as error:
        raise explain_unwritable(folder, error) from error
    describe(folder, metadata(network), inference(network), _readme(network))


def metadata(network: SegmentationNetwork) -> dict[str, Any]:
    """``metadata.json`` after MONAI's schema."""
    plan = network.plan
    names, labels = [channel.name for channel in plan.channels], ["background", *(each.name for each in plan.labels)]
    shared = {"spatial_shape": list(plan.patch), "dtype": "float32", "is_patch_data": True}
    image = {
        "type": "image", "format": "magnitude", "num_channels": len(names), "value_range": [-1, 1],
        "channel_def": dict(enumerate_text(names)), **shared,
    }  # fmt: skip
    pred = {
        "type": "image", "format": "segmentation", "num_channels": len(labels), "value_range": [0, 1],
        "channel_def": dict(enumerate_text(labels)), **shared,
    }  # fmt: skip
    return {
        **made_with(),
        "name": f"GED-GAN {network.path.stem}",
        "task": "Segmentation",
        "description": f"{_origin(network)} Voxels of {_words(plan.spacing)} mm.",
        "data_source": network.about.get("description") or "unnamed scans",
        "image_classes": ", ".join(names),
        "label_classes": ", ".join(labels),
        "pred_classes": ", ".join(labels),
        "intended_use": "Research. Look at what it segments before you use it; not a medical device.",
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


def inference(network: SegmentationNetwork) -> dict[str, Any]:
    """``inference.json``: what a scan is brought to, the network in windows, and the way back to its own voxels."""
    plan = network.plan
    strides = [list(stride) for stride in strides_of(plan.patch, len(plan.widths), plan.spacing)]
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image", "image_only": True},
        {"_target_": "EnsureChannelFirstd", "keys": "image"},
        {"_target_": "EnsureTyped", "keys": "image", "dtype": "float32"},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None},
        *_intensities(plan.channels),
        # As far as voxels become larger, what is finer is taken away first.
        {"_target_": "Lambdad", "keys": "image", "func": "$lambda image: @smooth(image)", "track_meta": True},
        {"_target_": "Spacingd", "keys": "image", "pixdim": "@spacing", "mode": "bilinear", "padding_mode": "border"},
    ]
    files = "[path.replace('_0000.nii.gz', '_{:04d}.nii.gz'.format(channel)) for channel in range(@channels)]"
    return {
        "imports": ["$import glob", "$import torch", "$import numpy", "$import monai"],
        "bundle_root": ".",
        "images": "$@bundle_root + '/images/*.nii.gz'",
        "output_dir": "$@bundle_root + '/segmented'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "channels": len(plan.channels),
        "spacing": list(plan.spacing),
        "smooth": "$lambda image: monai.transforms.GaussianSmooth([max(0.5 * max((new / old) ** 2 - 1, 0) ** 0.5, 1e-2)"
        " for new, old in zip(@spacing, image.pixdim.tolist())])(image)",
        "network_def": {
            "_target_": "DynUNet",
            "spatial_dims": len(plan.patch),
            "in_channels": len(plan.channels),
            "out_channels": len(plan.labels) + 1,
            "kernel_size": [[3] * len(plan.patch)] * len(plan.widths),
            "strides": strides,
            "upsample_kernel_size": strides[1:],
            "filters": list(plan.widths),
            "norm_name": "instance",
        },
        "network": "$@network_def.to(@device)",
        "weights": "$torch.load(@bundle_root + '/models/model.pt', map_location=@device, weights_only=True)",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": list(plan.patch),
            "sw_batch_size": 4,
            "overlap": OVERLAP,
            "mode": "gaussian",
            "padding_mode": "replicate",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {
                    "_target_": "SaveImaged",
                    "keys": "pred",
                    "output_dir": "@output_dir",
                    "output_postfix": "label",
                    "output_dtype": "$numpy.uint8",
                    "separate_folder": False,
                    "resample": False,
                    "print_log": False,
                },
            ],
        },
        "cases": "$[{'image': " + files + "} for path in sorted(glob.glob(@images)) "
        "if @channels == 1 or path.endswith('_0000.nii.gz')]",
        "predict": "$lambda case: {**case, 'pred': @inferer(case['image'][None].to(@device), @network)[0].cpu()}",
        "run": [
            "$torch.set_grad_enabled(False)",
            "$@network.load_state_dict(@weights)",
            "$@network.eval()",
            "$[@postprocessing(@predict(@preprocessing(case))) for case in @cases]",
        ],
    }


LOW, HIGH = PERCENTILES
FOREGROUND = (
    f"(lambda part: (lambda voxels, low, high: monai.transforms.ScaleIntensityRange(low, max([high, *numpy.percentile("
    f"voxels[voxels > low + {FAINT} * (high - low)], [{HIGH}])] if high > low else [high]), -1, 1, clip=True)(part))("
    f"part.cpu().numpy(), *numpy.percentile(part.cpu().numpy(), [{LOW}, {HIGH}])))"
)
"""As ``volumes.fingerprint.foreground_range``, of one channel."""


def _intensities(channels: Any) -> list[dict[str, Any]]:
    """Transforms that map each channel to [-1, 1]: by percentiles of its own, or by a window."""
    if all(channel.mapping == "percentiles" for channel in channels):
        return [
            {
                "_target_": "ScaleIntensityRangePercentilesd", "keys": "image", "lower": LOW, "upper": HIGH,
                "b_min": -1, "b_max": 1, "clip": True, "channel_wise": True,
            }
        ]  # fmt: skip
    # Channel after channel, since one may be on an absolute scale and the next one not.
    parts = []
    for index, channel in enumerate(channels):
        if channel.mapping == "window":
            low, high = channel.typical
            scale = f"monai.transforms.ScaleIntensityRange({low}, {high}, -1, 1, clip=True)"
        elif channel.mapping == "foreground":
            scale = FOREGROUND
        else:
            scale = f"monai.transforms.ScaleIntensityRangePercentiles({LOW}, {HIGH}, -1, 1, clip=True)"
        parts.append(f"{scale}(image[{index}:{index + 1}])")
    func = f"$lambda image: torch.cat([{', '.join(parts)}])"
    return [{"_target_": "Lambdad", "keys": "image", "func": func, "track_meta": True}]


def _words(numbers: Any) -> str:
    return " x ".join(f"{number:g}" for number in numbers)


def _origin(network: SegmentationNetwork) -> str:
    about = network.about
    return (
        f"Segments {', '.join(label.name for label in network.plan.labels)}. It learned with GED-GAN {__version__} "
        f"from {about.get('labelled', '?')} segmented scan(s), {about.get('variations', '?')} variations of these and "
        f"{about.get('rest', '?')} scan(s) that nobody had segmented."
    )


def _readme(network: SegmentationNetwork) -> str:
    labels = ", ".join(f"{label.index} {label.name}" for label in network.plan.labels)
    return f"""# {network.path.stem}

{_origin(network)}

    python -m monai.bundle run --config_file configs/inference.json --images "/data/*.nii.gz"

run in the folder of this bundle, writes a segmentation of each scan into `segmented/`, on the scan's own voxels. Of
several channels give the first ones, `*_0000.nii.gz`. Labels: 0 background, {labels}.

Written by GED-GAN {__version__} on Python {platform.python_version()}. Research use; not a medical device.
"""
