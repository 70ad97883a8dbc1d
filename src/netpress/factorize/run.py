"""Low-rank factorization of a trained network's convolutions and linear layers.

A method is a file of `methods/` with `Options`, `EXAMPLE` and

    factorize(layer: Conv2d | Linear, options, inputs) -> nn.Sequential | None

a chain of such layers that approximates `layer` and takes and gives the same shapes, or None where it stays as it is.
`inputs` is an iterator over batches of the layer's inputs on training images, (B, C, H, W) or (B, ..., features),
computed only if it is iterated. `KNOB` is the option to change where all layers stay, and how.

For a budget, where the ranks of all layers are chosen together, the file also has

    candidates(layer, options, inputs) -> list[Candidate]
    factorize(layer, options, inputs, rank) -> nn.Sequential

`candidates` lists what the layer could become by rising rank, up to the rank that the options say: for each the rank,
in whatever form the file likes, the relative squared error, and the chain without values; [] where the layer stays.
The errors of all layers are added up, so they are of one kind: the share of the energy that is lost, or a bound of it.
`factorize` then gets the rank that was chosen, and makes a chain of the very sizes that the candidate had.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from netpress.base.errors import ParamsError
from netpress.core.batches import Batch
from netpress.core.bn_recalibration import recalibrate
from netpress.core.context import Context, Method
from netpress.core.edits import CHAINABLE, Edit, replace_edit, replace_layer
from netpress.core.measure import evaluate, evidence
from netpress.core.networks import require_rebuilt
from netpress.core.resume import Workspace
from netpress.core.seeds import Made, run_seeds, save
from netpress.distill.teaching.taught import tuning
from netpress.factorize.common.budget import Budget, Candidate, ranks_within
from netpress.params.plugins import in_words


def factorize_model(context: Context) -> None:
    """Factorize every seed of the parent, fine-tune it, save the models and write the metrics."""

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        parent, method = context.parent(seed), context.method()
        spec, item = parent.spec, context.item
        network = parent.network.to(context.device)
        budget = Budget(item.budget, item.budget_of, spec.image) if item.budget else None
        edits = [*spec.edits, factorize_network(network, method, lambda: context.batches(seed, 0), budget)]
        require_rebuilt(network, spec.arch, len(spec.classes), spec.options, edits, spec.image)
        before = evaluate(network, context.val, f"{work.label} before tuning").named("val_acc_before_tuning")
        if item.bn_batches:
            recalibrate(network, context.batches(seed, 0), item.bn_batches)
            before |= evaluate(network, context.val, f"{work.label} recalibrated").named("val_acc_recalibrated")
        with tuning(context, seed, network) as objective:
            history = context.fit(work, "fit", network, seed, objective)
        found = evidence(network, context.train, context.val) | before
        epochs = spec.epochs + len(history)
        made = Made(network, history, spec.arch, spec.options, edits, method.name, {"from": spec}, epochs, found)
        return save(context, work.models / f"seed_{seed}", seed, made)

    run_seeds(context, make)


def factorize_network(
    network: nn.Module, method: Method, batches: Callable[[], Iterator[Batch]], budget: Budget | None = None
) -> Edit:
    """Replace layers of `network` in place by chains, and return the edit that says which.

    `batches` yields training batches, always the same. Without a budget each layer's rank is what the options say.

    Raises:
        ParamsError: the method leaves every layer as it is, gives a chain that cannot take its layer's place, or cannot
            keep within the budget.
    """
    network.eval()
    # No subclasses: what they compute with their weight is their own affair. None that stands in several places: a
    # chain would take one of them, and the weight would no longer be shared.
    places = Counter(module for _, module in network.named_modules(remove_duplicate=False))
    layers = {n: m for n, m in network.named_modules() if type(m) in (nn.Conv2d, nn.Linear) and places[m] == 1}

    def made(name: str, *rank: Any) -> nn.Sequential | None:
        given = _inputs(network, layers[name], batches)
        kinds = (nn.Sequential, NoneType)
        chain: nn.Sequential | None = method.call("factorize", layers[name], method.options, given, *rank, gives=kinds)
        return chain

    if budget:
        listed = {name: _candidates(method, layer, _inputs(network, layer, batches)) for name, layer in layers.items()}
        _refuse_misfits(method, layers, {name: found[0].chain for name, found in listed.items() if found})
        ranks = ranks_within(network, layers, listed, budget, method.name) if any(listed.values()) else {}
        found = {name: made(name, rank) for name, rank in ranks.items()}
    else:
        found = {name: made(name) for name in layers}
    chains = {name: chain for name, chain in found.items() if chain is not None}
    if not chains:
        knob, how = method.module.KNOB
        key, value = f"method_options.{knob}", getattr(method.options, knob)
        widest = max((min(layer.weight.shape[:2]) for layer in layers.values()), default=0)
        text = f"{method.name} leaves all {len(layers)} layers as they are, the widest has {widest} channels"
        raise ParamsError([(key, f"{key} = {value}: {text}; {how}")])
    _refuse_misfits(method, layers, chains)
    for name, chain in chains.items():
        replace_layer(network, name, chain)
    return replace_edit(chains)


def _candidates(method: Method, layer: nn.Conv2d | nn.Linear, inputs: Iterator[Tensor]) -> list[Candidate]:
    """Return what the method says that `layer` could become."""
    listed: list[Candidate] = method.call("candidates", layer, method.options, inputs, gives=(list,))
    if other := [entry for entry in listed if not isinstance(entry, Candidate)]:
        raise method.unfit(
            f"candidates listed {in_words(other[0])}; list entries of netpress.factorize.common.budget.Candidate"
        )
    return listed


def _refuse_misfits(method: Method, layers: dict[str, nn.Conv2d | nn.Linear], chains: dict[str, nn.Sequential]) -> None:
    """Raise for the first chain that cannot take its layer's place."""
    for name, chain in chains.items():
        if fault := _fault_of_chain(layers[name], chain):
            text = f"{method.name} cannot replace layer '{name}' ({type(layers[name]).__name__}): {fault}"
            raise method.unfit(text)


