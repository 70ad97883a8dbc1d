"""Convolutions as matrix products: they compute what PyTorch's do, where the rule says so, and leave nothing behind."""

import copy
import itertools
import pickle

import pytest
import torch
from conftest import RECIPE, RUNTIME, Objective, striped
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from netpress.base.errors import TrainingError
from netpress.core import checkpoint, kernels
from netpress.core.engine import Schedule, fit
from netpress.core.kernels import by_products, convolve, small_maps
from netpress.core.networks import build_model

SHAPES = [(1, 1), (3, 3), (5, 5), (3, 1), (1, 3), (2, 2)]
STRIDES = [(1, 1), (2, 2), (1, 2), (2, 1), (3, 2)]
PADDINGS = list(itertools.product(range(3), range(3)))
SIDES = st.integers(1, 8)
LAYOUTS = [torch.channels_last, torch.contiguous_format]


@pytest.fixture
def convolved(monkeypatch):
    """The sizes of the maps that were convolved as products, as on a processor for which that was measured."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    sizes = []

    def noted(x, *arguments):
        sizes.append(tuple(x.shape[2:]))
        return convolve(x, *arguments)

    monkeypatch.setattr(kernels, "convolve", noted)
    return sizes


def drawn(shape, layout=torch.channels_last, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)  # the same in every precision
    return values.to(dtype=dtype, memory_format=layout).requires_grad_()


def output(size, kernel, stride, padding):
    """Rows and columns of what comes out, 0 or fewer if the kernel does not fit."""
    return [(n + 2 * p - k) // s + 1 for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]


def results(function, inputs, *arguments):
    """What `function` gives and its gradients of `inputs` for a random gradient of what it gives."""
    out = function(*inputs, *arguments)
    return out, *torch.autograd.grad(out, inputs, drawn(out.shape, dtype=out.dtype, seed=9))


@settings(max_examples=400, deadline=None)
@given(
    size=st.tuples(SIDES, SIDES),
    kernel=st.sampled_from(SHAPES),
    stride=st.sampled_from(STRIDES),
    padding=st.sampled_from(PADDINGS),
    batch=st.sampled_from([1, 3, 33]),
    channels=st.sampled_from([2, 3, 7]),
    outputs=st.sampled_from([0, 1, 5]),  # 0: depthwise
    layouts=st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
)
def test_values_gradients_and_layout_are_pytorchs(size, kernel, stride, padding, batch, channels, outputs, layouts):
    assume(min(output(size, kernel, stride, padding)) > 0)
    groups, outputs = (1, outputs) if outputs else (channels, channels)
    x = drawn((batch, channels, *size), layouts[0])
    inputs = x, drawn((outputs, channels // groups, *kernel), layouts[1], seed=1), drawn(outputs, None, seed=2)
    ours = results(convolve, inputs, stride, padding, groups)
    theirs = results(conv2d, inputs, stride, padding, 1, groups)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    both = all(x.is_contiguous(memory_format=layout) for layout in LAYOUTS)  # maps of 1x1, images of one channel
    if layouts[0] == layouts[1] and not both:  # mixed ones may come out contiguous, which suits whatever follows
        assert ours[0].is_contiguous(memory_format=layouts[0])


CASES = [((2, 2), (3, 3), (1, 1), (1, 1)), ((3, 2), (3, 1), (2, 1), (2, 0)), ((1, 3), (1, 1), (2, 2), (0, 0))]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), CASES)
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_are_those_of_small_differences_and_so_are_their_own(size, kernel, stride, padding, groups):
    inputs = drawn((2, 2, *size)), drawn((2, 2 // groups, *kernel), seed=1), drawn(2, None, seed=2)

    def function(*given):
        return convolve(*given, stride, padding, groups)

    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_input_or_weight_gets_no_gradient(groups, frozen):
    tensors = [drawn((3, 4, 2, 2)), drawn((4, 4 // groups, 3, 3), seed=1)]
    tensors[frozen].requires_grad_(False)
    for twice in (False, True):
        out = convolve(*tensors, None, (1, 1), (1, 1), groups)
        (found,) = torch.autograd.grad(out.square().sum(), tensors[1 - frozen], create_graph=twice)
        expected = conv2d(*tensors, None, 1, 1, 1, groups).square().sum()
        torch.testing.assert_close(found, torch.autograd.grad(expected, tensors[1 - frozen])[0])
        assert found.requires_grad == twice


#: channels, outputs, kernel, stride, padding, groups, size of the map: of each branch of the rule, by taps.
TAKEN = [
    *[
        (4, 3, 3, 1, 1, 1, (1, 1)),
        (64, 64, 3, 1, 1, 1, (2, 2)),
        (64, 64, 1, 1, 0, 1, (1, 4)),
        (9, 5, 5, 1, 2, 1, (1, 1)),
    ],
    *[(256, 256, 3, 1, 1, 1, (4, 4)), (128, 512, 3, 2, 1, 1, (7, 8)), (512, 512, 3, 1, 1, 1, (8, 8))],
    *[
        (3, 5, 1, 2, 0, 1, (7, 8)),
        (3, 5, 1, (1, 2), 0, 1, (4, 7)),
        (8, 8, 3, 1, 1, 8, (2, 2)),
        (8, 8, 3, 2, 1, 8, (1, 9)),
    ],
    *[(128, 128, 3, 1, 1, 1, (2, 2)), (2, 3, 3, 1, 1, 1, (2, 2)), (64, 64, 3, 2, 1, 1, (4, 4))],  # whole maps
    *[(2, 3, 3, 1, 1, 1, (1, 8)), (5, 2, (3, 1), 1, (1, 0), 1, (2, 3)), (3, 4, 1, 1, 0, 1, (4, 4))],
    *[(8, 8, 5, 2, 2, 8, (4, 4)), (64, 64, (3, 1), 1, (1, 0), 1, (2, 2)), (8, 8, (3, 1), 1, (1, 0), 8, (2, 1))],
]
#: Just beyond a bound, and kinds of layers that are never taken.
LEFT = [
    *[
        (2, 3, 3, 1, 1, 1, (3, 3)),
        (2, 3, 3, 1, 1, 1, (1, 9)),
        (3, 4, 1, 1, 0, 1, (4, 5)),
        (255, 256, 3, 1, 1, 1, (4, 4)),
    ],
    *[(256, 256, 3, 1, 1, 1, (4, 5)), (512, 512, 3, 1, 1, 1, (8, 9)), (512, 511, 3, 1, 1, 1, (8, 8))],
    *[(3, 5, 1, 2, 0, 1, (9, 8)), (8, 8, 3, 1, 1, 8, (3, 2)), (8, 16, 3, 1, 1, 8, (1, 1)), (8, 8, 3, 1, 1, 2, (1, 1))],
    *[(8, 8, 3, 1, 0, 1, (2, 2)), (8, 8, 3, 1, 0, 1, (1, 1))],  # the kernel does not fit
]


@pytest.mark.parametrize("case", TAKEN + LEFT, ids=str)
def test_the_rule_is_one_of_shape(case):
    *arguments, groups, size = case
    assert by_products(nn.Conv2d(*arguments, groups=groups), size) == (case in TAKEN)


@pytest.mark.parametrize("batch", [1, 3, 33])
@pytest.mark.parametrize("case", TAKEN, ids=str)
def test_a_layer_in_training_gives_pytorchs_values_and_gradients_up_to_rounding(convolved, case, batch):
    """Of single precision: a part in a million of the largest value, for sums of up to 4,608 products."""
    *arguments, groups, size = case
    torch.manual_seed(0)
    layer = nn.Conv2d(*arguments, groups=groups).to(memory_format=torch.channels_last)
    x = drawn((batch, layer.in_channels, *size), dtype=torch.float32)
    inputs = x, layer.weight, layer.bias
    with small_maps(layer):
        found = results(lambda x, *_: layer(x), inputs)
    assert convolved == [size]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = results(conv2d, exact, layer.stride, layer.padding, 1, groups)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * float(other.detach().abs().max()))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 33, 127])
@pytest.mark.parametrize("size", [(7, 7), (5, 8), (1, 3)])
def test_strided_1x1_kernels_train_in_batches_that_the_threads_cannot_share(convolved, threads, batch, size):
    """In torch 2.15 such layers corrupted memory on some processors, killing the process."""
    torch.set_num_threads(threads)
    layer = nn.Conv2d(16, 32, 1, 2).to(memory_format=torch.channels_last)
    x = drawn((batch, 16, *size), dtype=torch.float32)
    with small_maps(layer):
        for _ in range(20):
            found = results(lambda x, weight, bias: layer(x), (x, layer.weight, layer.bias))
    assert set(convolved) == {size}
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, layer.weight, layer.bias)]
    for one, other in zip(found, results(conv2d, exact, 2), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-6 * float(other.detach().abs().max()))


class Own(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight, self.bias) * 2


class OwnBelow(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias) * 2


class Named(nn.Conv2d):
    """A class that changes nothing."""


def of_its_own():
    layer = nn.Conv2d(8, 8, 3, padding=1)
    layer.forward = lambda x: nn.Conv2d.forward(layer, x) * 2
    return layer


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Conv2d(8, 16, 3, padding=1, groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 1, padding="valid"),
        nn.Conv2d(8, 8, 1, padding=0, padding_mode="reflect"),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(8, 8, 3, padding=1).eval(),
        nn.Conv2d(8, 8, 3, padding=1).double(),
        Own(8, 8, 3, padding=1),
        OwnBelow(8, 8, 3, padding=1),
        of_its_own(),
        nn.ConvTranspose2d(8, 8, 3, padding=1),
    ],
    ids=str,
)
def test_other_layers_are_left_to_pytorch(convolved, layer):
    x = drawn((4, 8, 1, 1), dtype=layer.weight.dtype)
    expected = layer(x)
    with small_maps(layer):
        assert torch.equal(layer(x), expected)
    assert not convolved


def test_what_a_layer_is_given_decides_too(convolved):
    layer = Named(8, 8, 3, padding=1)
    x = drawn((4, 8, 1, 1), dtype=torch.float32)
    with small_maps(layer):
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        layer(x[0])
        layer(drawn((4, 8, 9, 9), dtype=torch.float32))
        layer.eval()(x)
        layer.to("meta").train()(x.detach().to("meta"))
    assert not convolved
    layer = Named(8, 8, 3, padding=1)
    with small_maps(layer):
        layer(x)
    assert convolved == [(1, 1)]


def test_sizes_given_as_one_number_are_read_as_pytorch_reads_them(convolved):
    layer = nn.Conv2d(8, 8, 3)
    layer.padding, layer.stride = 1, 2
    x = drawn((4, 8, 1, 1), dtype=torch.float32)
    expected = layer(x)
    with small_maps(layer):
        torch.testing.assert_close(layer(x), expected)
    assert convolved == [(1, 1)]


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(8, 8, 3), (4, 8, 1, 1), "Kernel size can't be greater than actual input size"),
        (nn.Conv2d(8, 8, 3, padding=1), (4, 3, 1, 1), "expected input.* to have 8 channels, but got 3 channels"),
        (nn.Conv2d(3, 3, 3, padding=1, groups=3), (4, 1, 1, 1), "to have 3 channels, but got 1 channels"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_pytorchs_words(convolved, layer, shape, message):
    with small_maps(layer), pytest.raises(RuntimeError, match=message):
        layer(torch.zeros(shape))


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX512", "SVE256", "VSX"])
def test_only_where_it_was_measured(convolved, monkeypatch, capability):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    with small_maps(layer):
        assert "_conv_forward" not in vars(layer)
        layer(torch.zeros(2, 8, 1, 1))
    assert not convolved


def resnet(seed=0):
    torch.manual_seed(seed)
    return build_model("resnet18", 3, 3, width=0.25, stem="pooled")


def student(seed=0):
    torch.manual_seed(seed)
    return build_model("mobile_student", 3, 1, width=0.5)


def untouched(network):
    return not any("_conv_forward" in vars(module) for module in network.modules())


def test_within_the_context_a_network_can_be_copied_pickled_and_read(convolved):
    network = resnet()
    keys, x = list(network.state_dict()), torch.randn(4, 3, 32, 32)
    with small_maps(network):
        with small_maps(network):  # the outer context's replacements stay
            pass
        assert not untouched(network)
        assert list(network.state_dict()) == keys
        copies = copy.deepcopy(network), pickle.loads(pickle.dumps(network))
        expected = network.train()(x)
    count = len(convolved)
    assert count and untouched(network)
    for other in copies:
        conv = other.layer4[1].conv2
        with torch.no_grad():
            assert torch.equal(other.train()(x), expected)
            conv.weight.zero_()  # of the copy alone
            assert not conv(torch.ones(1, conv.in_channels, 2, 2)).any()
        other.load_state_dict(network.state_dict())
    assert network.layer4[1].conv2.weight.any()
    network.train()(x)
    assert len(convolved) > count, "the copies went on with products"


def test_a_network_is_as_it_was_after_training_and_after_an_error(convolved):
    network = student()
    before = {name: set(vars(module)) for name, module in network.named_modules()}
    train(network)
    assert convolved
    with pytest.raises(TrainingError):
        train(network, objective=Objective(lambda batch, logits: logits.sum() * float("nan")))
    assert {name: set(vars(module)) for name, module in network.named_modules()} == before


def train(network, epochs=1, runtime=RUNTIME, channels=1, size=28, **options):
    """Two steps an epoch."""
    splits = (striped(count, size=size, channels=channels, seed=count) for count in (64, 16))
    return fit(network, *splits, Schedule(RECIPE, epochs, 0), runtime, "test", **options)


NETWORKS = {"resnet": (resnet, {"channels": 3, "size": 32}), "student": (student, {})}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("last", [True, False])
def test_training_takes_them_where_they_were_measured_and_there_alone(convolved, monkeypatch, name, last):
    build, kind = NETWORKS[name]
    runtime = RUNTIME.model_copy(update={"channels_last": last})
    history = train(build(), runtime=runtime, **kind)
    count = len(convolved)
    assert count >= 2 * 3, "some layers, in each of two steps"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert history[0]["train_loss"] == pytest.approx(train(build(), runtime=runtime, **kind)[0]["train_loss"], rel=1e-4)
    assert len(convolved) == count


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_networks_gradients_are_as_exact_as_pytorchs(convolved, name, layout):
    """Beside those in double. Rounding that an untrained network makes large is PyTorch's too, so that is the bound."""
    build, kind = NETWORKS[name]
    network = build().to(memory_format=layout)
    x = drawn((16, kind.get("channels", 1), *2 * (kind.get("size", 28),)), layout, torch.float32).detach()

    def gradients(network, x):
        loss = nn.functional.cross_entropy(network(x), torch.arange(len(x)) % 3)
        return torch.autograd.grad(loss, list(network.parameters()))

    theirs = gradients(network, x)
    assert not convolved
    with small_maps(network):
        ours = gradients(network, x)
    assert convolved
    exact = gradients(copy.deepcopy(network).double(), x.double())

    def error(found):
        return sum(float((one - other).square().sum()) for one, other in zip(found, exact, strict=True)) ** 0.5

    assert error(ours) <= 2 * error(theirs)


