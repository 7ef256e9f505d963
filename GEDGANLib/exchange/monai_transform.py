"""Variations as a transform of MONAI, for dictionaries."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform

from ..synthesis.on_the_fly import OnTheFly
from ..volumes.dataset import CHANNEL
from ..volumes.files import stem_of


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
        name = case_of(image) if self.name_of is None else self.name_of(found)
        labels = [found[key] for key in label_keys]
        state = self.R.get_state()
        for key, given in zip(label_keys or [None], labels or [None]):
            self.R.set_state(state)  # the same variation for all of them
            array = None if given is None else np.asarray(given)[0]
            made, changed = self.draw(name, np.asarray(image), array, np.asarray(image.affine), self.R)
            if key is not None:
                found[key] = _like(given, changed[None])
        found[image_key] = _like(image, made)
        return found


def case_of(image: MetaTensor) -> str:
    """The name of a case, from that of its image's file."""
    stem = stem_of(Path(str(image.meta["filename_or_obj"])))
    match = CHANNEL.match(stem)
    return match.group(1) if match else stem


def _like(given: Any, array: np.ndarray) -> Any:
    """Voxels with the type, the affine and whatever else is known of others."""
    made = torch.from_numpy(array).to(given.dtype)
    return MetaTensor(made, meta=given.meta, applied_operations=given.applied_operations)


__all__: Sequence[str] = ("RandVariationd", "case_of")