def _fault_of_chain(layer: nn.Conv2d | nn.Linear, chain: nn.Sequential) -> str:
    """Say why `chain` cannot take the place of `layer`; nothing where it can."""
    if not len(chain):
        return "it gives an empty chain; give one of a layer or more, or None"
    other = [type(part).__name__ for part in chain if type(part) not in (nn.Conv2d, nn.Linear)]
    if other:
        return f"a chain may hold {' and '.join(CHAINABLE)}, not a {other[0]}"
    wanted, found = _sides([layer]), _sides(list(chain))
    faults = [f"{side} {found[side]} in place of {wanted[side]}" for side in wanted if found[side] != wanted[side]]
    if faults:
        return f"its chain has {' and '.join(faults)}"
    given = output = _example(layer)
    for part in chain:
        try:
            output = _on_meta(part, output)
        except (RuntimeError, ValueError) as error:
            return f"{part} of its chain does not run on {tuple(output.shape)} ({str(error).splitlines()[0]})"
    sizes = [tuple(images.shape) for images in (output, given, _on_meta(layer, given))]
    if sizes[0] != sizes[2]:
        return "its chain gives {} for inputs of {} in place of {}; look at kernels and padding".format(*sizes)
    return ""


def _sides(layers: list[Any]) -> dict[str, Any]:
    """Return inputs, outputs and stride of a chain of convolutions and linear layers."""
    first, last = layers[0], layers[-1]
    strides = [layer.stride for layer in layers if isinstance(layer, nn.Conv2d)]
    return {
        "inputs": first.in_channels if isinstance(first, nn.Conv2d) else first.in_features,
        "outputs": last.out_channels if isinstance(last, nn.Conv2d) else last.out_features,
        "stride": tuple(math.prod(along) for along in zip(*strides, strict=True)),
    }


def _example(layer: nn.Conv2d | nn.Linear) -> Tensor:
    """Return inputs of `layer` without storage: images of two unlike sides, so that a lost row or column shows."""
    if isinstance(layer, nn.Linear):
        return torch.zeros(2, layer.in_features, device="meta")
    height, width = (64 + step * size for step, size in zip(layer.dilation, layer.kernel_size, strict=True))
    return torch.zeros(2, layer.in_channels, height, width + 1, device="meta")


@torch.no_grad()
def _on_meta(module: nn.Module, images: Tensor) -> Tensor:
    """Return what `module` gives for `images`, both without storage."""
    weights = {name: tensor.to("meta") for name, tensor in module.state_dict().items()}
    output: Tensor = torch.func.functional_call(module, weights, images)
    return output


@torch.no_grad()
def _inputs(network: nn.Module, layer: nn.Module, batches: Callable[[], Iterator[Batch]]) -> Iterator[Tensor]:
    """Yield what `layer` is given when `network` sees training batches."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        for batch in batches():
            network(batch.images)
            yield from seen
            seen.clear()
    finally:
        hook.remove()
