"""A real MRML scene for every test, from slicer-core."""

from __future__ import annotations

import pytest

from GEDGANLib.scene.headless import headless_application


@pytest.fixture
def application():
    """A new scene; ``slicer.mrmlScene``, ``slicer.app`` and ``slicer.modules`` are set while the test runs."""
    with headless_application() as application:
        yield application
