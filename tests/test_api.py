"""docs/api.md, every line of it run."""

import doctest
import json
from pathlib import Path

import pytest

from netpress import compare
from netpress.base.errors import ArtifactError, NetpressError

PAGE = Path(__file__).parent.parent / "docs/api.md"


@pytest.fixture
def here(little_run, monkeypatch):
    monkeypatch.chdir(little_run)
    return little_run


def test_every_line_of_the_page_does_what_it_says(here):
    result = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.REPORT_NDIFF)
    assert result.attempted >= 10 and result.failed == 0


def test_a_difference_is_that_of_the_metrics(here):
    accuracy = {
        name: json.loads((here / f"metrics/{name}.json").read_text())["val_acc"]
        for name in ("train/teacher", "factorize/tucker", "distill/kd", "lowrank/depthwise")
    }
    for first in accuracy:
        for second in accuracy:
            found = compare(first, second, here / "data")
            assert found.difference == pytest.approx(accuracy[second] - accuracy[first])
            assert found.low <= found.difference <= found.high


def test_what_is_not_there_is_named(here, tmp_path):
    with pytest.raises(ArtifactError, match="no model 'train/techer'"):
        compare("train/techer", "train/teacher")
    with pytest.raises(ArtifactError, match="no control of 'prune/main/round_1'"):
        compare("prune/main/round_1", "prune/main/round_1/control")
    with pytest.raises(NetpressError, match=r"no dvc\.yaml"):
        compare("train/teacher", "distill/kd", tmp_path)
