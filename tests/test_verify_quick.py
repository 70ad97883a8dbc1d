"""`verify --quick`, check by check: what is planted is found and named, and nothing else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from report_samples import sample_params, study_in, write_manifest, write_metrics

from netpress.base import files, model_files
from netpress.core import artifacts
from netpress.core.artifacts import Spec
from netpress.core.dataset import MANIFEST
from netpress.process import environment
from netpress.report.write import write_report
from netpress.verify import quick_graph, quick_local, quick_results

pytestmark = pytest.mark.usefixtures("tables_alone")

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path):
    """Metrics and tables that agree."""
    params = sample_params()
    write_metrics(tmp_path, params)
    write_report(tmp_path, study_in(tmp_path, params))
    return tmp_path, params


def places(findings):
    return sorted((finding.severity, finding.where) for finding in findings)


def test_tables_that_follow_give_no_finding(project):
    assert quick_results.table_findings(*project) == []
    assert quick_results.orphans(*project) == []


@pytest.mark.parametrize(
    "name",
    [
        "metrics/summary.md",
        "metrics/summary.csv",
        "metrics/summary.json",
        "metrics/claims.json",
        "plots/pruning_curves.csv",
        "plots/prune/main.csv",
    ],
)
def test_a_digit_changed_in_a_table_is_found(project, name):
    path = project[0] / name
    text = path.read_text(encoding="utf-8")
    digit = next(c for c in reversed(text) if c.isdigit())
    path.write_text(text[::-1].replace(digit, str((int(digit) + 1) % 10), 1)[::-1], encoding="utf-8")
    assert places(quick_results.table_findings(*project)) == [("error", name)]


def test_a_metric_changed_is_found_in_every_table_that_shows_it(project):
    path = project[0] / "metrics/train/large_cnn.json"
    files.write_sealed(path, files.read_sealed(path, "") | {"val_acc": 0.9})
    found = [where for _, where in places(quick_results.table_findings(*project))]
    assert found == ["metrics/summary.csv", "metrics/summary.json", "metrics/summary.md"]


def test_a_metric_edited_by_hand_is_one_finding_that_names_the_file(project):
    path = project[0] / "metrics/train/large_cnn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"val_acc": 0.9}))
    assert places(quick_results.table_findings(*project)) == [("error", "metrics/train/large_cnn.json")]


def test_damaged_metrics_are_one_finding_that_names_the_file(project):
    (project[0] / "metrics/train/large_cnn.json").write_text("{")
    assert places(quick_results.table_findings(*project)) == [("error", "metrics/train/large_cnn.json")]


def test_missing_tables_are_found(project):
    (project[0] / "metrics/summary.json").unlink()
    assert places(quick_results.table_findings(*project)) == [("error", "metrics/summary.json")]


def test_files_of_models_that_params_lack_are_found(project):
    root, params = project
    for name in ["metrics/quantize/gone.json", "metrics/test/train/gone.json", "plots/prune/gone.csv"]:
        files.write_text(root / name, "{}")
    (root / "models/train/gone/seed_0").mkdir(parents=True)
    (root / "models/train/large_cnn").mkdir()
    for result in ("data", "train/large_cnn", "train/gone", f"test/{params.final[0]}"):
        environment.record(root, result, "1", {"cpu": "A"})
    found = quick_results.orphans(root, params) + quick_results.table_findings(root, params)
    assert places(found) == [
        ("warning", "metrics/environments.json: train/gone"),
        ("warning", "metrics/quantize/gone.json"),
        ("warning", "metrics/test/train/gone.json"),
        ("warning", "models/train/gone"),
        ("warning", "plots/prune/gone.csv"),
    ]
    assert all(finding.remedy for finding in found)


def _weights(root, model_id):
    return json.loads((root / f"metrics/{model_id}.json").read_text())["weights_sha256"]


@pytest.fixture
def model(project):
    """A folder of files, with the spec that names them, of the weights that the metrics name."""
    root = project[0]
    spec = Spec(
        model_id="train/large_cnn",
        seed=0,
        arch="large_cnn",
        options={},
        edits=[],
        method=None,
        init=None,
        init_sha256=None,
        parents={},
        classes=["a", "b"],
        in_channels=1,
        height=28,
        width=28,
        mean=[0.0],
        std=[1.0],
        quantized=False,
        epochs=1,
        data_sha256="0" * 64,
        params=1,
        macs=1,
        weight_bytes=4,
        onnx_bytes=4,
        sha256={},
    )
    folder = root / "models/train/large_cnn"
    contents = {model_files.WEIGHTS: b"\x01\x02\x03\x04", model_files.ONNX: b"onnx", model_files.HISTORY: b"epoch\n"}
    saved = artifacts.save_model(folder / "seed_0", spec, contents)
    artifacts.write_seeds(folder, [0])
    path = root / "metrics/train/large_cnn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights_sha256": saved.weights_sha256}))
    return root, {"train/large_cnn": project[1].items()["train/large_cnn"]}, folder


def test_a_clone_without_models_or_data_has_nothing_to_hash(project):
    assert quick_local.model_findings(project[0], project[1].items()) == []
    assert quick_local.data_findings(project[0]) == []


@pytest.mark.parametrize("name", [model_files.WEIGHTS, model_files.ONNX, model_files.HISTORY])
@pytest.mark.parametrize("fault", ["one bit", "cut off", "missing"])
def test_one_weight_changed_is_found_by_its_hash(model, name, fault):
    root, items, folder = model
    assert quick_local.model_findings(root, items) == []
    path = folder / "seed_0" / name
    data = path.read_bytes()
    if fault == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if fault == "cut off" else bytes([data[0] ^ 1]) + data[1:])
    (finding,) = quick_local.model_findings(root, items)
    assert (finding.severity, finding.where) == ("error", "models/train/large_cnn")
    assert f"models/train/large_cnn/seed_0/{name}" in finding.text
    assert str(root) not in finding.text
    assert "dvc repro" in finding.remedy


def test_a_model_of_other_weights_than_the_metrics_is_found(model):
    root, items, folder = model
    spec = artifacts.read_spec(folder / "seed_0")
    artifacts.save_model(folder / "seed_0", spec, {model_files.WEIGHTS: b"other"})
    (finding,) = quick_local.model_findings(root, items)
    assert "metrics/train/large_cnn.json" in finding.text


def test_prepared_arrays_are_hashed(tmp_path):
    folder = tmp_path / quick_local.PREPARED
    folder.mkdir(parents=True)
    hashes = {}
    for name in ("train_images.npy", "train_labels.npy"):
        np.save(folder / name, np.zeros(4, np.uint8))
        hashes[name] = files.sha256_file(folder / name)
    write_manifest(tmp_path, hashes)
    assert quick_local.data_findings(tmp_path) == []
    np.save(folder / "train_labels.npy", np.ones(4, np.uint8))
    (finding,) = quick_local.data_findings(tmp_path)
    assert "data/prepared/train_labels.npy" in finding.text
    (folder / MANIFEST).write_text("{}")
    (finding,) = quick_local.data_findings(tmp_path)
    assert "manifest.json is not what was written" in finding.text


@pytest.fixture
def code(tmp_path):
    """The code of the project without what it makes."""
    for name in ("src", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def test_deps_cover_the_code_of_every_stage(code):
    assert quick_graph.code_findings(code) == []


def test_an_import_inside_a_function_that_deps_lack_is_named(code):
    script = code / "stages/prepare.py"
    script.write_text(script.read_text() + "\n\ndef later():\n    import netpress.report.write\n")
    (finding,) = quick_graph.code_findings(code)
    assert finding.where == "dvc.yaml: prepare"
    assert "src/netpress/report/write.py" in finding.text


def test_an_import_of_one_method_counts_for_its_stage(code):
    method = code / "src/netpress/factorize/methods/svd.py"
    method.write_text(method.read_text() + "\nfrom netpress.report.write import write_report\n")
    (finding,) = quick_graph.code_findings(code)
    assert finding.where == "dvc.yaml: factorize"
    assert "src/netpress/report/write.py" in finding.text


def test_an_import_of_a_loss_counts_for_every_stage_that_trains_by_one(code):
    method = code / "src/netpress/distill/losses/kd.py"
    method.write_text(method.read_text() + "\nfrom netpress.report.write import write_report\n")
    stages = ("distill", "factorize", "prune", "prune_sweep", "quantize")
    assert [f.where for f in quick_graph.code_findings(code)] == [f"dvc.yaml: {stage}" for stage in stages]


def test_code_that_is_not_python_is_a_finding(code):
    (code / "src/netpress/prune/common/channels.py").write_text("def (")
    importers = {f"dvc.yaml: {stage}" for stage in ("prune", "prune_sweep")}
    assert {f.where for f in quick_graph.code_findings(code)} == importers


def status_of(root, status):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, root / name)
    lock = {name: quick_graph_entry(root) for name in quick_graph._expanded(root)}
    return quick_graph.lock_findings(root, lock, status)


def quick_graph_entry(root):
    from netpress.params import reader
    from netpress.verify.dvc_lock import Entry

    params = reader.read(root / "params.yaml")
    return Entry("cmd", {}, {"train.large_cnn": params["train"]["large_cnn"] | {"epochs": 99}}, {})


def test_what_is_not_pulled_is_no_finding(tmp_path):
    status = {
        "prepare": [{"changed outs": {"data/prepared": "not in cache"}}],
        "train@large_cnn": [
            {"changed deps": {"data/prepared": "deleted"}},
            {"changed outs": {"models/train/large_cnn": "deleted"}},
        ],
    }
    assert status_of(tmp_path, status) == []


def test_what_dvc_lists_becomes_findings_with_file_key_and_stages(tmp_path):
    files.write_text(tmp_path / "stages/train.py", "")
    files.write_text(tmp_path / "plots/prune/main.csv", "")
    status = {
        "train@large_cnn": [
            {"changed deps": {"stages/train.py": "modified", "params.yaml": {"train.large_cnn": "modified"}}},
            {"changed outs": {"plots/prune/main.csv": "modified", "metrics/train/large_cnn.json": "deleted"}},
            "changed command",
        ],
        "check": [{"changed deps": {"params.yaml": "modified"}}],
        "train@plain_cnn": [
            {"changed deps": {"stages/train.py": "modified", "src/netpress/core/engine.py": "deleted"}},
            "always changed",
        ],
    }
    found = {f"{f.where}: {f.text}" for f in status_of(tmp_path, status)}
    assert found == {
        "stages/train.py: changed since train@large_cnn, train@plain_cnn ran",
        "params.yaml: changed since check ran",
        "params.yaml: train.large_cnn.epochs changed from 99 to 5 since train@large_cnn ran",
        "src/netpress/core/engine.py: was deleted since train@plain_cnn ran",
        "dvc.yaml: the command changed since train@large_cnn ran",
        "plots/prune/main.csv: is not what train@large_cnn made",
        "metrics/train/large_cnn.json: is missing, unlike what train@large_cnn made",
    }


def test_stages_that_never_ran_and_entries_of_none_are_found(tmp_path):
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    lock = {name: quick_graph_entry(tmp_path) for name in quick_graph._expanded(tmp_path)}
    lock["train@gone"] = lock.pop("train@large_cnn")
    assert places(quick_graph.lock_findings(tmp_path, lock, {})) == [
        ("error", "dvc.lock: train@large_cnn"),
        ("warning", "dvc.lock: train@gone"),
    ]
