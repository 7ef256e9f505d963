"""Which cases are asked of a model: said once, for Slicer's own process, for a worker, and for an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class SynthesisRequest:
    """Cases that somebody wants.

    :param truncation: 0 for the most typical case, 1 as varied as was learned, 2 at most.
    :param original: voxels and size like the scans learned from.
    :param class_name: None for classes as in the training.
    :param device: as ``gedgan --device`` takes it.
    """

    model: Path
    count: int
    seed: int = 0
    truncation: float = 1.0
    original: bool = False
    class_name: str | None = None
    device: str = "auto"

    def options(self) -> list[Any]:
        """For commands that synthesize, besides the model and where to write."""
        options: list[Any] = ["-n", self.count, "--seed", self.seed, "--truncation", self.truncation]
        options += ["--device", self.device]
        options += ["--class", self.class_name] if self.class_name else []
        return [*options, "--original"] if self.original else options

    def command(self, folder: Path, screen: Path | None = None) -> list[Any]:
        """Of ``gedgan``, that writes the cases into a folder.

        :param screen: folder of the training cases that they are compared with.
        """
        screened = [] if screen is None else ["--screen", screen]
        return ["synthesize", self.model, "-o", folder, *self.options(), *screened]
