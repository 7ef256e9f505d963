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


def memory_in_use() -> int:
    """Bytes of the CUDA GPU that its driver says are taken, by other programs too."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def synchronize(device: str) -> None:
    """Wait for a device, so that a clock may be read."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def half_type():
    """The half precision of the CUDA GPU: PyTorch's bfloat16, or float16 where it has none."""
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16


def known_trouble(pytorch: str, cudnn: int | None) -> list[str]:
    """What is known to be slow or wrong in 3D convolutions on CUDA with these versions, in sentences.

    :param pytorch: version of PyTorch, "2.9.1+cu128" for example.
    :param cudnn: version of cuDNN as PyTorch tells it, 91002 for 9.10.2; None where there is none.
    """
    release = tuple(int(part) for part in pytorch.split("+")[0].split(".")[:3] if part.isdigit())
    version = cudnn or 0
    words = f"PyTorch {pytorch} with cuDNN {version // 10000}.{version % 10000 // 100}.{version % 100}"
    newer = "Install PyTorch 2.10 or later, built for CUDA 13."
    told = []
    # pytorch#166122, #166643, #174051: 2.9.0 leaves cuDNN aside always, 2.9.1 with a cuDNN before 9.15.
    if release[:2] == (2, 9) and (release[2:] == (0,) or version < 91500):
        told.append(f"{words} is about four times slower here, and takes up to 17 times the memory. {newer}")
    # pytorch#163539: bfloat16, cuDNN 9.8 to 9.10.
    elif 90800 <= version <= 91002:
        told.append(f"{words} can compute convolutions of very large volumes wrongly. {newer}")
    # pytorch#167024: float32 by TF32, cuDNN 9.10.2 to 9.15; 2.9.1 and later do without.
    elif 91002 < version <= 91500 and release < (2, 9, 1):
        told.append(f"{words} can compute some convolutions in float32 wrongly. {newer}")
    return told


def trouble_here(device: str) -> list[str]:
    """:func:`known_trouble` of what is installed; nothing where ``device`` is not CUDA, or there is none."""
    import torch

    if device != "cuda" or not torch.version.cuda:
        return []
    return known_trouble(torch.__version__, torch.backends.cudnn.version())


HALF_TOLERANCE = 0.02
"""Relative difference of a convolution in half precision from float32 that rounding explains, several times over."""


def half_precision_is_right(device: str, precision: object) -> bool:
    """Whether a small 3D convolution and its gradients in ``precision`` are those of float32, but for rounding.

    :param device: a device with that precision; takes milliseconds.
    :param precision: a floating-point type of PyTorch.
    """
    import torch
    from torch.nn import functional

    random = torch.Generator().manual_seed(0)
    x, weight, upstream = (
        torch.randn(shape, generator=random).to(device)
        for shape in ((2, 32, 8, 8, 8), (32, 32, 3, 3, 3), (2, 32, 8, 8, 8))
    )
    layout = torch.channels_last_3d

    def results(kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(kind).contiguous(memory_format=layout).requires_grad_() for tensor in (x, weight)]
        made = functional.conv3d(*leaves, padding=1)
        return [made.detach(), *torch.autograd.grad(made, leaves, upstream.to(kind))]

    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        pairs = list(zip(results(precision), results(torch.float32)))
    return all(bool((half.float() - full).norm() <= HALF_TOLERANCE * full.norm()) for half, full in pairs)
