"""A model inside Slicer's process, for synthesis and sliders; PyTorch is imported when it is first needed, not before.

Where that is impossible (a damaged installation, too little memory) :class:`EngineUnavailable` says so, and a worker
process does the same work.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _


class EngineUnavailable(Exception):
    """The model cannot be used in this process; the message says why."""


class Engine:
    """Holds the model that was used last."""

    def __init__(self) -> None:
        self.model: Any | None = None
        self._key: tuple | None = None

    @property
    def loaded(self) -> bool:
        return self.model is not None

    def loading(self, path: Path, device: str = "auto") -> Iterator[str]:
        """Load a model, unless it is there already; yields what comes next, in words, before each part.

        :param device: as ``gedgan --device`` takes it.
        :raises InputError: the file is not a model.
        :raises EngineUnavailable: see the class.
        """
        path = Path(path)
        key = (str(path), path.stat().st_mtime_ns if path.exists() else 0, device)
        if key == self._key and self.model is not None:
            return
        self.release()
        yield _("Starting PyTorch (once)…")
        try:
            import torch
        except Exception as error:  # ImportError, OSError of a library that does not load
            raise EngineUnavailable(_("PyTorch does not start in Slicer ({reason})").format(reason=error)) from error
        yield _("Loading the model…")
        from GEDGANLib.device import choose_device
        from GEDGANLib.synthesis.model_file import load_model

        try:
            self.model = load_model(path, choose_device(device))
        except (RuntimeError, MemoryError, torch.cuda.OutOfMemoryError) as error:
            raise _unavailable(error) from error
        self._key = key

    def making(self, form: dict, seed: int, count: int, class_name: str | None) -> Iterator[Any]:
        """Yield the cases of a seed one by one.

        :param form: ``truncation`` and ``original``.
        :raises EngineUnavailable: not enough memory.
        """
        from GEDGANLib.synthesis.output import original_grid
        from GEDGANLib.synthesis.synthesizer import Form, Synthesizer

        grid = original_grid(self.model.plan) if form.get("original") else None
        synthesizer = Synthesizer(self.model, Form(grid, None, form.get("truncation", 1.0)))
        try:
            for index in range(count):  # one at a time, so that Slicer answers in between
                yield from synthesizer.cases(1, seed, index, class_name)
        except (RuntimeError, MemoryError) as error:
            raise _unavailable(error) from error

    def release(self) -> None:
        """Forget the model and give back the GPU's memory."""
        import sys

        self.model, self._key = None, None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _unavailable(error: BaseException) -> EngineUnavailable:
    words = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return EngineUnavailable(_("the model does not run in Slicer ({reason})").format(reason=words))
