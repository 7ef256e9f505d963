"""A scan deformed to an edit of its segmentation, as a case: on its own voxels, with the segmentation that was drawn.

What is done to it is :mod:`GEDGANLib.alignment.editing`. Most edits are corrections, and the scan is right as it is; so
this is only ever done where somebody asks for it. The result stems from a patient and says so.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from .. import __version__
from ..alignment.editing import Change, Deformation, Edit, Reached, edited_labels, topology_changed
from ..alignment.job import device_that_aligns
from ..alignment.sampling import LabelImage, SmoothImage, identity
from ..alignment.variations import ORDER, background_of
from ..errors import InputError
from ..volumes.case import Case, description_of_simulation, numbered_by
from ..volumes.geometry import spacing_of

REFUSED = {
    "appears": "{name} is in the edited segmentation and was not there before",
    "vanishes": "{name} is gone from the edited segmentation",
    "pieces": "{name} consists of {after} piece(s) after the edit, and of {before} before",
    "holes": "{name} has {after} hole(s) through it after the edit, and {before} before",
    "cavities": "{name} encloses {after} cavity(ies) after the edit, and {before} before",
}
"""What to say of an edit that no deformation can follow."""
HINTS = {
    "appears": "Draw changes of segments that are there, or leave it out.",
    "vanishes": "Shrink it, but leave some of it.",
    "pieces": "Connect or remove what hangs loose (in Slicer: Segment Editor, effect Islands) and try again.",
    "holes": "Close them, or open them again (in Slicer: Segment Editor, effect Smoothing, closing) and try again.",
    "cavities": "Fill them, or open them again (in Slicer: Segment Editor, Smoothing, fill holes) and try again.",
}


@dataclass(frozen=True)
class Simulation:
    """What came of an edit.

    :param case: the deformed scan with the edited segmentation, on the scan's voxels.
    :param names: of the edited segments, in the order of ``deformation.reached``.
    :param reach: mm from the edit, beyond which nothing moved.
    """

    case: Case
    names: tuple[str, ...]
    deformation: Deformation
    reach: float

    @property
    def missed(self) -> list[str]:
        """Names of segments to which the image did not come."""
        return [name for name, reached in zip(self.names, self.deformation.reached) if not reached.enough]


def simulating(
    case: Case, edited: Case, free: Sequence[str] | None = (), reach: float | None = None, device: str = "auto"
) -> Generator[tuple[int, int], None, Simulation]:
    """Deform a scan to an edit of its segmentation, in steps: yields iterations done and in all.

    :param case: with its segmentation as it was.
    :param edited: the same scan with the edited segmentation; segments are the same where they have one name.
    :param free: names of segments that were not edited and may move along, None for all of them; what belongs to no
        segment may, others do not.
    :param device: where to compute, as ``gedgan --device`` takes it; the CPU where an Apple GPU lacks an operation.
    :param reach: mm from the edit, beyond which nothing moves; see :data:`GEDGANLib.alignment.editing.REACH`.
    :raises InputError: nothing was edited, no deformation can follow, or there is no such segment or reach.
    """
    if case.labels is None or edited.labels is None:
        raise InputError(f"{case.name} is not segmented.", "Give its segmentation before and after the edit.")
    if reach is not None and not reach > 0:
        raise InputError(f"A reach of {reach:g} mm leaves nothing to move.", "Give some mm, above 0.")
    if min(case.labels.shape) < 2:
        raise InputError(f"{case.name} has one slice only.", "Take a volume of several slices.")
    before, after = case.labels, _as_before(case, edited)
    changed = edited_labels(before, after)
    if not changed:
        raise InputError(
            f"The edited segmentation of {case.name} is the same as before.",
            "Edit a copy of the segmentation, and give the segmentation and the copy.",
        )
    names = {label.index: label.name for label in case.label_table}
    for label in changed:
        change = _change(before == label, after == label)
        if change is not None:
            raise _refusal(names[label], change)
    others = [int(label) for label in np.unique(before) if label and label not in changed]
    free = [names[label] for label in others] if free is None else list(free)
    unknown = [name for name in free if name not in {names[label] for label in others}]
    if unknown:
        there = ", ".join(names[label] for label in others) or "none"
        raise InputError(f"{unknown[0]} is no segment that was left as it was.", f"These are: {there}.")
    moving = [label for label in others if names[label] in free]
    held = [label for label in others if label not in moving]
    edit = Edit(before, after, spacing_of(case.affine), held, reach, device_that_aligns(device))
    deformation = yield from edit.solving()
    image = case.image.astype(np.float32, copy=True)
    image[(slice(None), *deformation.window)] = _read_off(case.image[(slice(None), *deformation.window)], deformation)
    image = case.in_its_kinds(image)
    labels = _moved_along(before, after, changed, moving, deformation) if moving else after
    told = {
        "simulated_from": case.name, "edited_segments": [names[label] for label in changed],
        "reach_mm": round(edit.reach, 3),
        "moved_along": free, "smallest_jacobian": round(deformation.smallest_jacobian, 4),
        "farthest_mm": round(deformation.farthest, 3), "library_version": __version__,
    }  # fmt: skip
    told["figures"] = [figures_of(names[each.label], each) for each in deformation.reached]
    told["missed"] = [names[each.label] for each in deformation.reached if not each.enough]
    made = replace(
        case, name=f"{case.name}_simulated", image=image, labels=labels.astype(case.labels.dtype),
        description=description_of_simulation(case.name), provenance=told,
    )  # fmt: skip
    return Simulation(made, tuple(names[label] for label in changed), deformation, edit.reach)


def figures_of(name: str, reached: Reached) -> str:
    """How near the image came to a segment, for people."""
    return (
        f"{name}: Dice {reached.dice:.3f}, volume {100 * reached.volume:+.1f} %, "
        f"the image follows {100 * reached.followed:.0f} % of the edit"
    )


def _as_before(case: Case, edited: Case) -> np.ndarray:
    """Edited labels, with the numbers that the segments had before."""
    for table in (case.label_table, edited.label_table):
        names = [label.name for label in table]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(
                f"Two segments are called {twice}: which is which after the edit?", "Give each a name of its own."
            )
    known = {label.name: label.index for label in case.label_table}
    for label in edited.label_table:
        if label.name not in known and (edited.labels == label.index).any():
            raise _refusal(label.name, Change("appears", 0, 1))
    return numbered_by(edited, known).astype(case.labels.dtype)


def _change(before: np.ndarray, after: np.ndarray) -> Change | None:
    """:func:`topology_changed` of a segment, looked for where it is alone."""
    both = np.argwhere(before | after)
    around = tuple(slice(low, high + 1) for low, high in zip(both.min(0), both.max(0)))
    return topology_changed(before[around], after[around])


def _refusal(name: str, change: Change) -> InputError:
    words = REFUSED[change.what].format(name=name, before=change.before, after=change.after)
    return InputError(f"{words}: no deformation can do that.", HINTS[change.what])


@torch.inference_mode()
def _read_off(window: np.ndarray, deformation: Deformation) -> np.ndarray:
    """An image (C, *window) where the deformation leads; what does not move stays exactly as it is."""
    displacement = deformation.displacement[None]
    volume, shape = torch.from_numpy(np.array(window, np.float32))[None].to(displacement), window.shape[1:]
    flat = [background_of(channel) for channel in window]
    flat = torch.tensor([np.nan if value is None else value for value in flat])
    moved = SmoothImage(volume, shape, ORDER, flat).at(identity(shape, shape, displacement) + displacement)
    still = (displacement == 0).all(1, keepdim=True)
    return torch.where(still, volume, moved)[0].cpu().numpy()


def _moved_along(
    before: np.ndarray, after: np.ndarray, changed: Sequence[int], moving: Sequence[int], deformation: Deformation
) -> np.ndarray:
    """The edited segmentation, its free segments where they have gone to with the image."""
    labels, window = after.copy(), deformation.window
    given = torch.from_numpy(np.array(before[window])).to(deformation.displacement.device)
    there = LabelImage(given).at(deformation.indices()).cpu().numpy()
    part = labels[window]
    part[np.isin(part, moving)] = 0
    follows = np.isin(there, moving) & ~np.isin(part, changed)
    part[follows] = there[follows]
    return labels
