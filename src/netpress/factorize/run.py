"""Low-rank factorization of a trained network's convolutions.

A method is a file with `Options` and `factorize(conv, options)`, which returns a chain of convolutions
that approximates `conv`, or None where the layer stays as it is; `KNOB` is the option to change where all layers stay,
and how.
"""

from typing import Any

from torch import nn

from netpress.base.errors import ParamsError
from netpress.core.context import Bench
from netpress.core.edits import Edit, replace_layer, sequence_edit
from netpress.core.engine import Schedule, fit
from netpress.core.measure import evaluate, evidence
from netpress.core.resume import Workspace
from netpress.core.seeds import Made, run_seeds, save
from netpress.params import plugins
from netpress.params.schema import parse


def factorize_model(bench: Bench) -> None:
    """Factorize every seed of the parent, fine-tune it, save the models and write the metrics."""
    item = bench.item
    train, val = bench.split("train"), bench.split("val")

    def make(seed: int, work: Workspace) -> dict[str, Any]:
        parent = bench.parent(seed)
        network = parent.network
        edit = factorize_network(network, item.method, item.method_options)
        network.to(bench.device)
        before = evaluate(network, val, f"{work.label} before tuning")
        schedule, label = Schedule(bench.recipe, item.epochs, seed), f"{bench.model_id} seed {seed}"
        history = fit(network, train, val, schedule, bench.config.runtime, label, checkpoint=work.checkpoint("fit"))
        edits = [*parent.spec.edits, edit]
        found = evidence(network, train, val)
        arch, options, epochs = parent.spec.arch, parent.spec.options, parent.spec.epochs + len(history)
        made = Made(network, history, arch, options, edits, item.method, parent, epochs, found)
        metrics = save(bench, work.models / f"seed_{seed}", seed, made)
        return metrics | {"val_acc_before_tuning": before.accuracy}

    run_seeds(bench, make)


def factorize_network(network: nn.Module, method_name: str, method_options: dict[str, Any]) -> Edit:
    """Replace convolutions of `network` in place by chains, and return the edit that says which.

    Raises:
        ParamsError: the method leaves every layer as it is.
    """
    method = plugins.load("factorize/methods", method_name)
    options = parse(method.Options, method_options, "method_options")
    convs = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    chains = {name: chain for name, conv in convs.items() if (chain := method.factorize(conv, options)) is not None}
    if not chains:
        knob, how = method.KNOB
        key, widest = f"method_options.{knob}", max(min(conv.in_channels, conv.out_channels) for conv in convs.values())
        text = f"{method_name} leaves all {len(convs)} convolutions as they are, the widest has {widest} channels"
        raise ParamsError([(key, f"{key} = {method_options.get(knob)}: {text}; {how}")])
    for name, chain in chains.items():
        replace_layer(network, name, chain)
    return sequence_edit(chains)
