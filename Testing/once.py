"""What takes long to make is made once for all processes that run tests side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def made_once(folder: Path) -> Iterator[bool]:
    """Tells whether a folder that the processes share is there already; the first one makes it, and the others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        yield folder.exists()
