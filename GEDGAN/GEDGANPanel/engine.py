"""A model inside Slicer's process, for synthesis and sliders; PyTorch is imported when it is first needed, not before.

Where that is impossible (a damaged installation, too little memory) :class:`EngineUnavailable` says so, and a worker
process does the same work.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from GEDGANLib.errors import InputError

from .synthesis_request import SynthesisRequest


class EngineUnavailable(InputError):
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
        yield from self.starting()
        yield _("Loading the model…")
        from GEDGANLib.synthesis.model_file import load_model

        with explained():
            self.model = load_model(path, device)
        self._key = key

    def starting(self) -> Iterator[str]:
        """Start PyTorch, unless it runs; yields what comes next, in words.

        :raises EngineUnavailable: see the class.
        """
        yield _("Starting PyTorch (once)…")
        try:
            import torch  # noqa: F401
        except Exception as error:  # ImportError, OSError of a library that does not load
            raise EngineUnavailable(_("PyTorch does not start in Slicer ({reason}).").format(reason=error)) from error

    def making(self, request: SynthesisRequest) -> Iterator[Any]:
        """Yield the cases that are asked for, one by one.

        :raises EngineUnavailable: not enough memory.
        """
        from GEDGANLib.synthesis.output import original_grid, refuse_huge
        from GEDGANLib.synthesis.synthesizer import Form, Synthesizer

        grid = original_grid(self.model.plan) if request.original else None
        if grid is not None:
            refuse_huge(grid, self.model.plan)
        synthesizer = Synthesizer(self.model, Form(grid, None, request.truncation))
        # One at a time, so that Slicer answers in between.
        cases = (
            case
            for index in range(request.count)
            for case in synthesizer.cases(1, request.seed, index, request.class_name)
        )
        yield from explained_cases(cases)

    def release(self) -> None:
        """Forget the model and give back the GPU's memory."""
        import sys

        self.model, self._key = None, None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def explained() -> Iterator[None]:
    """Around work of a model in this process: what PyTorch raises, above all for want of memory, becomes
    :class:`EngineUnavailable`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        text = _("The model does not run in Slicer ({reason}).").format(reason=words)
        raise EngineUnavailable(text) from error


def explained_cases(cases: Iterator[Any]) -> Iterator[Any]:
    """The cases, each made within :func:`explained`."""
    while True:
        with explained():
            try:
                case = next(cases)
            except StopIteration:
                return
        yield case
