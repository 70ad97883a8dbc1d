"""The training loop: it learns, repeats itself exactly, follows its schedule and stops on NaN."""

from itertools import pairwise

import pytest
import torch
from conftest import RECIPE, RUNTIME, Objective, striped
from hypothesis import given
from hypothesis import strategies as st

from netpress.base.errors import ConfigError, TrainingError
from netpress.core import checkpoint
from netpress.core.engine import Schedule, fit, layer_seed
from netpress.core.measure import autocast, evaluate
from netpress.core.networks import build_model
from netpress.core.optimizer import learning_rate, make_optimizer, normalization_biases


def small_network(seed=0):
    torch.manual_seed(seed)
    return build_model("compact_cnn", 3, 1, width=0.25)


def run(network, recipe=RECIPE, epochs=2, seed=0, runtime=RUNTIME, **options):
    return fit(network, striped(96), striped(48, seed=1), Schedule(recipe, epochs, seed), runtime, "test", **options)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_it_learns(optimizer, schedule):
    lr = 0.003 if optimizer.startswith("adam") else 0.05
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "schedule": schedule, "lr": lr})
    history = run(small_network(), recipe, epochs=8)
    assert history[-1]["val_acc"] > 0.95
    assert history[-1]["train_loss"] < history[0]["train_loss"]


def test_two_runs_are_equal_bit_by_bit():
    first, second = small_network(), small_network()
    assert run(first) == run(second)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_another_seed_gives_another_run():
    assert run(small_network(), seed=0) != run(small_network(), seed=1)


def test_history_has_one_row_an_epoch_and_its_last_accuracy_is_measured_again():
    network = small_network()
    history = run(network, epochs=3)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert not network.training
    assert evaluate(network, striped(48, seed=1)).accuracy == history[-1]["val_acc"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_batches_that_the_threads_cannot_share_do_no_harm(threads):
    """With a strided 1x1 convolution such batches corrupted memory in torch 2.15, killing the process."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = build_model("resnet18", 3, 1, width=0.125, stem="pooled")
    recipe = RECIPE.model_copy(update={"batch_size": 127})
    history = fit(network, striped(635), striped(48, seed=1), Schedule(recipe, 2, 0), RUNTIME, "test")
    assert len(history) == 2


def test_bf16_trains_too():
    history = run(small_network(), epochs=8, runtime=RUNTIME.model_copy(update={"precision": "bf16"}))
    assert history[-1]["val_acc"] > 0.9


class Exact(torch.nn.Module):
    """A network that computes in double precision, so that the order of its sums does not show."""

    def __init__(self, network):
        super().__init__()
        self.network = network.double()

    def forward(self, images):
        return self.network(images.double())


def test_contiguous_memory_gives_the_same_network():
    """Up to the rounding of the logits to single precision, 6e-8 of them, in each of three steps."""
    one, two = Exact(small_network()), Exact(small_network())
    run(one, epochs=1)
    run(two, epochs=1, runtime=RUNTIME.model_copy(update={"channels_last": False}))
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    layout = [m.weight.is_contiguous(memory_format=torch.channels_last) for m in two.modules() if hasattr(m, "weight")]
    assert not all(layout)


def test_a_loss_that_is_not_finite_stops_with_epoch_and_step():
    calls = []

    def objective(batch, logits):
        calls.append(1)
        return logits.sum() * (float("nan") if len(calls) == 5 else 0.0)

    with pytest.raises(TrainingError, match=r"became nan in epoch 2, step 2; nothing was written.*learning rate"):
        run(small_network(), epochs=3, objective=Objective(objective))


def test_a_diverging_run_stops():
    recipe = RECIPE.model_copy(update={"lr": 10.0, "clip_norm": 0.0, "weight_decay": 0.9})
    with pytest.raises(
        TrainingError, match=r"test: (the loss|the validation loss|[\w.]+) became (NaN or infinite|nan|inf)"
    ):
        run(small_network(), recipe, epochs=60)


def test_a_weight_that_is_not_finite_stops_although_the_loss_is():
    class Hidden(torch.nn.Module):
        """Holds a value that no image's logits depend on."""

        def __init__(self):
            super().__init__()
            self.network = small_network()
            self.register_buffer("unused", torch.tensor([1.0, float("inf")]))

        def forward(self, images):
            return self.network(images)

    with pytest.raises(TrainingError, match="test: unused became NaN or infinite in epoch 1; nothing was written"):
        run(Hidden())


def test_what_layers_draw_depends_on_seed_and_epoch_alone():
    """So a run that goes on after an epoch drops the same values out as one that was not interrupted."""
    cases = [(seed, first, epoch) for seed in (0, 1) for first in (0, 7) for epoch in (0, 1)]
    assert len({layer_seed(Schedule(RECIPE, 5, seed, first), epoch) for seed, first, epoch in cases}) == 8
    assert layer_seed(Schedule(RECIPE, 5, 0, 7), 0) == layer_seed(Schedule(RECIPE, 9, 0, 0), 7)

    def dropping():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(28 * 28, 3))

    first = run(dropping())
    torch.manual_seed(99)
    assert run(dropping()) == first


