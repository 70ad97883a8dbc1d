"""`python -m netpress choose`: the model to take under a budget, and what is beside it."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import DEFAULT, sample_params, study_in, write, write_manifest, write_metrics

from netpress.__main__ import main
from netpress.base.errors import NetpressError
from netpress.report import choice
from netpress.report.choice import LIMITS, Beside, Budget, choose, text
from netpress.report.pareto import points_of

CURVES = ["prune/main"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root, params = tmp_path_factory.mktemp("study"), sample_params()
    write_metrics(root, params, seeds=3)
    return study_in(root, params)


def sizes(study, model_id):
    measured = study.measured(model_id)
    return {key: getattr(measured, key) for key in LIMITS}


@settings(deadline=None)  # the first loads scipy
@given(
    st.dictionaries(st.sampled_from(sorted(LIMITS)), st.integers(2_000, 200_000_000), min_size=1), st.floats(0.0, 1.0)
)
def test_no_other_model_that_fits_is_better(study, limits, lowest):
    budget = Budget(limits, lowest)
    points = points_of(study, CURVES)
    fitting = [p for p in points if all(sizes(study, p.id)[k] <= v for k, v in limits.items()) and p.val_acc >= lowest]
    if not fitting:
        with pytest.raises(NetpressError, match=r"^no model has .*; closest is "):
            choose(study, CURVES, budget, smallest=False)
        return
    best, small = (choose(study, CURVES, budget, smallest).id for smallest in (False, True))
    assert {best, small} <= {p.id for p in fitting}
    assert study.measured(best).val_acc == max(p.val_acc for p in fitting)
    assert study.measured(small).onnx_bytes == min(p.onnx_bytes for p in fitting)


def test_the_chosen_one_is_beside_its_origin_the_runner_up_and_the_smallest_that_is_level(study):
    budget = Budget({"onnx_bytes": sizes(study, "quantize/resnet18_int8")["onnx_bytes"]})
    found = choose(study, CURVES, budget, smallest=False)
    assert found.id == "quantize/resnet18_int8"
    assert (found.origin.id, found.origin.is_level) == ("train/resnet18_strong", True)
    said = text(study, found)
    assert "beside its origin, train/resnet18_strong: -0.10 (" in said and "which may be chance; " in said
    assert f"beside the runner-up, {found.runner_up.id}: " in said
    assert said.endswith("  models/quantize/resnet18_int8\n")
    # A model of which the chosen one is better for certain is not level.
    assert found.smallest_level is None or found.smallest_level.is_level


def test_a_file_of_the_same_size_is_as_large_and_no_times_smaller(study):
    found = choose(study, [], Budget({"onnx_bytes": sizes(study, "distill/kd_strong")["onnx_bytes"]}), smallest=False)
    same = replace(found, origin=None, runner_up=Beside(found.id, "+0.10", True), smallest_level=None)
    assert f"beside the runner-up, {found.id}: +0.10 points, which may be chance; as large\n" in text(study, same)


@pytest.mark.parametrize(
    ("model_id", "origin"),
    [
        ("quantize/student_int8", "distill/kd_strong"),
        ("quantize/pruned_int8", "train/resnet18_strong"),
        ("prune/main", "train/resnet18_strong"),
        ("distill/kd_weak", "train/resnet18_weak"),
        ("train/plain_cnn", None),
    ],
)
def test_the_origin_is_what_was_compressed_or_who_taught(study, model_id, origin):
    assert choice.origin_of(study, model_id) == origin


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_bytes(DEFAULT.read_bytes())
    write_metrics(tmp_path, sample_params())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_scripts_read_json_and_the_exit_code(project, capsys):
    assert main(["choose", "--max-bytes", "1.2MB", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["onnx_bytes"] <= 1_200_000
    assert found["folder"] == f"models/{found['model']}"
    assert set(found["runner_up"]) == {"model", "val_acc", "onnx_bytes", "params", "macs", "difference", "is_level"}
    assert main(["choose", "--max-bytes", "1kB"]) == 1
    assert "error: no model has at most 1.00 kB (bytes of the ONNX file); closest is " in capsys.readouterr().err


def test_a_model_that_names_one_class_for_every_image_is_told_as_such(project, capsys):
    path = project / "metrics/train/large_cnn.json"
    old = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "seal"}
    for chance, is_at_chance in [(old["val_acc"] + 0.01, True), (old["val_acc"] - 0.01, False)]:
        write(project, "train/large_cnn", old | {"chance_acc": chance})
        assert main(["choose", "--max-bytes", "100MB", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["model"], found["at_chance"]) == ("train/large_cnn", is_at_chance)
        assert main(["choose", "--max-bytes", "100MB"]) == 0
        assert (f"\n  {choice.CHANCE}\n" in capsys.readouterr().out) == is_at_chance


def test_a_drop_takes_the_smallest_within_it(project, capsys):
    assert main(["choose", "--max-drop", "2", "--of", "train/resnet18_strong", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["val_acc"] >= 0.9187 - 0.0201


def test_models_that_are_not_made_do_not_count_nor_what_follows_from_them(project, capsys):
    (project / "metrics/train/resnet18_strong.json").unlink()
    assert main(["choose", "--max-bytes", "100MB", "--json"]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("not made yet, so not counted: train/resnet18_strong, ")
    found = json.loads(said.out)
    assert found["model"] == "train/large_cnn"
    assert not found["runner_up"]["model"].startswith(("quantize/resnet18", "prune/"))


def test_models_of_other_data_or_of_other_weights_do_not_count(project, capsys):
    changed = {
        "train/large_cnn": {"val_images_sha256": "1" * 64},
        "distill/kd_strong": {"parent_sha256": "2" * 64},  # its teacher was made again
        "quantize/resnet18_int8": {"parent_sha256": "2" * 64},
        "test/train/plain_cnn": {"weights_sha256": "2" * 64},
    }
    for model_id, keys in changed.items():
        file = project / f"metrics/{model_id}.json"
        write(project, model_id, {k: v for k, v in json.loads(file.read_bytes()).items() if k != "seal"} | keys)
    arguments = ["choose", "--max-bytes", "100MB", "--json"]
    write_manifest(project, {"val_images.npy": "0" * 64})
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["model"] == "train/resnet18_strong"
    left_out = "train/large_cnn, distill/kd_strong, distill/plain_kd and 4 more"
    assert said.err == f"left out, since made from other data or weights than are there now: {left_out}\n"
    write_manifest(project, {"val_images.npy": "1" * 64})
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "train/large_cnn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a budget: --max-bytes"),
        (["--max-drop", "1"], "--max-drop and --of go together"),
        (
            ["--max-drop", "1", "--of", "train/plain_cn"],
            "--of: no model 'train/plain_cn', did you mean 'train/plain_cnn'",
        ),
    ],
)
def test_a_budget_that_is_none_is_one_line(project, capsys, arguments, message):
    assert main(["choose", *arguments]) == 1
    assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("bytes", "x", "is no size; write it as 1MB, 250kB or 300000"),
        ("bytes", "0", "is no size; write it as 1MB, 250kB or 300000"),
        ("macs", "3MB", "is no count; write it as 1.5M, 50k or 300000"),
        ("drop", "-1", "is not a number from 0 to 100; 1 is one point"),
    ],
)
def test_amounts_that_cannot_be_read_are_refused_with_examples(project, capsys, option, value, allowed):
    with pytest.raises(SystemExit, match="2"):
        main(["choose", f"--max-{option}={value}"])
    assert f"--max-{option}: '{value}' {allowed}" in capsys.readouterr().err
