"""The files of a checkpoint: one at a time, and none that is not what was written."""

import pytest
import torch
from torch import nn

from netpress.core import checkpoint
from netpress.core.checkpoint import Checkpoint


def trained(steps):
    """A network and its optimizer after some steps."""
    torch.manual_seed(0)
    network = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    return network, optimizer


@pytest.fixture
def saved(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    for epochs in (1, 2, 3):
        Checkpoint(tmp_path / "fit").save_if_due(*trained(epochs), [{"epoch": k + 1} for k in range(epochs)])
    return tmp_path


def test_the_last_one_alone_is_kept_and_loaded(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["fit.json", "fit_3.safetensors"]
    network, optimizer = trained(0)
    assert Checkpoint(saved / "fit").load(network, optimizer) == [{"epoch": 1}, {"epoch": 2}, {"epoch": 3}]
    expected, theirs = trained(3)
    for name, value in expected.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    for one, other in zip(optimizer.state.values(), theirs.state.values(), strict=True):
        assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])


@pytest.mark.parametrize("position", [-1, -5])
def test_a_flipped_bit_of_a_weight_is_found_and_nothing_is_taken(saved, capsys, position):
    path = saved / "fit_3.safetensors"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    network, optimizer = trained(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert Checkpoint(saved / "fit").load(network, optimizer) == []
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert "fit_3.safetensors" in capsys.readouterr().err