def test_clipping_bounds_the_first_step():
    network = small_network()
    before = [p.detach().clone() for p in network.parameters()]
    recipe = RECIPE.model_copy(
        update={"clip_norm": 1e-3, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 96, "warmup": 0.0}
    )
    run(network, recipe, epochs=1)
    moved = torch.cat([(p - b).flatten() for p, b in zip(network.parameters(), before, strict=True)]).norm()
    assert 0 < moved <= RECIPE.lr * 1e-3 * 1.01


def test_biases_and_normalization_are_not_decayed():
    decayed, kept = make_optimizer(small_network(), RECIPE, torch.nn.ModuleDict(), "3").param_groups
    assert decayed["weight_decay"] == RECIPE.weight_decay
    assert kept["weight_decay"] == 0
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in kept["params"])


def test_the_body_learns_more_slowly_than_the_head():
    network = small_network()
    groups = make_optimizer(
        network, RECIPE.model_copy(update={"body_lr": 0.1}), torch.nn.ModuleDict(), "3"
    ).param_groups
    factors = {id(p): group["factor"] for group in groups for p in group["params"]}
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    assert all(factors[id(p)] == (1.0 if p is head.weight or p is head.bias else 0.1) for p in network.parameters())
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    recipe = RECIPE.model_copy(update={"body_lr": 1e-9, "weight_decay": 0.0})
    run(network, recipe, epochs=1)
    moved = {name for name, p in network.named_parameters() if (p - before[name]).abs().max() > 1e-6}
    assert moved == {name for name, p in network.named_parameters() if p is head.weight or p is head.bias}


def norm_biases(network):
    return [m.bias for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_the_biases_of_normalization_learn_at_their_own_rate():
    network = small_network()
    recipe = RECIPE.model_copy(update={"body_lr": 0.1, "bias_lr": 64.0})
    fast = {id(p) for p in norm_biases(network)}
    head = {id(p) for p in list(network.modules())[-1].parameters()}
    assert fast and len(head) == 2
    for group in make_optimizer(network, recipe, torch.nn.ModuleDict(), "3").param_groups:
        for p in group["params"]:
            assert group["factor"] == pytest.approx(6.4 if id(p) in fast else 1.0 if id(p) in head else 0.1)
            assert group["weight_decay"] == (0.0005 if p.ndim > 1 else 0.0)


def test_a_faster_bias_moves_so_many_times_as_far_in_the_first_step():
    one_step = {"batch_size": 96, "warmup": 0.0, "clip_norm": 0.0, "weight_decay": 0.0, "lr": 0.001}
    usual, faster = small_network(), small_network()
    start = [p.detach().clone() for p in norm_biases(usual)]
    run(usual, RECIPE.model_copy(update=one_step), epochs=1)
    run(faster, RECIPE.model_copy(update=one_step | {"bias_lr": 64.0}), epochs=1)
    for before, a, b in zip(start, norm_biases(usual), norm_biases(faster), strict=True):
        torch.testing.assert_close(b - before, 64 * (a - before))
    others = [
        [p for name, p in network.named_parameters() if name not in normalization_biases(network)]
        for network in (usual, faster)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*others, strict=True))


def test_biases_of_normalization_are_told_by_the_weight_beside_them():
    class Own(torch.nn.Module):
        """Normalizes nothing, but has the parameters of a layer that does."""

        def __init__(self):
            super().__init__()
            self.weight, self.bias = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(3))

    layers = [torch.nn.Conv2d(3, 3, 1), Own(), torch.nn.GroupNorm(1, 3), torch.nn.BatchNorm2d(3, affine=False)]
    layers += [torch.nn.PReLU(3), torch.nn.Linear(3, 3)]
    assert normalization_biases(torch.nn.Sequential(*layers)) == {"1.bias", "2.bias"}


def test_without_a_rate_of_their_own_biases_stay_in_the_group_of_the_others():
    """The order of parameters and groups is part of what bytes follow from."""
    network = small_network()
    decayed, kept = make_optimizer(network, RECIPE, torch.nn.ModuleDict(), "3").param_groups
    assert [id(p) for p in decayed["params"]] == [id(p) for p in network.parameters() if p.ndim > 1]
    assert [id(p) for p in kept["params"]] == [id(p) for p in network.parameters() if p.ndim == 1]