def test_compiled_networks_are_left_to_the_compiler(convolved, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network: network)
    train(student(), runtime=RUNTIME.model_copy(update={"compile": True}))
    assert not convolved


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("threads", [1, 2])
def test_training_repeats_itself_bit_by_bit_with_any_threads(convolved, name, threads):
    torch.set_num_threads(threads)
    build, kind = NETWORKS[name]
    one, other = build(), build()
    history = train(one, epochs=2, **kind)
    kept = [torch.randn(number) for number in range(1, 99, 7)]  # other places in memory
    assert train(other, epochs=2, **kind) == history
    assert convolved and kept
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_going_on_from_a_checkpoint_gives_the_same_bits(convolved, monkeypatch, tmp_path):
    class KilledError(Exception):
        pass

    def killed(batch, logits):
        steps.append(1)
        if len(steps) == 4:
            raise KilledError
        return nn.functional.cross_entropy(logits, batch.targets)

    monkeypatch.setattr(checkpoint, "SHARE", 1e9)
    steps, whole, resumed = [], student(), student()
    history = train(whole, epochs=3)
    where = checkpoint.Checkpoint(tmp_path / "fit")
    with pytest.raises(KilledError):
        train(student(), epochs=3, objective=Objective(killed), checkpoint=where)
    count = len(convolved)
    assert train(resumed, epochs=3, checkpoint=checkpoint.Checkpoint(tmp_path / "fit")) == history
    assert count < len(convolved) < 2 * count
    assert all(map(torch.equal, whole.state_dict().values(), resumed.state_dict().values()))
