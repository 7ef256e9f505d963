"""Which half precision a training computes in, and what a person should know of the device."""

from __future__ import annotations

import torch

from ..device import half_precision_is_right, half_type, trouble_here

HALF_PRECISIONS = ("bfloat16", "float16")


def half_precision(precision: str, device: str) -> tuple[torch.dtype | None, list[str]]:
    """Half precision where plan and device have it and it computes what it should, else None; and sentences to tell.

    :param precision: as the plan has it.
    :param device: ``cuda``, ``mps`` or ``cpu``.
    """
    notes = trouble_here(device)
    if device != "cuda" or precision not in HALF_PRECISIONS:
        return None, notes
    half = torch.float16 if precision == "float16" else half_type()
    if half_precision_is_right(device, half):
        return half, notes
    words = (
        f"This GPU computes convolutions in {str(half).removeprefix('torch.')} wrongly with what is installed, so the "
        "training goes on in float32, slower. Install another version of PyTorch."
    )
    return None, [*notes, words]
