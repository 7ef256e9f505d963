"""Variations as a transform of TorchIO (``pip install torchio``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchio

from ..synthesis.on_the_fly import OnTheFly
from ..volumes.case import as_kind


class RandomVariation(torchio.transforms.augmentation.RandomTransform):
    """Makes variations of scans: other anatomy of the population that a run of ``gedgan align`` knows, with their own
    texture. Put it before crops: what lies beyond the voxels that it is given repeats their edge.

    :param run: folder of the aligned run.
    :param options: of :class:`GEDGANLib.synthesis.on_the_fly.OnTheFly`, ``strength=(0, 1)`` for example.
    :param p: how often a subject is varied.
    :param name_key: of the subject's entry with the name of the case; the name of the image's file where there is none.

    .. code-block:: python

        import torchio
        from GEDGANLib.exchange.torchio_transform import RandomVariation

        image = torchio.ScalarImage("imagesTr/one_0000.nii.gz")
        subject = torchio.Subject(image=image, label=torchio.LabelMap("labelsTr/one.nii.gz"))
        varied = RandomVariation("RUN", strength=(0, 1), turn=15, p=0.8)
        transform = torchio.Compose([varied, torchio.RandomFlip(axes=(0,))])
        for subject in torchio.SubjectsLoader(torchio.SubjectsDataset([subject], transform=transform)):
            print(subject["image"]["data"].shape, subject["label"]["data"].unique())
    """

    def __init__(self, run: str | Path, p: float = 1.0, name_key: str = "name", **options: Any) -> None:
        super().__init__(p=p)
        self.draw, self.name_key = OnTheFly(run, **options), name_key

    def apply_transform(self, subject: torchio.Subject) -> torchio.Subject:
        images = subject.get_images(intensity_only=True)
        labels = [image for image in subject.get_images(intensity_only=False) if isinstance(image, torchio.LabelMap)]
        name = subject.get(self.name_key) or self.draw.case_of(str(images[0].path))
        stacked = np.concatenate([image.numpy() for image in images])
        seed = int(torch.randint(2**31, (1,)))
        made = None
        for label in labels:
            changed = label.numpy().copy()
            for channel in range(len(changed)):
                random = np.random.default_rng(seed)  # the same variation for all of them
                made, changed[channel] = self.draw(name, stacked, changed[channel].copy(), images[0].affine, random)
            label.set_data(torch.from_numpy(changed))
        if made is None:
            made, _ = self.draw(name, stacked, None, images[0].affine, np.random.default_rng(seed))
        first = 0
        for image in images:
            channels, kind = image.data.shape[0], image.numpy().dtype
            image.set_data(torch.from_numpy(as_kind(made[first : first + channels], kind)))
            first += channels
        return subject
