"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..volumes.pipeline import WorkingCase
from .privacy import Privacy


@dataclass
class Evaluation:
    """What was found.

    :param figures: section -> figure -> ``{"made": ..., "real": ..., ...}``; plain JSON types.
    :param notes: what could not be said, and why, in sentences.
    :param summary: what a reader should know first, in sentences.
    :param curves: arrays for plots.
    :param made, training, unseen: the cases themselves, to show.
    :param reference: what synthesized cases are compared with, in words.
    """

    about: dict[str, Any]
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    made: list[WorkingCase] = field(default_factory=list)
    training: list[WorkingCase] = field(default_factory=list)
    unseen: list[WorkingCase] = field(default_factory=list)
    privacy: Privacy | None = None
    reference: str = "real cases that are new to the model"

    def to_dict(self) -> dict[str, Any]:
        """For ``report.json``: figures, notes and summary; no arrays, no cases."""
        return {
            "about": self.about,
            "summary": self.summary,
            "notes": self.notes,
            "figures": self.figures,
        }