def test_the_average_of_the_weights_is_what_is_kept_and_measured():
    train, val = striped(96), striped(48, seed=1)
    network, plain, decay = small_network(), small_network(), 0.3
    key = list(network.state_dict())[-1]
    seen = []

    def objective(batch, logits):
        seen.append(network.state_dict()[key].clone())
        return torch.nn.functional.cross_entropy(logits, batch.targets)

    fit(plain, train, val, Schedule(RECIPE, 2, 0), RUNTIME, "test")
    recipe = RECIPE.model_copy(update={"average": decay})
    history = fit(network, train, val, Schedule(recipe, 2, 0), RUNTIME, "test", Objective(objective))
    _, expected, *later = [*seen, plain.state_dict()[key]]  # before the first step, after it, after each other one
    for step, weights in enumerate(later, 1):  # early steps forget their start sooner
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * weights
    torch.testing.assert_close(network.state_dict()[key], expected)
    assert not torch.equal(network.state_dict()[key], plain.state_dict()[key])
    assert history[-1]["val_acc"] == evaluate(network, val).accuracy


@pytest.mark.parametrize(
    ("arch", "options", "precision", "coarse"),
    [
        ("compact_cnn", {"groups": 1}, "mixed", True),
        ("compact_cnn", {"groups": 2}, "mixed", True),
        ("compact_cnn", {"groups": "depthwise"}, "mixed", False),
        ("compact_cnn", {"groups": "depthwise"}, "bf16", True),
        ("compact_cnn", {"groups": 1}, "fp32", False),
    ],
)
def test_mixed_precision_spares_depthwise_networks(arch, options, precision, coarse):
    network = build_model(arch, 3, 1, width=0.25, **options)
    with autocast(RUNTIME.model_copy(update={"precision": precision}), network, torch.device("cpu")):
        logits = network(torch.zeros(2, 1, 28, 28))
    assert logits.dtype == (torch.bfloat16 if coarse else torch.float32)


@given(
    schedule=st.sampled_from(["one_cycle", "cosine"]),
    warmup=st.floats(0, 0.9),
    total=st.integers(1, 500),
)
def test_learning_rate_rises_to_its_peak_and_falls_to_almost_nothing(schedule, warmup, total):
    recipe = RECIPE.model_copy(update={"schedule": schedule, "warmup": warmup})
    rates = [learning_rate(recipe, step, total) for step in range(total)]
    assert all(0 < rate <= recipe.lr * (1 + 1e-9) for rate in rates)
    peak = rates.index(max(rates))
    assert all(a <= b + 1e-12 for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b - 1e-12 for a, b in pairwise(rates[peak:]))
    if total > 50:
        assert rates[-1] < 0.2 * recipe.lr


def test_a_batch_of_a_single_image_is_refused_before_training():
    recipe = RECIPE.model_copy(update={"batch_size": 2})
    with pytest.raises(ConfigError, match="test: a batch_size of 2 cuts 95 training images into batches of which one"):
        fit(small_network(), striped(95), striped(48, seed=1), Schedule(recipe, 1, 0), RUNTIME, "test")


def test_a_finished_checkpoint_gives_the_network_in_eval_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    first = run(small_network(), checkpoint=checkpoint.Checkpoint(tmp_path / "fit"))
    network = small_network(seed=5)
    network.train()
    assert run(network, checkpoint=checkpoint.Checkpoint(tmp_path / "fit")) == first
    assert not network.training


def test_checkpoints_are_few_where_epochs_are_short(tmp_path):
    """Their share of the time is bounded, so a run of a second leaves none."""
    run(small_network(), checkpoint=checkpoint.Checkpoint(tmp_path / "fit"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize(
    "changes",
    [
        {"momentum": 0.0},
        {"momentum": 0.9},
        {"average": 0.9},
        {"resize_from": 0.5, "resize_until": 0.7},
        {"bias_lr": 8.0},
        {"augment": RECIPE.augment.model_copy(update={"flip": "alternating"})},
    ],
    ids=lambda changes: " ".join(changes) + " " + str(changes.get("momentum", "")),
)
def test_going_on_from_every_epoch_gives_the_same_bits(tmp_path, monkeypatch, optimizer, changes):
    class KilledError(Exception):
        pass

    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    recipe = RECIPE.model_copy(update={"optimizer": optimizer, "lr": 0.01} | changes)
    whole = small_network()
    history = run(whole, recipe, epochs=4)
    calls = []

    def objective(batch, logits):
        calls.append(1)
        if len(calls) in (4, 8, 13):
            raise KilledError
        return torch.nn.functional.cross_entropy(logits, batch.targets)

    for _ in range(3):
        with pytest.raises(KilledError):
            run(
                small_network(),
                recipe,
                4,
                objective=Objective(objective),
                checkpoint=checkpoint.Checkpoint(tmp_path / "fit"),
            )
    network = small_network()
    assert run(network, recipe, epochs=4, checkpoint=checkpoint.Checkpoint(tmp_path / "fit")) == history
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), whole.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_have_no_accuracy(value):
    """Argmax would make a class of them."""

    class Broken(torch.nn.Module):
        def forward(self, images):
            return torch.full((len(images), 3), value)

    with pytest.raises(
        TrainingError, match=r"train/x: the loss on 48 images became nan; nothing was written. Usual cau"
    ):
        evaluate(Broken(), striped(48), "train/x")
