"""The rounds of a curve, counted before anything is trained."""

import json

import pytest
import torch
from conftest import planned, rates
from little import SECTIONS, make_project

from netpress.base.errors import ConfigError
from netpress.core.measure import count_params
from netpress.core.networks import build_model
from netpress.graph.checks import load_checked
from netpress.graph.rounds import estimated_rounds

ARCHS = [
    ("resnet18", {"width": 0.25, "stem": "pooled"}),
    ("mobile_student", {"width": 0.25}),
    ("large_cnn", {"width": 0.0625}),
    ("large_cnn_depthwise", {"width": 0.0625}),
    ("plain_cnn", {"width": 0.0625}),
    ("compact_cnn", {"width": 0.5}),
    ("compact_cnn", {"width": 0.5, "groups": "depthwise"}),
]
EXAMPLE = torch.zeros(2, 3, 28, 28)


@pytest.mark.parametrize(("arch", "options"), ARCHS, ids=str)
def test_the_count_is_that_of_the_real_plan(arch, options):
    network = build_model(arch, 11, 3, **options)
    for rate, until, round_to in ((0.15, 0.3, 1), (0.3, 0.1, 1), (0.6, 0.15, 1), (0.3, 0.4, 4)):
        left = planned(network, EXAMPLE, rate, until, round_to)
        assert estimated_rounds(arch, json.dumps(options), (11, 3), rates(rate, until), round_to) == len(left)


def test_fewer_classes_never_take_more_rounds():
    for rate, until in ((0.15, 0.3), (0.3, 0.1), (0.6, 0.05)):
        counts = [estimated_rounds("mobile_student", "{}", (k, 3), rates(rate, until), 1) for k in (2, 11, 1000)]
        assert counts == sorted(counts)


def refused(folder, **changes):
    """Return what is said of a project with such a curve."""
    project = make_project(folder, prune=SECTIONS["prune"] | changes)
    with pytest.raises(ConfigError) as error:
        load_checked(project / "params.yaml")
    return str(error.value)


def test_too_few_epochs_are_named_before_any_training_and_just_enough_are_not(tmp_path):
    load_checked(make_project(tmp_path / "enough", prune=SECTIONS["prune"] | {"epochs": 2}) / "params.yaml")
    text = ": prune.epochs = 1: the curve takes 2 rounds or more, each of an epoch or more; raise epochs, or"
    assert text in refused(tmp_path / "few", epochs=1)


def test_a_goal_out_of_reach_is_named_before_any_training(tmp_path):
    assert ": prune.until: rate 0.4 with round_to 1 removes no further" in refused(tmp_path / "p", until=1e-4)


def test_groups_of_one_channel_end_in_words():
    network = build_model("compact_cnn", 11, 3, width=0.5, groups=2)
    assert planned(network, EXAMPLE, 0.15, 0.05, 1)[-1] < 0.05 * count_params(network)
    with pytest.raises(ConfigError, match="removes no further channel"):
        planned(network, EXAMPLE, 0.15, 0.001, 1)
