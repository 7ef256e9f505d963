"""The processes that train one model together, as ``torchrun`` starts them; one process alone is a team of one.

Every process draws the same batch and takes its part; gradients are averaged by PyTorch's DistributedDataParallel. So a
team makes the steps that one process would make with the same batch, apart from the rounding of sums.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError

TIMEOUT = timedelta(hours=12)
"""Until a process that waits for others gives up: the first one may be preparing a large data set. One that is gone is
noticed at once, by its closed connection or by torchrun."""
LOST = ("gloo", "nccl", "connection", "closed by peer", "broken pipe", "timed out")


class Team:
    """This process among those that train together.

    :param rank: number of this process, from 0; the first one writes all files.
    :param size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, device: str) -> Team:
        """The team that ``torchrun`` started, or a team of one.

        On CUDA every process takes the GPU with its number on its machine.

        :raises InputError: the processes do not find each other, there are more than GPUs, or the GPU is Apple's.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size == 1:
            return cls()
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if device == "mps":
            raise InputError(
                "Apple's GPU cannot be shared by several processes.", "Train with one process, or with --device cpu."
            )
        if device == "cuda":
            if local >= torch.cuda.device_count():
                raise InputError(
                    f"There are more processes than GPUs ({torch.cuda.device_count()}) on this machine.",
                    "Start torchrun with --nproc-per-node set to the number of GPUs.",
                )
            torch.cuda.set_device(local)
        try:
            torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"The {size} processes of this training do not find each other: {error}",
                "Start them with torchrun, as the README shows.",
            ) from error
        return cls(torch.distributed.get_rank(), size)

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks to people."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's part of ``count`` things.

        :raises InputError: they cannot be shared out evenly.
        """
        if count % self.size:
            raise InputError(
                f"A batch of {count} cases cannot be shared out evenly among {self.size} processes.",
                f"Set training.batch in the plan to a multiple of {self.size}.",
            )
        share = count // self.size
        return slice(self.rank * share, (self.rank + 1) * share)

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with gradients averaged over the team."""
        if self.size == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the team, the same everywhere; differentiable."""
        if self.size == 1:
            return tensor
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(tensor)

    def average(self, numbers: Tensor) -> Tensor:
        """Mean over the team, the same everywhere; not differentiable."""
        if self.size == 1:
            return numbers
        numbers = numbers.detach().clone()
        torch.distributed.all_reduce(numbers)
        return numbers / self.size

    def as_leader(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """What the first process says, everywhere."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)
        torch.distributed.broadcast(tensor, 0)
        return tensor.tolist()

    @contextmanager
    def contact(self, run: Path) -> Iterator[None]:
        """Turns the loss of another process within the block into words.

        :raises InputError: another process is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not any(sign in str(error).lower() for sign in LOST):
                raise
            raise InputError(
                f"Another process of this training is gone, so {run} ended early.",
                "Look at what that one said. If there is a checkpoint, all processes can be started again with "
                "--resume.",
            ) from error

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """End the team, so that the others need not wait for this process."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
