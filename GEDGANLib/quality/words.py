"""How sentences of a report begin that the panel looks for; light, so that it can."""

from __future__ import annotations

WORTH = "Worth for a segmentation of your data:"
