"""Several processes that share each training, one a device: what they tell one another.

All run the same code on the same data and know the same; see `process.torchrun`. Each computes its share of every
batch, and what is summed over them is the same bits in all, so that their networks stay equal. A process alone is the
only one of one, for which each function gives back what it is given.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from netpress.base.errors import TrainingError
from netpress.base.model_id import ModelId
from netpress.process import torchrun

#: What one process may do while others wait for it, such as a slow disk's work.
TIMEOUT = timedelta(hours=12)
#: Seconds in which torchrun ends the processes that have lost one of them, and says which that was.
PATIENCE = 10.0


@dataclass(frozen=True)
class Ranks:
    """The processes that share the work: how many, and which one this is, from 0."""

    number: int = 0
    count: int = 1

    def share(self, chosen: np.ndarray) -> np.ndarray:
        """Return the part of `chosen` (B) that is this process's; parts differ by one in size at most."""
        return np.array_split(chosen, self.count)[self.number]

    def total(self, tensor: Tensor) -> Tensor:
        """Return the sum of `tensor` over the processes, which is as it was."""
        return tensor if self.count == 1 else _summed(tensor.clone(memory_format=torch.contiguous_format))

    def gathered(self, value: Any) -> list[Any]:
        """Return what each process has given, in their order; tensors in it must lie on the CPU."""
        found = [value] * self.count
        if self.count > 1:
            _together(lambda: distributed.all_gather_object(found, value))
        return found

    def in_order(self, found: Mapping[int, tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Return what the processes have found, each for places of its own, in the order of all places.

        Tensors come to lie on the CPU, but for those of a process alone.
        """
        if self.count > 1:
            own = {place: tuple(v.cpu() if isinstance(v, Tensor) else v for v in found[place]) for place in found}
            found = {place: values for part in self.gathered(own) for place, values in part.items()}
        return [found[place] for place in sorted(found)]

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace each gradient by its sum over the processes."""
        if self.count > 1:
            _replace([p.grad for p in parameters if p.grad is not None], _summed)

    def average_statistics(self, network: nn.Module) -> None:
        """Replace what layers have seen, such as running means, by its mean over the processes."""
        if self.count > 1:
            floating = [buffer for buffer in network.buffers() if buffer.is_floating_point()]
            _replace(floating, lambda flat: _summed(flat) / self.count)

    def begin_alike(self, network: nn.Module, what: Any) -> None:
        """Take weights and statistics of the first process.

        Raises:
            TrainingError: the processes are not about to do the same, which `what` and the shapes say.
        """
        if self.count == 1:
            return
        tensors = [tensor.detach() for tensor in (*network.parameters(), *network.buffers())]
        plans = self.gathered([what, [tuple(tensor.shape) for tensor in tensors]])
        if any(plan != plans[0] for plan in plans):
            raise TrainingError(
                f"the {self.count} processes of one training are about to do different things "
                f"({', '.join(str(plan[0]) for plan in plans)}); nothing was written. Run again, and if they do so "
                "again, set runtime.devices: 1"
            )
        for kind in dict.fromkeys(tensor.dtype for tensor in tensors):  # in one order, which a set has not
            _replace([tensor for tensor in tensors if tensor.dtype == kind], _of_first)


ALONE = Ranks()


def here() -> Ranks:
    """Return the processes of which this one is one; by itself where it has joined no others."""
    if not distributed.is_initialized():
        return ALONE
    return Ranks(distributed.get_rank(), distributed.get_world_size())


def shared_out(root: Path, model_id: ModelId, devices: int, device: torch.device) -> Path:
    """Have as many processes as `devices` do this stage; return the folder in which this one is to work.

    Where there is to be one it is this one. Else they run this stage's script, and come here too; they meet, and this
    process ends as they do.

    Raises:
        SystemExit: they have done the stage, or failed.
    """
    if devices == 1:
        return root
    number = torchrun.number()
    if number is None:
        raise SystemExit(torchrun.run(root, devices, root / ".netpress/ranks" / model_id.replace("/", ".")))
    if (loopback := Path("/sys/class/net/lo")).exists():  # else the host's name is looked up, which may have no address
        os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback.name)
    _together(lambda: distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT))
    os.environ.pop("TORCH_NCCL_ASYNC_ERROR_HANDLING", None)  # torchrun's own, and no fact of this machine
    folder = torchrun.looking_like(root, model_id) if number else root
    os.chdir(folder)
    here().gathered(None)  # before this the first changes nothing that others copy
    return folder


def _together(act: Callable[[], Any]) -> None:
    try:
        act()
    except RuntimeError as error:
        time.sleep(PATIENCE)  # torchrun ends this process before that is over
        raise TrainingError(f"the processes of this training have lost one another ({error}); run again") from None


def _replace(tensors: Sequence[Tensor], by: Callable[[Tensor], Tensor]) -> None:
    """Replace the content of `tensors`, of one type, by what `by` makes of all of it in one row."""
    if tensors:
        flat = by(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))


def _summed(flat: Tensor) -> Tensor:
    _together(lambda: distributed.all_reduce(flat))
    return flat


def _of_first(flat: Tensor) -> Tensor:
    _together(lambda: distributed.broadcast(flat, 0))
    return flat
