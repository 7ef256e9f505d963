"""Variations as a transform of MONAI, for dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from ..synthesis.on_the_fly import OnTheFly
from ..volumes.case import as_kind


class RandVariationd(RandomizableTransform, MapTransform):
    """Makes variations of scans: other anatomy of the population that a run of ``gedgan align`` knows, with their own
    texture. Put it after loading, and before crops: what lies beyond the voxels that it is given repeats their edge.

    :param keys: of the image and, behind it, of its segmentations; as :class:`monai.data.MetaTensor`, channels first.
    :param run: folder of the aligned run.
    :param prob: how often a scan is varied.
    :param name_of: tells the name of the case from the dictionary; the name of the image's file when not given.
    :param options: of :class:`GEDGANLib.synthesis.on_the_fly.OnTheFly`, ``strength=(0, 1)`` for example.

    .. code-block:: python

        from monai.data import DataLoader, Dataset
        from monai.transforms import Compose, LoadImaged, RandFlipd
        from GEDGANLib.exchange.monai_transform import RandVariationd

        files = [{"image": "imagesTr/one_0000.nii.gz", "label": "labelsTr/one.nii.gz"}]
        loaded = LoadImaged(("image", "label"), ensure_channel_first=True)
        varied = RandVariationd(("image", "label"), run="RUN", prob=0.8, strength=(0, 1), turn=15)
        transform = Compose([loaded, varied, RandFlipd(("image", "label"), prob=0.5, spatial_axis=0)])
        for batch in DataLoader(Dataset(files, transform), batch_size=1):
            print(batch["image"].shape, batch["label"].unique())
    """

    backend = MapTransform.backend

    def __init__(
        self,
        keys: KeysCollection,
        run: str | Path,
        prob: float = 1.0,
        name_of: Callable[[Mapping[Hashable, Any]], str] | None = None,
        allow_missing_keys: bool = False,
        **options: Any,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.draw, self.name_of = OnTheFly(run, **options), name_of

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        found = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return found
        image_key, *label_keys = self.key_iterator(found)
        image = found[image_key]
        path = str(image.meta.get("filename_or_obj", ""))
        name = self.draw.case_of(path) if self.name_of is None else self.name_of(found)
        voxels, affine = image.detach().cpu().numpy(), image.affine.cpu().numpy()
        labels = {key: found[key].detach().cpu().numpy() for key in label_keys}
        state, made = self.R.get_state(), None
        for key, channel in [(key, number) for key, each in labels.items() for number in range(len(each))]:
            self.R.set_state(state)  # the same variation for all of them
            made, labels[key][channel] = self.draw(name, voxels, labels[key][channel].copy(), affine, self.R)
        if made is None:
            made, _ = self.draw(name, voxels, None, affine, self.R)
        for key, array in labels.items():
            found[key] = _like(found[key], array)
        found[image_key] = _like(image, made)
        return found


def _like(given: Any, array: np.ndarray) -> Any:
    """Voxels with the type, the device, the affine and whatever else is known of others."""
    kind = torch.empty(0, dtype=given.dtype).numpy().dtype
    made = torch.from_numpy(as_kind(array, kind)).to(given.device)
    return MetaTensor(made, meta=given.meta, applied_operations=given.applied_operations)
