"""Runs the examples of the docstrings of MONAI's and TorchIO's transforms on a case of a data set, and a short training
of nnU-Net's. For ``check_training_loops.sh``, whose environment has all of them.

    python check_training_loops.py examples RUN DATA WORK
    python check_training_loops.py nnunet RUN DATA WORK
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from pathlib import Path

import numpy as np

from GEDGANLib.alignment.job import Aligned
from GEDGANLib.volumes.dataset import find_dataset
from GEDGANLib.volumes.files import read_volume

CASES = 10


def example_of(text: str) -> str:
    """The block of Python in a docstring."""
    block = re.search(
        r"\.\. code-block:: python\n\n((?:[ ]{4,}.*\n|\n)+)", textwrap.dedent(text.replace("\n    ", "\n"))
    )
    return textwrap.dedent(block.group(1))


def cases_of(run: Path, data: Path) -> list:
    """Some segmented cases that the run knows."""
    known = set(Aligned.load(run / "alignment.safetensors").names)
    return [case for case in find_dataset(data).cases if case.label is not None and case.name in known][:CASES]


def examples(run: Path, data: Path, work: Path) -> None:
    """Run those of the docstrings, and write a data set for nnU-Net."""
    from GEDGANLib.exchange import monai_transform, torchio_transform

    cases = cases_of(run, data)
    for module, name in ((monai_transform, "RandVariationd"), (torchio_transform, "RandomVariation")):
        code = example_of(getattr(module, name).__doc__)
        code = code.replace("imagesTr/one_0000.nii.gz", str(cases[0].images[0])).replace('"RUN"', repr(str(run)))
        code = code.replace("labelsTr/one.nii.gz", str(cases[0].label))
        print(f"{name}:", flush=True)
        exec(compile(code, name, "exec"), {"__name__": name})
    raw = work / "raw" / "Dataset501_Check"
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for case in cases:
        shutil.copy(case.images[0], raw / "imagesTr" / f"{case.name}_0000.nii.gz")
        shutil.copy(case.label, raw / "labelsTr" / f"{case.name}.nii.gz")
    names = find_dataset(data).label_names
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{name: value for value, name in names.items()}},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(described))


def nnunet(run: Path, data: Path, work: Path) -> None:
    """Find the trainer as nnU-Net does, compare where voxels lie before and after preprocessing, and train a moment."""
    import torch
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    import GEDGANLib.exchange.nnunet_trainer as here
    from GEDGANLib.exchange.preprocessed import affine_of

    folder = here.__path__[0]
    found = recursive_find_python_class(folder, "nnUNetTrainerVariations", None, base_folder=folder)
    preprocessed = work / "preprocessed" / "Dataset501_Check"
    plans, described = (json.loads((preprocessed / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json"))
    plans["continue_training"] = False
    trainer = found(plans, "3d_fullres", 0, described, torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 3, 1
    trainer.initialize()
    trainer.run_training()
    training, validation = trainer.get_tr_and_val_datasets()
    assert training.draw.left_out == frozenset(validation.identifiers)
    case = next(case for case in cases_of(run, data) if case.name in training.identifiers)
    _, segmentation, _, properties = training.dataset.load_case(case.name)
    label = read_volume(case.label)
    affine = affine_of(properties, trainer.plans_manager.transpose_forward, segmentation.shape[1:])
    middles = [
        (place @ [*np.argwhere(voxels > 0).mean(0), 1])[:3]
        for place, voxels in ((affine, np.asarray(segmentation[:])[0]), (label.affine, label.array))
    ]
    apart = float(np.linalg.norm(middles[0] - middles[1]))
    print(f"The labels lie {apart:.2f} mm from where they lay before preprocessing.")
    assert apart < 0.5
    training.share = 1.0
    data_varied, labels, _, properties = training.load_case(case.name)
    locations = properties["class_locations"]
    assert data_varied.shape[1:] == labels.shape[1:] and all(
        (labels[0][tuple(where[:, 1:].T)] == label).all()
        for label, where in locations.items()
        if isinstance(label, int)
    )
    print(f"nnU-Net trained with variations; modes without {', '.join(sorted(training.draw.left_out))}.")


if __name__ == "__main__":
    {"examples": examples, "nnunet": nnunet}[sys.argv[1]](*map(Path, sys.argv[2:]))
