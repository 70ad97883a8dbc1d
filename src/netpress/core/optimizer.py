"""A recipe's optimizer and its learning rate in every step."""

import math

import torch
from torch import nn

from netpress.core.muon import Muon
from netpress.params.recipes import Recipe


def make_optimizer(network: nn.Module, recipe: Recipe, modules: nn.Module, head: str) -> torch.optim.Optimizer:
    """Build the recipe's optimizer for the network and the objective's modules.

    Biases and normalization are not decayed; all of the network but the layer called `head` learns at
    `recipe.body_lr` of the rate, and its biases of normalization at `recipe.bias_lr` times that. Muon is for the
    network's weights but those of `head` and of one input, such as depthwise kernels; SGD is for the others.
    """
    chosen: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    biases = normalization_biases(network)
    for name, p in network.named_parameters():
        is_head = name.rpartition(".")[0] == head
        factor = 1.0 if is_head else recipe.body_lr
        if name in biases:
            factor *= recipe.bias_lr
        orthogonal = recipe.optimizer == "muon" and p.ndim > 1 and p.shape[1] > 1 and not is_head
        chosen.setdefault((p.ndim > 1, orthogonal, factor), []).append(p)
    for p in modules.parameters():
        chosen.setdefault((p.ndim > 1, False, 1.0), []).append(p)
    groups = [
        {
            "params": found,
            "weight_decay": recipe.weight_decay if decayed else 0.0,
            "orthogonal": orthogonal,
            "factor": factor,
        }
        for (decayed, orthogonal, factor), found in chosen.items()
    ]
    if recipe.optimizer == "muon":
        return Muon(groups, recipe.lr, recipe.momentum)
    if recipe.optimizer == "sgd":
        nesterov = recipe.momentum > 0
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=True)
    kind = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=True)


def normalization_biases(network: nn.Module) -> set[str]:
    """Return the names of the biases of normalization layers of any class: those beside a weight of one dimension."""
    parameters = dict(network.named_parameters())
    layers = {name.removesuffix("weight") for name, p in parameters.items() if name.endswith("weight") and p.ndim == 1}
    return {f"{layer}bias" for layer in layers} & parameters.keys()


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Return the learning rate of `step` (from 0) of `total`.

    Both schedules rise over the first `warmup` share of the steps and fall along a cosine to almost 0. `one_cycle`
    rises along a cosine from lr / 25 (Smith and Topin, https://arxiv.org/abs/1708.07120), `cosine` along a line
    from 0 (Loshchilov and Hutter, https://arxiv.org/abs/1608.03983).
    """
    rise = recipe.warmup * total
    if step < rise:
        if recipe.schedule == "cosine":
            return recipe.lr * (step + 1) / (rise + 1)
        start = recipe.lr / 25
        return start + (recipe.lr - start) * (1 - math.cos(math.pi * step / rise)) / 2
    return recipe.lr * (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2
