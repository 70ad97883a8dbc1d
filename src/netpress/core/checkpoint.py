"""Checkpoints of training: network, optimizer and history at the end of an epoch, as safetensors and JSON.

No state of random generators belongs to them: order, augmentation and whatever a layer draws are functions of seed and
epoch. So a run that goes on from a checkpoint makes the bits that it would have made.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.core import artifacts

History = list[dict[str, Any]]
#: Largest share of the run's time that writing checkpoints may take.
SHARE = 0.01
#: What the first one is reckoned to cost, before one was measured: seconds, and bytes a second.
COST, SPEED = 0.2, 200e6
REMEDY = "training starts from the beginning"


class Checkpoint:
    """The checkpoint of one call of `fit`: `<path>.json`, and the tensors in the file that it names."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cost: float | None = None
        self._last = time.monotonic()

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> History:
        """Give `network` and `optimizer` the state of the checkpoint and return its history; without one, nothing.

        A damaged checkpoint is left aside with one line on stderr.
        """
        record_file = self._path.with_suffix(".json")
        if not record_file.exists():
            return []
        try:
            record = files.read_sealed(record_file, REMEDY)
            tensor_file = record_file.with_name(record["file"])
            data = files.read_checked(tensor_file, record["sha256"], REMEDY)
            tensors = artifacts.tensors_from_bytes(data, tensor_file)
        except ArtifactError as error:
            print(error, file=sys.stderr)
            return []
        network.load_state_dict({k.removeprefix("network."): t for k, t in tensors.items() if k.startswith("network.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, stride in record["strides"].items():
            _, index, key = name.split(".")
            saved = tensors[name]
            # With other strides the elements would be visited in another order, by code that may round otherwise.
            laid_out = torch.empty_strided(saved.shape, stride, dtype=saved.dtype).copy_(saved)
            state.setdefault(int(index), {})[key] = laid_out
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        history: History = record["history"]
        return history

    def save_if_due(self, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
        """Write the checkpoint, unless the last is so recent that writing would take more than its share of time."""
        cost = _reckoned_cost(network) if self._cost is None else self._cost
        if (time.monotonic() - self._last) * SHARE < cost:
            return
        start = time.monotonic()
        self._save(network, optimizer, history)
        self._last = time.monotonic()
        self._cost = self._last - start

    def _save(self, network: nn.Module, optimizer: torch.optim.Optimizer, history: History) -> None:
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        strides: dict[str, list[int]] = {}
        for index, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):  # SGD without momentum keeps a None
                    tensors[f"optimizer.{index}.{key}"] = value
                    strides[f"optimizer.{index}.{key}"] = list(value.stride())
        data = artifacts.tensors_as_bytes(tensors)
        tensor_file = self._path.with_name(f"{self._path.name}_{len(history)}.safetensors")
        files.write_bytes(tensor_file, data)
        record = {
            "file": tensor_file.name,
            "sha256": files.sha256_bytes(data),
            "strides": strides,
            "history": history,
        }
        files.write_sealed(self._path.with_suffix(".json"), record)
        # Only now: a process killed before this line goes on from the checkpoint before.
        for older in tensor_file.parent.glob(f"{self._path.name}_*.safetensors"):
            if older != tensor_file:
                older.unlink()


def _reckoned_cost(network: nn.Module) -> float:
    return COST + 2 * sum(p.numel() * p.element_size() for p in network.parameters()) / SPEED
