"""The real dvc.yaml, run by DVC in copies of the project under the smoke profile."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from project import ALL_STAGES, fresh, stages_run
from ruamel.yaml import YAML

from netpress.core.export import without_metadata

pytestmark = pytest.mark.e2e
exhaustive = pytest.mark.exhaustive


def test_every_model_is_there_measured_and_in_the_tables(project):
    summary = project.json("metrics/summary.json")
    for stage in ALL_STAGES - {"check", "prepare", "aggregate", "test@distill/kd"}:
        section, _, variant = stage.partition("@")
        variant = variant or "main"
        folder = project.folder / "models" / section / variant / "seed_0"
        assert (folder / "spec.json").is_file()
        assert (folder / "model.onnx").is_file()
        assert 0 < summary[section][variant]["val_acc"] <= 1
        onnx = (folder / "model.onnx").read_bytes()
        assert summary[section][variant]["onnx_bytes"] == len(without_metadata(onnx)) < len(onnx)
        assert f"{section}/{variant}" in (project.folder / "metrics/summary.md").read_text(encoding="utf-8")
    assert "test_acc" in summary["distill"]["kd"]
    assert "test_acc" not in summary["train"]["teacher"]
    for figure in ("pruning_curves", "accuracy_size", "distillation"):
        assert (project.folder / f"plots/{figure}.png").read_bytes().startswith(b"\x89PNG")


def test_rounds_of_pruning_are_models_too(project):
    with (project.folder / "plots/prune/main.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["round"] for row in rows] == [str(k) for k in range(len(rows))]
    params = [int(row["params"]) for row in rows]
    assert params == sorted(params, reverse=True)
    assert params[-1] < 0.3 * params[0]
    for number in range(1, len(rows)):
        spec = project.json(f"models/prune/main/round_{number}/seed_0/spec.json")
        assert spec["params"] == params[number]


def test_the_same_numbers_come_out_of_the_models_again(project):
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "import netpress\n"
        "from netpress.core import context, dataset, splits\n"
        "from netpress.core.measure import evaluate\n"
        "from netpress.params import reader\n"
        "root = Path('.')\n"
        "shared = reader.for_shared(root / 'params.yaml')\n"
        "device = context.set_up(shared.runtime)\n"
        "manifest = dataset.load_manifest(root / 'data/prepared')\n"
        "val = splits.device_split(root, 'val', manifest, device, shared.runtime)\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, evaluate(netpress.load_model('models/' + name)[0], val).accuracy)\n"
    )
    names = ["train/teacher", "distill/kd", "factorize/tucker_teacher", "prune/main", "quantize/pruned_int8"]
    found = dict(line.split() for line in project.run("python", "-c", script, *names).splitlines())
    summary = project.json("metrics/summary.json")
    for name in names:
        stage, variant = name.split("/")
        assert float(found[name]) == summary[stage][variant]["val_acc"]


@exhaustive  # test_verify_e2e runs a chain a second time in every suite
def test_two_fresh_clones_give_the_same_lock(smoke_run, tmp_path):
    """Same commit, same machine, other path: every hash equal. `fresh` asserts that every stage ran."""
    twin = fresh(tmp_path / "quite" / "another" / "path")
    smoke_run.clean()
    mine = (smoke_run.folder / "dvc.lock").read_text(encoding="utf-8")
    theirs = (twin.folder / "dvc.lock").read_text(encoding="utf-8")
    assert len(YAML(typ="safe").load(mine)["stages"]) == len(ALL_STAGES)
    assert mine == theirs


def test_nothing_changed_runs_nothing(project):
    assert project.repro() == set()


def test_the_gate_passes_in_a_clean_clone(project, tmp_path):
    clone = tmp_path / "clone"
    project.run("git", "clone", "-q", ".", str(clone))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "dvc"), "repro", "--dry", "--allow-missing"],
        cwd=clone,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout


def test_an_experiment_with_another_rate_reruns_pruning_and_what_starts_from_it(project):
    before = project.json("metrics/summary.json")["prune"]["main"]
    output = project.run("dvc", "exp", "run", "--name", "half", "-S", "prune.rate=0.5")
    assert stages_run(output) == {"check", "prune", "quantize@pruned_int8", "aggregate"}
    after = project.json("metrics/summary.json")["prune"]["main"]
    assert after["params"] != before["params"]
    shown = project.run("dvc", "exp", "show", "--csv")
    assert "half" in shown
    changed = project.run("dvc", "metrics", "diff", "HEAD", "half", "--targets", "metrics/summary.json", "--md")
    assert "prune.main.params" in changed
    assert "quantize.pruned_int8.onnx_bytes" in changed
    assert "train.teacher" not in changed
    project.run("dvc", "plots", "diff", "HEAD", "half", "--out", "compared")
    page = (project.folder / "compared" / "index.html").read_text(encoding="utf-8")
    assert "pruning_curves" in page
    assert "half" in page


def test_editing_one_variant_reruns_it_what_depends_on_it_and_the_tables(project):
    first = project.head
    project.edit(lambda params: params["distill"]["kd"]["method_options"].update(weight=0.2))
    assert project.repro() == {"check", "distill@kd", "quantize@student_fp16", "test@distill/kd", "aggregate"}
    second = project.commit("another weight")
    named = project.run("dvc", "metrics", "diff", first, second, "--targets", "metrics/summary.json")
    assert "distill.kd.val_loss" in named
    assert "quantize.student_fp16.val_loss" in named
    assert "train.teacher.val_loss" not in named


@exhaustive  # a comment in a method's file re-runs them in every suite
def test_editing_one_methods_file_reruns_its_variants_only(project):
    method = project.folder / "src/netpress/distill/losses/kd.py"
    method.write_text(method.read_text(encoding="utf-8").replace("1 - options.weight", "1.5 - options.weight"))
    assert project.repro() == {"distill@kd", "quantize@student_fp16", "test@distill/kd", "aggregate"}


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("factorize/methods/tucker2.py", {"factorize@tucker_teacher"}),
        pytest.param("quantize/methods/fp16.py", {"quantize@student_fp16"}, marks=pytest.mark.exhaustive),
        pytest.param("quantize/methods/int8_static.py", {"quantize@pruned_int8"}, marks=pytest.mark.exhaustive),
        pytest.param(
            "prune/scores/magnitude.py", {"prune", "prune_sweep@teacher_rate60"}, marks=pytest.mark.exhaustive
        ),
    ],
)
def test_a_comment_in_a_methods_file_reruns_its_variants_and_changes_nothing(project, file, stages):
    with (project.folder / "src/netpress" / file).open("a", encoding="utf-8") as stream:
        stream.write("# a comment\n")
    assert project.repro() == stages
    assert project._git("status", "--porcelain", "metrics", "plots") == ""


@exhaustive
def test_editing_one_architecture_reruns_its_variants_only(project):
    arch = project.folder / "src/netpress/models/compact_cnn.py"
    arch.write_text(
        arch.read_text(encoding="utf-8").replace("STRIDES = (2, 1, 2, 1, 2, 1)", "STRIDES = (2, 1, 1, 2, 2, 1)")
    )
    assert project.repro() == {"lowrank@compact_groups2", "aggregate"}


@exhaustive  # test_report_tables has it for the tables
def test_a_removed_variant_leaves_every_table(project):
    project.edit(lambda params: params["prune_sweep"].pop("teacher_rate60"))
    project.edit(lambda params: params["quantize"].pop("student_fp16"))
    assert project.repro() == {"check", "aggregate"}
    for path in ["metrics/summary.json", "metrics/summary.md", "metrics/summary.csv", "plots/pruning_curves.csv"]:
        text = (project.folder / path).read_text(encoding="utf-8")
        assert "teacher_rate60" not in text, path
        assert "student_fp16" not in text, path
    assert not (project.folder / "plots/prune/teacher_rate60.csv").exists()
    assert not (project.folder / "metrics/quantize/student_fp16.json").exists()
    assert project.repro() == set()


def test_a_second_seed_trains_itself_alone(project):
    project.edit(lambda params: params.update(seeds=[0, 1]))
    output = project.run("dvc", "repro", "train@student_alone")
    assert "train/student_alone seed 0: finished before" in output
    assert "train/student_alone seed 1  epoch 1/1" in output
    metrics = project.json("metrics/train/student_alone.json")
    assert metrics["n_seeds"] == 2
    assert len(metrics["val_acc_by_seed"]) == 2
    assert metrics["val_loss_std"] > 0


def test_plots_show_draws_one_chart_of_all_curves_and_one_of_all_models(project):
    project.run("dvc", "plots", "show", "--out", "shown")
    page = (project.folder / "shown" / "index.html").read_text(encoding="utf-8")
    assert page.count('<script type = "text/javascript">') == 2  # the other is accuracy against size
    assert "teacher_rate60" in page
    assert '"main"' in page
