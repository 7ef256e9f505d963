"""Where to compute: CUDA before Apple's GPU before the CPU, and what each is called."""

from __future__ import annotations

from pathlib import Path

from .errors import InputError

DEVICE_WORDS = {"cpu": "a CPU", "mps": "an Apple GPU", "cuda": "a CUDA GPU"}


def choose_device(wanted: str = "auto") -> str:
    """``cuda``, ``mps`` or ``cpu``: the best there is, or the one that is asked for.

    :raises InputError: the one asked for is not there.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return next(device for device, there in available.items() if there)
    if wanted not in available:
        raise InputError(f"There is no kind of device called {wanted}.", "Choose auto, cuda, mps or cpu.")
    if not available[wanted]:
        if wanted == "cuda" and not torch.version.cuda:
            reason = "No cuda device can be used: the PyTorch that is installed was built without CUDA."
            raise InputError(reason, "Use --device auto, or install a PyTorch with CUDA.")
        raise InputError(f"No {wanted} device can be used here.", "Use --device auto, or check the graphics driver.")
    return wanted


def devices() -> list[dict[str, object]]:
    """The devices there are, the best first: ``kind``, ``name``, and ``memory_gb`` (1e9 bytes) where it is known."""
    import platform

    import torch

    found: list[dict[str, object]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(index)
            found.append({"kind": "cuda", "name": about.name, "memory_gb": round(about.total_memory / 1e9, 1)})
    if torch.backends.mps.is_available():
        found.append({"kind": "mps", "name": "Apple GPU"})
    threads = torch.get_num_threads()
    found.append({"kind": "cpu", "name": f"{platform.machine()} processor, {threads} threads"})
    return found


def available_memory(device: str) -> float | None:
    """Memory in bytes that a training could take now; None where the system does not tell."""
    if device == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    if device == "mps":
        import torch

        return float(torch.mps.recommended_max_memory())
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        import os

        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):  # Windows has none of these
        return None
