"""A trainer of nnU-Net (``pip install nnunetv2``, 2.6 or later) that draws variations of its scans on the fly."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from GEDGANLib.exchange.preprocessed import affine_of, class_locations
from GEDGANLib.synthesis.on_the_fly import OnTheFly, darkest_of


class nnUNetTrainerVariations(nnUNetTrainer):
    """Trains on variations of the scans of its fold, in a share of the cases that it looks at; all else is nnU-Net's.

    The cases have the names that they have in the run of ``gedgan align``. The modes of a fold are made without the
    images that it validates on. In the environment: ``GEDGAN_RUN``, the folder of that run; ``GEDGAN_SHARE``, of the
    cases, 0.5 where it is not given; ``GEDGAN_STRENGTH``, the largest, 1 where it is not given.

    .. code-block:: sh

        export nnUNet_extTrainer=$(python -c "import GEDGANLib.exchange.nnunet_trainer as here; print(*here.__path__)")
        gedgan align nnUNet_raw/Dataset501_Mine -o RUN
        nnUNetv2_plan_and_preprocess -d 501 -c 3d_fullres
        GEDGAN_RUN=RUN nnUNetv2_train 501 3d_fullres 0 -tr nnUNetTrainerVariations
    """

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        training, validation = super().get_tr_and_val_datasets()
        run, strength = os.environ.get("GEDGAN_RUN"), float(os.environ.get("GEDGAN_STRENGTH", 1))
        if not run:
            raise RuntimeError("GEDGAN_RUN is not set: give the folder of a run of gedgan align there.")
        # Of the fold "all" nothing is validated on that is not trained on.
        apart = [name for name in validation.identifiers if name not in set(training.identifiers)]
        draw = OnTheFly(run, (0.0, strength), left_out=apart)
        unknown = [name for name in training.identifiers if name not in draw.names]
        if unknown:
            words = f"{len(unknown)} of {len(training.identifiers)} cases are not in {run}"
            self.print_to_log_file(f"{words} and stay as they are, {unknown[0]} for example.")
        share = float(os.environ.get("GEDGAN_SHARE", 0.5))
        masked = self.configuration_manager.use_mask_for_norm
        varied = VariedDataset(training, draw, share, self.plans_manager.transpose_forward, masked)
        for name in [name for name in training.identifiers if name in draw.names][:1]:
            varied.vary(name)  # what cannot be done is said here, and not by a process in the background
        return varied, validation


class VariedDataset:
    """A data set of nnU-Net of which some cases come as variations.

    :param share: of the cases.
    :param transposed, masked: ``transpose_forward`` of the plans, and ``use_mask_for_norm`` of the configuration: where
        a channel was normalised within a mask, air is 0.
    """

    def __init__(self, dataset: Any, draw: OnTheFly, share: float, transposed: Any, masked: Any) -> None:
        self.dataset, self.draw, self.share, self.transposed, self.masked = dataset, draw, share, transposed, masked

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet, while this is brought to another process
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, identifier: str) -> Any:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict]:
        """Voxels, segmentation, that of the stage before, and properties of a case."""
        if identifier in self.draw.names and np.random.uniform() < self.share:
            return self.vary(identifier)
        return self.dataset.load_case(identifier)

    def vary(self, identifier: str) -> tuple[Any, Any, Any, dict]:
        """A variation of a case; the case itself where it comes with the segmentation of a stage before."""
        data, segmentation, before, properties = self.dataset.load_case(identifier)
        if before is not None:
            return data, segmentation, before, properties
        data, segmentation = np.asarray(data[:], np.float32), np.asarray(segmentation[:])
        affine = affine_of(properties, self.transposed, data.shape[1:])
        random = np.random.default_rng(np.random.randint(2**31))
        channels = self.draw.variations.plan.channels
        absolute = [channel.mapping == "window" for channel in channels]
        darkest = [0.0 if masked else darkest_of(voxels) for masked, voxels in zip(self.masked, data)]
        air = [None if fixed else value for fixed, value in zip(absolute, darkest)]
        data, labels = self.draw(identifier, data, segmentation[0], affine, random, air)
        locations = class_locations(labels, properties["class_locations"], random)
        return data, labels[None], None, {**properties, "class_locations": locations}
