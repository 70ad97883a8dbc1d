"""The score of channels against the norm that its option names."""

import pytest
import torch
from torch import nn

from netpress.prune.channels import importance_of, remove_channels


class Two(nn.Module):
    """Two convolutions, whose four channels between them are coupled, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        return self.head(self.second(self.first(images)).mean((2, 3)))


@pytest.mark.parametrize(("norm", "weakest"), [(1, 2), (2, 1)])
def test_the_norm_says_which_channel_is_the_weakest(norm, weakest):
    """Channel 1 has many small weights, channel 2 one large one: the sums say 2, the squares say 1."""
    network = Two()
    with torch.no_grad():
        network.first.weight[:] = 10.0
        network.second.weight[:] = 10.0
        for channel, values in ((1, torch.full((9,), 0.1)), (2, torch.eye(9)[0] * 0.6)):
            network.first.weight[channel] = values.view(1, 3, 3)
            network.second.weight[:, channel] = values.view(3, 3)
    removed = remove_channels(network, torch.zeros(2, 1, 9, 9), 0.25, 1, importance_of("magnitude", {"norm": norm}))
    assert removed["first"] == [weakest]
    assert network.first.out_channels == network.second.in_channels == 3
    assert network.head.out_features == 2
