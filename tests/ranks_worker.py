"""One of two processes that train together, beside the same training by itself; started by torchrun in test_ranks.py.

Ends with an error where the two differ by more than double precision rounds.
"""

import copy
import itertools
from unittest import mock

import netpress  # noqa: F401 (before torch: it says how threads wait)

# isort: split
import torch
from conftest import NO_AUGMENT, RECIPE, RUNTIME, striped
from torch import distributed, nn

from netpress.base.errors import ConfigError, TrainingError
from netpress.core import engine, measure
from netpress.core.engine import Schedule, fit
from netpress.core.ranks import ALONE, here
from netpress.core.synchronized import synchronized
from netpress.params.recipes import Augment

ALL = Augment(flip=True, crop_padding=2, resized_crop=0.0, erasing=0.5, mixup=0.3)
MANY = {"average": 0.9, "augment": ALL, "label_smoothing": 0.1}
#: Whether there are weights, the momentum, and whether channels lie last.
CASES = [(True, 0.1, False), (True, None, True), (False, 0.1, True)]
SHAPES = [(7, 3), (9, 4, 6), (5, 3, 4, 4), (8, 2, 1, 3)]


class Net(nn.Module):
    """A small network in double precision."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)),
        ).double()

    def forward(self, x):
        return self.body(x.double())


class WithModule:
    """Cross-entropy, and the square of what a module of the objective's own, with a normalization, makes of logits."""

    def __init__(self):
        torch.manual_seed(2)
        self.modules = nn.ModuleDict({"0": nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()).double()})

    def start_epoch(self, epoch, epochs):
        self.epoch = epoch

    def __call__(self, batch, logits):
        logits = logits.double()
        return nn.functional.cross_entropy(logits, batch.targets.double()) + self.modules["0"](logits).square().mean()


def close(one, other, what, tolerance):
    assert torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance), (
        f"{what}: {float((one.double() - other.double()).abs().max())}"
    )


def check_batch_norm(ranks):
    for shape, (affine, momentum, last) in itertools.product(SHAPES, CASES):
        torch.manual_seed(shape[0])
        whole = 5 + 3 * torch.randn(shape, dtype=torch.float64)
        if last and whole.ndim == 4:
            whole = whole.to(memory_format=torch.channels_last)
        layer = (nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) == 4](shape[1], affine=affine, momentum=momentum).double()
        if affine:
            nn.init.normal_(layer.weight), nn.init.normal_(layer.bias)
        ours, gradient = copy.deepcopy(layer), torch.randn(shape, dtype=torch.float64)
        mine = slice(*((0, 3), (3, None))[ranks.number])  # of another size than the other's
        for _ in range(2):
            x, share = whole.clone().requires_grad_(), whole[mine].clone().requires_grad_()
            expected = layer(x)
            expected.backward(gradient)
            with synchronized(ranks):
                found = ours(share)
            found.backward(gradient[mine])
            close(found, expected[mine], shape, 1e-12)
            close(share.grad, x.grad[mine], shape, 1e-12)
        ranks.sum_gradients(ours.parameters())
        for one, other in zip(ours.parameters(), layer.parameters(), strict=True):
            close(one.grad, other.grad, shape, 1e-12)
        for one, other in zip(ours.buffers(), layer.buffers(), strict=True):
            close(one, other, shape, 1e-12)
        layer.eval(), ours.eval()
        with synchronized(ranks):
            close(ours(whole[mine]), layer(whole[mine]), shape, 1e-12)


def trained(alone, recipe, batch_norm="synchronized", images=75, network=Net):
    """Return the network and the history of a training by both processes, or by this one alone."""
    net, ranks = network(), ALONE if alone else here()
    runtime = RUNTIME.model_copy(update={"batch_norm": batch_norm, "channels_last": False})
    with mock.patch.object(engine, "here", lambda: ranks), mock.patch.object(measure, "here", lambda: ranks):
        history = fit(net, striped(images), striped(600, seed=1), Schedule(recipe, 2, 0), runtime, "x", WithModule())
    return net, history


def check_same(ranks, recipe):
    (net, history), (expected, past) = trained(False, recipe), trained(True, recipe)
    for name, tensor in net.state_dict().items():
        close(tensor, expected.state_dict()[name], name, 1e-6)
    for row, before in zip(history, past, strict=True):
        for key in ("lr", "train_loss", "train_acc", "val_loss", "val_acc"):
            assert abs(row[key] - before[key]) < 1e-6, (key, row, before)
    assert history[-1].keys() == past[-1].keys()
    check_alike(ranks, net, history)


def check_alike(ranks, net, history):
    """Both processes have the same bits."""
    found = ranks.gathered([{name: tensor.numpy().tobytes() for name, tensor in net.state_dict().items()}, history])
    assert found[0] == found[1]


class Drawing(Net):
    def __init__(self):
        super().__init__()
        self.body.insert(7, nn.Dropout(0.5))


def check_other(ranks):
    """Statistics of shares are others than those of the whole, and so is what dropout draws; both end alike."""
    recipe = RECIPE.model_copy(update={"augment": ALL})
    whole = trained(True, recipe)[0]
    for settings in ({"batch_norm": "per_device"}, {"network": Drawing}):
        net, history = trained(False, recipe, **settings)
        assert not torch.allclose(net.body[0].weight, whole.body[0].weight, rtol=1e-4)
        check_alike(ranks, net, history)
    drawn = ranks.gathered(torch.rand(4))
    assert torch.equal(*drawn)


def check_refusals(ranks):
    try:
        trained(False, RECIPE.model_copy(update={"batch_size": 4}), images=10)
    except ConfigError as error:
        assert "has fewer than two images for each of 2 devices" in str(error) and "choose 7 or more" in str(error)
    else:
        raise AssertionError("a share of one image")
    trained(False, RECIPE.model_copy(update={"batch_size": 7}), images=10)
    try:
        ranks.begin_alike(Net(), ("x", ranks.number))
    except TrainingError as error:
        assert "are about to do different things (('x', 0), ('x', 1))" in str(error)
    else:
        raise AssertionError("other plans")


def check_broken(ranks):
    """A loss that is not finite in one process is the error of both."""

    class Broken(WithModule):
        def __call__(self, batch, logits):
            return super().__call__(batch, logits) * (float("nan") if ranks.number and self.epoch else 1.0)

    with mock.patch(f"{__name__}.WithModule", Broken):
        try:
            trained(False, RECIPE)
        except TrainingError as error:
            assert "the loss became nan in epoch 2, step 1" in str(error)
        else:
            raise AssertionError("nothing was noticed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.init_process_group("gloo")
    us = here()
    assert us.count == 2
    check_batch_norm(us)
    for more in ({}, {"clip_norm": 0.0, "average": 0.0, "optimizer": "adamw", "augment": NO_AUGMENT}):
        check_same(us, RECIPE.model_copy(update=MANY | more))
    check_other(us)
    check_refusals(us)
    check_broken(us)
    distributed.destroy_process_group()
