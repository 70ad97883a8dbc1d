"""benchmarks/recipes.py: which runs are left, what they cost, and what the table makes of them."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from conftest import RECIPE, RUNTIME
from little import DESIGN, environment, make_project

from netpress.base.errors import ConfigError, ParamsError, TrainingError
from netpress.core.measure import count_macs
from netpress.core.networks import build_model
from netpress.params import reader

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))
import recipes  # noqa: E402
from recipe_runs import Job, Plan, jobs_of, operations, read_lines, varied  # noqa: E402

SMALL = {"arch": "compact_cnn", "options": {"width": 0.25}}


def job(variation="baseline", share=1.0, seed=0, **changes):
    recipe = varied(RECIPE, variation).model_dump()
    settings = {"network": "train/x", "epochs": 4, "images": 0, "data": "d", "code": "c"} | SMALL
    settings |= {"recipe": recipe, "runtime": RUNTIME.model_dump()}
    return Job(variation=variation, share=share, seed=seed, **(settings | changes))


def line(run, accuracy, seconds=8.0, flops=2e12):
    return json.loads(json.dumps(asdict(run) | {"val_acc": accuracy, "seconds": seconds, "operations": flops}))


@pytest.fixture(scope="module")
def project(server, tmp_path_factory):
    """A little project with prepared data."""
    scratch = DESIGN | {"init": "none"}
    deep = {"arch": "plain_cnn", "options": {"width": 0.0625}}
    networks = {"small": scratch, "deep": scratch | deep, "started": DESIGN | {"init": "weights.safetensors"}}
    folder = make_project(tmp_path_factory.mktemp("recipes") / "project", train=networks, distill={}, lowrank={})
    server.finish(folder, "prepare")
    return folder


def planned(project, networks=("train/small",), variations=("resize_from=0.5",), shares=(1.0, 0.5), **changes):
    settings = {"seeds": [0], "epochs": 0, "images": 0} | changes
    plan = Plan(list(networks), list(variations), list(shares), **settings)
    return jobs_of(project, reader.load(project / "params.yaml"), plan)


def test_a_variation_changes_the_keys_that_it_states():
    changed = varied(RECIPE, "resize_from=0.5, augment.flip=alternating,bias_lr=8")
    assert (changed.resize_from, changed.augment.flip, changed.bias_lr) == (0.5, "alternating", 8)
    assert changed.model_copy(update={"resize_from": 1.0, "bias_lr": 1.0, "augment": RECIPE.augment}) == RECIPE
    assert varied(RECIPE, "augment.flip=true").augment.flip is True
    assert varied(RECIPE, "baseline") == RECIPE


@pytest.mark.parametrize(
    ("variation", "message"),
    [
        (
            "resize_form=0.5",
            "--vary resize_form=0.5: 'resize_form=0.5' is no KEY=VALUE of a recipe; keys: ",
        ),
        ("bias_lr", "'bias_lr' is no KEY=VALUE of a recipe"),
        ("augment=1", "'augment=1' is no KEY=VALUE of a recipe"),
        ("flip=true", "augment.flip"),
        ("bias_lr=0", "bias_lr = 0: must be a number above 0"),
        ("augment.flip=sometimes", "must be one of true, false, alternating"),
    ],
)
def test_a_variation_that_is_none_is_refused(variation, message):
    with pytest.raises(ParamsError) as error:
        varied(RECIPE, variation)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["train/nobody", "train/started", "prune/main"])
def test_a_network_that_does_not_begin_from_scratch_is_refused(project, name):
    with pytest.raises(ConfigError, match=f"{name}: no network of train or lowrank .*; known: train/deep, train/small"):
        planned(project, [name])


def test_runs_are_those_of_every_share_with_the_baseline_first_and_seed_by_seed(project):
    jobs = planned(project, seeds=[3, 1], variations=["bias_lr=8", "bias_lr=8"])
    named = [(j.seed, j.variation, j.epochs) for j in jobs]
    one = [("baseline", 4), ("baseline", 2), ("bias_lr=8", 4), ("bias_lr=8", 2)]
    assert named == [(seed, *rest) for seed in (3, 1) for rest in one]
    assert {j.runtime["threads"] for j in jobs} == {1}
    assert [j.epochs for j in planned(project, epochs=10)][:2] == [10, 5]


def test_operations_are_six_a_multiply_add_at_the_side_of_each_epoch(project):
    whole, half, small, _ = planned(project)
    network = build_model("compact_cnn", 10, 1, width=0.25)
    images = sum(json.loads((project / "data/prepared/manifest.json").read_text())["counts"]["train"])
    each = {side: 6 * images * count_macs(network, 1, side, side) for side in (14, 18, 24, 28)}
    assert operations(project, whole) == 4 * each[28]
    assert operations(project, half) == 2 * each[28]
    assert operations(project, small) == sum(each.values())
    few = planned(project, images=50)[0]
    assert operations(project, few) == operations(project, whole) * 50 // images


def test_there_are_none_where_a_network_takes_no_images_so_small(project):
    whole, small = planned(project, ["train/deep"], shares=[1.0])
    assert operations(project, whole) > 0
    assert operations(project, small) is None


def test_a_run_is_done_if_all_that_it_follows_from_is_the_same():
    run = job()
    assert run.done_in([line(job(seed=1), 0.5), line(run, 0.75)])["val_acc"] == 0.75
    for other in ({"code": "other"}, {"data": "other"}, {"images": 5}, {"epochs": 3}, {"recipe": {}}):
        assert run.done_in([line(replace(run, **other), 0.5)]) is None


def test_a_line_that_was_cut_off_is_removed(tmp_path):
    path = tmp_path / "results.jsonl"
    assert read_lines(path) == []
    path.write_text('{"a": 1}\n{"b": 2}\n{"c')
    assert read_lines(path) == [{"a": 1}, {"b": 2}]
    assert path.read_text() == '{"a": 1}\n{"b": 2}\n'


def test_the_table_gives_means_deviations_and_gains_seed_by_seed():
    jobs = [
        job(v, share, seed, epochs=int(4 * share))
        for seed in (0, 1)
        for v in ("baseline", "bias_lr=8")
        for share in (1.0, 0.5)
    ]
    accuracies = [0.90, 0.80, 0.92, 0.86, 0.91, 0.82, 0.95]  # the last run is not done
    lines = [line(run, accuracy) for run, accuracy in zip(jobs, accuracies, strict=False)]
    assert recipes.table(jobs, lines).splitlines()[2:] == [
        "| train/x | baseline | 4 | 2 | 90.50 ± 0.71 | +0.00 | +0.00 | 2.0 | 2 |",
        "| train/x | baseline | 2 | 2 | 81.00 ± 1.41 | +0.00 | -9.50 | 4.0 | 2 |",
        "| train/x | bias_lr=8 | 4 | 2 | 93.50 ± 2.12 | +3.00 | +3.00 | 2.0 | 2 |",
        "| train/x | bias_lr=8 | 2 | 1 | 86.00 | +6.00 | -4.00 | 4.0 | 2 |",
    ]


def test_the_table_counts_runs_that_diverged():
    jobs = [job("bias_lr=8", seed=seed) for seed in (0, 1)]
    assert "| 2 | 50.00 (1 diverged) |" in recipes.table(jobs, [line(jobs[0], 0.5), line(jobs[1], None)])
    assert "| 1 | (1 diverged) |" in recipes.table(jobs, [line(jobs[1], None)])


def test_a_training_that_diverges_has_a_line_without_an_accuracy(project, monkeypatch):
    def diverging(*_):
        raise TrainingError("the loss became nan")

    (run,) = planned(project, variations=[], shares=[1.0], images=64)
    monkeypatch.setattr(recipes, "fit", diverging)
    found = recipes.train(project, run)
    assert (found["val_acc"], found["diverged"]) == (None, "the loss became nan")
    assert run.done_in(json.loads(json.dumps([found])))


@pytest.mark.slow
@pytest.mark.exhaustive  # a benchmark that nothing else rests on, and six processes that load PyTorch
def test_what_is_done_is_not_done_again(project):
    results = project / "results.jsonl"

    def bench(*options):
        options = ["--images", "64", "--epochs", "2", "--shares", "1", "--results", str(results), "-j", "2", *options]
        command = [sys.executable, ROOT / "benchmarks/recipes.py", "train/small", "train/deep", *options]
        env = environment() | {"PYTHONPATH": str(ROOT / "src")}
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = bench("--seeds", "0", "--vary", "resize_from=0.5")
    assert "left out: train/deep does not take the images of resize_from=0.5, 2 epochs" in said
    assert said.count(" s  about ") == 3
    first = results.read_text()
    results.write_text(first[:-9])  # as if it had been killed while it wrote
    said = bench("--seeds", "0", "--vary", "resize_from=0.5")
    assert said.count(" s  about ") == 1
    assert said.count("| train/") == 3
    assert results.read_text().startswith("".join(first.splitlines(keepends=True)[:2]))
    lines = read_lines(results)
    assert len(lines) == 3
    small = next(one for one in lines if one["network"] == "train/small" and one["variation"] == "baseline")
    assert len(small["val_acc_by_epoch"]) == 2 and small["val_acc_by_epoch"][-1] == small["val_acc"]
    assert small["operations"] == 2 * 64 * 6 * count_macs(build_model("compact_cnn", 10, 1, width=0.25), 1, 28, 28)
