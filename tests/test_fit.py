"""What `fit` hands on: the recipe's targets, views and learning rates, in train mode, and what it reports."""

import math

import numpy as np
import own
import pytest
import torch
from conftest import NO_AUGMENT, RECIPE, RUNTIME, Objective, striped
from torch import nn

from netpress.core import engine
from netpress.core.batches import training_batches
from netpress.core.engine import Schedule, fit
from netpress.core.measure import evaluate
from netpress.core.networks import build_model
from netpress.core.optimizer import make_optimizer

AUGMENT = NO_AUGMENT.model_copy(update={"flip": True, "crop_padding": 2, "erasing": 0.3})
RICH = RECIPE.model_copy(update={"label_smoothing": 0.2, "augment": AUGMENT, "lr": 0.02})
EPOCHS, STEPS = 3, 3


def small_network(seed=0):
    torch.manual_seed(seed)
    return build_model("compact_cnn", 3, 1, width=0.25)


class Seen(Objective):
    """An objective that notes what it is handed, and the state in which it finds the network."""

    def __init__(self, network):
        super().__init__()
        self.network, self.batches, self.modes, self.losses, self.hits = network, [], [], [], 0

    def __call__(self, batch, logits):
        self.batches.append(batch)
        self.modes.append(all(module.training for module in self.network.modules()))
        self.hits += int((logits.argmax(1) == batch.targets.argmax(1)).sum())
        loss = nn.functional.cross_entropy(logits, batch.targets)
        self.losses.append(loss.item())
        return loss


@pytest.fixture
def rates(monkeypatch):
    """The learning rate of every group at every step, by its factor."""
    seen = []
    step = torch.optim.SGD.step

    def noted(self, *args, **options):
        seen.append({group["factor"]: group["lr"] for group in self.param_groups})
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    return seen


def train(network, recipe=RICH, epochs=EPOCHS, seed=0, first_epoch=0, val=None):
    seen = Seen(network)
    val = val or striped(48, seed=1)
    history = fit(network, striped(96), val, Schedule(recipe, epochs, seed, first_epoch), RUNTIME, "test", seen)
    return history, seen


@pytest.mark.parametrize(("seed", "first_epoch"), [(0, 0), (3, 0), (0, 5)])
def test_the_objective_gets_the_recipes_views_and_targets_of_seed_and_epoch(seed, first_epoch):
    _, seen = train(small_network(), seed=seed, first_epoch=first_epoch)
    expected = [
        batch
        for epoch in range(EPOCHS)
        for batch in training_batches(striped(96), AUGMENT, 0.2, 32, seed, first_epoch + epoch)
    ]
    assert len(seen.batches) == len(expected) == EPOCHS * STEPS
    for found, batch in zip(seen.batches, expected, strict=True):
        assert torch.equal(found.images, batch.images)
        assert torch.equal(found.targets, batch.targets)


def test_views_are_augmented_and_targets_smoothed_as_the_tests_own_arithmetic_says():
    """Each view is its image flipped or not, shifted by up to two pixels, with a rectangle erased or not."""
    split = striped(96)
    _, seen = train(small_network(), epochs=1)
    padded = np.pad(split.images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)))
    found, moved, erased = 0, 0, 0
    for batch in seen.batches:
        assert torch.allclose(batch.targets.max(1).values, torch.tensor(0.8 + 0.2 / 3))
        plain = batch.plain().numpy()
        own_plain = own.normalized(split.images.numpy(), split.mean, split.std)
        for view, image, target in zip(batch.images.numpy(), plain, batch.targets, strict=True):
            index = next(k for k in range(96) if np.allclose(own_plain[k], image, atol=1e-5))
            assert int(target.argmax()) == int(split.labels[index])
            choices = [
                padded[index, y : y + 28, x : x + 28][:, ::turn] for y in range(5) for x in range(5) for turn in (1, -1)
            ]
            choices = own.normalized(np.stack(choices), split.mean, split.std)
            kept = (np.abs(choices - view) < 1e-4) | (view == 0)
            found += kept.all((1, 2, 3)).any()
            moved += not np.allclose(view, image, atol=1e-4)
            erased += (view == 0).sum() >= 0.02 * 784
    assert found == 96
    assert moved > 48  # one in fifty is neither flipped nor shifted nor erased
    assert 10 < erased < 60  # 0.3 of 96


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_every_step_has_the_schedules_rate_over_all_epochs(rates, schedule):
    recipe = RICH.model_copy(update={"schedule": schedule, "body_lr": 0.1})
    history, _ = train(small_network(), recipe)
    settings = recipe.model_dump()
    expected = [own.rate(settings, step, EPOCHS * STEPS) for step in range(EPOCHS * STEPS)]
    assert [step[1.0] for step in rates] == pytest.approx(expected)
    assert [step[0.1] for step in rates] == pytest.approx([0.1 * rate for rate in expected])
    assert [row["lr"] for row in history] == pytest.approx(expected[STEPS - 1 :: STEPS])
    assert max(expected) <= recipe.lr


