"""The sections of the panel: what it calls on each of them, and which there are.

A new section is a module with a class of :class:`Section`, a line in :func:`sections_of`, and its widgets in
``Resources/UI/GEDGAN.ui``; what its buttons look like in which state stands in ``states``.
"""

from __future__ import annotations

from typing import Any


class Section:
    """One section; here is what the panel calls on all of them, for those that it concerns.

    :param panel: the widget of the module.
    """

    def __init__(self, panel: Any) -> None:
        self.panel, self.ui = panel, panel.ui

    def find_again(self) -> None:
        """The panel is complete: follow what an earlier Slicer has left running."""

    def opened(self) -> None:
        """The panel is complete, and what was running is followed."""

    def entered(self) -> None:
        """The panel is shown again, after another module."""

    def leave(self) -> None:
        """The module is unloaded or reloaded: hear no more of anything."""

    def scene_changed(self) -> None:
        """Nodes were added or removed."""

    def scene_closed(self) -> None:
        """All nodes are gone."""

    def parameter_changed(self, name: str) -> None:
        """A value of the parameter node is another one."""

    def tell_silence(self) -> None:
        """Called every second while something runs: say when nothing was heard of it for long."""

    def busy(self) -> bool:
        """Whether something of this section runs."""
        return False


def sections_of(panel: Any) -> dict[str, Section]:
    """All sections, newly made, by the names that they have in the panel, in the order in which they stand there."""
    from .align_section import AlignSection
    from .data_section import DataSection
    from .explore_section import ExploreSection
    from .judge_section import JudgeSection
    from .set_up_section import SetUpSection
    from .synthesize_section import SynthesizeSection
    from .train_section import TrainSection

    kinds = {
        "set_up": SetUpSection,
        "data_section": DataSection,
        "align_section": AlignSection,
        "train_section": TrainSection,
        "synthesize_section": SynthesizeSection,
        "explore_section": ExploreSection,
        "judge_section": JudgeSection,
    }
    return {name: kind(panel) for name, kind in kinds.items()}
