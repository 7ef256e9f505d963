"""Labels of all cases of a data set -> one table with consecutive indices, names, colours and terminology."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from .case import Label, default_color
from .dataset import Dataset
from .reading import MAXIMUM_LABELS, RawCase
from .terminology import terminology_of


def is_background(name: str | None) -> bool:
    """Whether a label is called background: thresholds and imported label maps make such segments."""
    return name is not None and name.strip().lower() == "background"


class Named(NamedTuple):
    """What is segmented in a case.

    :param names: of its structures.
    :param numbers: of each voxel the place among them, from 1; 0 for background.
    """

    names: tuple[str, ...]
    numbers: np.ndarray


class LabelTable:
    """Collects the labels of all cases and numbers them consecutively.

    Segments are one label when they have one name; plain label maps when they have one value. What a data set wants
    none of (:attr:`.Dataset.wanted_labels`) is background.

    :attr:`others` are the names of that, as far as it was met.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.others: set[str] = set()
        self._found: dict[str, tuple[int, tuple[float, float, float] | None, str]] = {
            name: (value, None, "")
            for value, name in ({} if dataset.one_label else dataset.label_names).items()
            if not self.is_left_out(name)
        }

    def add(self, case: RawCase, path: Path | None) -> None:
        """Take the labels of a case in.

        :raises InputError: a value that ``dataset.json`` does not name, or too many labels.
        """
        if case.label_values is None:
            return
        found = dict(self._found)  # a case that is refused leaves nothing behind
        for value in np.unique(case.label_values):
            if value == 0:
                continue
            name, color, terminology = self.name_of(int(value), case)
            if self.is_left_out(name):
                continue
            if name is None:
                known = ", ".join(f"{v} ({n})" for v, n in sorted(self._dataset.label_names.items()))
                raise InputError(
                    f"{path} has the label {value}, which dataset.json does not name (it names {known}).",
                    "Name it there, or correct the segmentation.",
                )
            if name not in found:
                found[name] = (int(value), color, terminology)
            elif color is not None and found[name][1] is None:
                found[name] = (found[name][0], color, terminology)
        if len(found) > MAXIMUM_LABELS:
            raise InputError(
                f"{path} brings the number of different labels to {len(found)}, more than {MAXIMUM_LABELS}.",
                "If they are pieces of one structure, give it a name by --one-structure; else check that it is a "
                "segmentation and not an image.",
            )
        self._found = found

    def is_left_out(self, name: str | None) -> bool:
        """Whether voxels of a label of this name are background: it is called so, or is not wanted."""
        if is_background(name):
            return True
        wanted = self._dataset.wanted_labels
        if name is None or wanted is None or name in wanted:
            return False
        self.others.add(name)
        return True

    def name_of(self, value: int, case: RawCase) -> tuple[str | None, tuple[float, float, float] | None, str]:
        """Name, colour and terminology of a label value of ``case``; no name where ``dataset.json`` should have one."""
        if self._dataset.one_label:
            return self._dataset.one_label, None, ""
        if value in case.segment_names:
            return case.segment_names[value]
        name = self._dataset.label_names.get(value)
        if name is None and not self._dataset.names_are_complete:
            name = f"label {value}"
        return name, None, ""

    def by_name(self, case: RawCase) -> Named:
        """The segmentation of a case by the names of what is in it; several values may have one."""
        values = np.unique(case.label_values)
        numbers: dict[str, int] = {}
        lookup = np.zeros(int(values[-1]) + 1, np.uint16)
        for value in values[values > 0]:
            name = self.name_of(int(value), case)[0]
            if name is not None and not self.is_left_out(name):
                lookup[value] = numbers.setdefault(name, len(numbers) + 1)
        return Named(tuple(numbers), lookup[case.label_values])

    def labels(self) -> tuple[Label, ...]:
        """The labels found so far, in the order of their values."""
        ordered = sorted(self._found.items(), key=lambda item: (item[1][0], item[0]))
        return tuple(
            Label(
                index,
                value if len({v for v, _, _ in self._found.values()}) == len(self._found) else index,
                name,
                color or default_color(index),
                terminology or terminology_of(name),
            )
            for index, (name, (value, color, terminology)) in enumerate(ordered, start=1)
        )

    def renumber(self, case: RawCase, labels: tuple[Label, ...]) -> np.ndarray | None:
        """Label values of ``case`` as consecutive indices, uint8, or None where it has no segmentation."""
        if case.label_values is None:
            return None
        index_of = {label.name: label.index for label in labels}
        lookup = np.zeros(int(case.label_values.max()) + 1, dtype=np.uint8)
        for value in np.unique(case.label_values):
            if value:
                lookup[value] = index_of.get(self.name_of(int(value), case)[0], 0)  # of what is called background
        return lookup[case.label_values]
