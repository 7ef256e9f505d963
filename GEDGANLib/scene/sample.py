"""The sample for who has no scans at hand: the embedded cohort, small enough to be learned from in minutes."""

from __future__ import annotations

from collections.abc import Iterator

from ..volumes.case import Case
from ..volumes.cohort import make_case

COUNT, SHAPE, SPACING = 16, (24, 32, 24), 6.5
"""Cases; voxels of each; mm: few enough that three minutes of a processor teach something."""


def sample_cases(count: int = COUNT) -> Iterator[Case]:
    """Yield variations of one average brain with their segmentations, made here; nothing is downloaded."""
    for index in range(count):
        yield make_case(index, 0, SHAPE, SPACING)