@pytest.fixture
def clips(monkeypatch):
    """At every step the gradient's norm before it is clipped, the limit, and the norm afterwards."""
    seen, clip = [], nn.utils.clip_grad_norm_

    def noted(parameters, limit):
        parameters = list(parameters)
        before = float(clip(parameters, limit))
        seen.append((before, limit, float(sum((p.grad**2).sum() for p in parameters).sqrt())))

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", noted)
    return seen


def test_every_step_is_in_train_mode_and_clipped(clips):
    """Also in the epochs after the first measurement."""
    network = small_network()
    _, seen = train(network, RICH.model_copy(update={"clip_norm": 1e-3}))
    assert seen.modes == [True] * EPOCHS * STEPS
    assert len(clips) == EPOCHS * STEPS
    assert all(before > limit == 1e-3 >= 0.999 * after for before, limit, after in clips)
    counts = [m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert counts and all(count == EPOCHS * STEPS for count in counts)


def test_every_step_is_of_its_own_gradient(clips):
    """The network stands still, so each epoch's gradients are of the same size; sums of them would grow."""
    train(small_network(), RICH.model_copy(update={"lr": 1e-12, "clip_norm": 1e6, "augment": NO_AUGMENT}))
    sums = [sum(before for before, _, _ in clips[k : k + STEPS]) for k in range(0, EPOCHS * STEPS, STEPS)]
    assert sums[-1] < 1.5 * sums[0]


def test_an_epochs_row_is_what_its_steps_gave_and_what_its_end_measures():
    network, val = small_network(), striped(51, seed=1)
    val.labels[::5] = (val.labels[::5] + 1) % 3  # so that it is told from the training split
    history, seen = train(network, val=val)
    for number, row in enumerate(history):
        assert row["train_loss"] == pytest.approx(np.mean(seen.losses[number * STEPS : (number + 1) * STEPS]))
    assert sum(row["train_acc"] for row in history) == pytest.approx(seen.hits / 96)
    with torch.inference_mode():
        logits = network(torch.from_numpy(own.normalized(val.images.numpy(), val.mean, val.std))).numpy()
    expected = own.quality(logits, val.labels.numpy(), 3)
    assert history[-1]["val_acc"] == expected["accuracy"]
    assert history[-1]["val_loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert history[-1]["val_ece"] == pytest.approx(expected["ece"], rel=1e-3)
    assert history[-1]["val_acc_by_class"] == pytest.approx(expected["by_class"])


def test_each_epochs_validation_is_of_the_averaged_weights_and_statistics_where_weights_are_averaged():
    """The network itself has another loss; both averages forget their start sooner in the first steps."""
    network, val = small_network(), striped(48, seed=1)
    recipe = RICH.model_copy(update={"average": 0.99, "lr": 0.5})
    mean = next(name for name in network.state_dict() if name.endswith("running_mean"))
    last, means = {}, []

    class Last(Seen):
        def __call__(self, batch, logits):
            last.update({name: value.clone() for name, value in network.state_dict().items()})
            means.append(last[mean])
            return super().__call__(batch, logits)

    history = fit(network, striped(96), val, Schedule(recipe, 2, 0), RUNTIME, "test", Last(network))
    assert history[-1]["val_loss"] == evaluate(network, val).loss
    expected, *later = means
    for step, found in enumerate(later, 1):
        expected = torch.lerp(found, expected, (1 + step) / (10 + step))
    torch.testing.assert_close(network.state_dict()[mean], expected)
    network.load_state_dict(last)
    assert evaluate(network, val).loss != pytest.approx(history[-1]["val_loss"], rel=1e-3)


def test_the_optimizers_are_those_of_the_recipe():
    network = small_network()
    sgd = make_optimizer(network, RECIPE, nn.ModuleDict(), "3")
    assert type(sgd) is torch.optim.SGD
    assert all(group["nesterov"] and group["momentum"] == 0.9 for group in sgd.param_groups)
    assert not make_optimizer(network, RECIPE.model_copy(update={"momentum": 0.0}), nn.ModuleDict(), "3").param_groups[
        0
    ]["nesterov"]
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        made = make_optimizer(
            network, RECIPE.model_copy(update={"optimizer": name, "momentum": 0.8}), nn.ModuleDict(), "3"
        )
        assert type(made) is kind
        assert {group["betas"] for group in made.param_groups} == {(0.8, 0.999)}
    for optimizer in (sgd, made):
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
            id(p) for p in network.parameters()
        }


def test_measuring_is_in_full_precision_whatever_training_was_in(monkeypatch):
    kinds = []

    def noted(network, split, where):
        kinds.append(torch.is_autocast_enabled("cpu"))
        return evaluate(network, split, where)

    monkeypatch.setattr(engine, "evaluate", noted)
    runtime = RUNTIME.model_copy(update={"precision": "bf16"})
    history = fit(small_network(), striped(96), striped(48, seed=1), Schedule(RECIPE, 1, 0), runtime, "test")
    assert kinds == [False]
    assert math.isfinite(history[0]["val_loss"])
