from pathlib import Path

import pytest
from report_samples import sample_params, write, write_metrics

from netpress.base import files
from netpress.base.errors import ArtifactError
from netpress.report.collect import collect


def test_models_come_from_params_not_from_files(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    quantize = {key: item for key, item in params.quantize.items() if key != "student_int8"}
    items = params.model_copy(update={"quantize": quantize}).items()
    study = collect(tmp_path, items)
    assert [m.id for m in study.models] == list(items)
    assert "quantize/student_int8" not in study.by_id


def test_parent_keeps_the_round_that_params_names(tmp_path: Path) -> None:
    from_round = sample_params().quantize["pruned_int8"].model_copy(update={"parent": "prune/main/round_2"})
    params = sample_params(quantize={"pruned_int8": from_round}, final=[])
    made = write_metrics(tmp_path, params)
    study = collect(tmp_path, params.items())
    parent = study.by_id["quantize/pruned_int8"].parent
    assert parent == "prune/main/round_2"
    assert study.measured(parent).params == made["prune/main"]["rounds"][2]["params"]


def test_unknown_round_is_an_error(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    with pytest.raises(ArtifactError, match=r"metrics/prune/main\.json lists no 'prune/main/round_99'"):
        collect(tmp_path, params.items()).measured("prune/main/round_99")


def test_missing_metrics_name_file_and_remedy(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    (tmp_path / "metrics/distill/kd_weak.json").unlink()
    with pytest.raises(ArtifactError, match=r"^metrics/distill/kd_weak\.json is missing; run 'dvc repro'"):
        collect(tmp_path, params.items())


def test_missing_test_metrics_of_final_are_an_error(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    (tmp_path / "metrics/test/distill/kd_strong.json").unlink()
    with pytest.raises(ArtifactError, match=r"metrics/test/distill/kd_strong\.json is missing"):
        collect(tmp_path, params.items(), params.final)
    assert collect(tmp_path, params.items()).by_id["distill/kd_strong"].test is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '"x"', "{}", "\x00\xff"],
    ids=["empty", "cut off", "a list", "text", "no keys", "binary"],
)
def test_damaged_metrics_name_file_and_remedy(tmp_path: Path, text: str) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    (tmp_path / "metrics/train/large_cnn.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"metrics/train/large_cnn\.json .*dvc repro"):
        collect(tmp_path, params.items())


@pytest.mark.parametrize(
    ("key", "value"), [("val_acc", -0.1), ("val_acc", 87.3), ("params", 0), ("onnx_bytes", "9"), ("rounds", {})]
)
def test_impossible_values_are_refused(tmp_path: Path, key: str, value: object) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    write(tmp_path, "train/large_cnn", made["train/large_cnn"] | {key: value})
    with pytest.raises(ArtifactError, match=rf"metrics/train/large_cnn\.json is damaged \({key}"):
        collect(tmp_path, params.items())


def test_test_metrics_of_other_weights_are_refused(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    path = tmp_path / "metrics/test/distill/kd_strong.json"
    files.write_sealed(path, files.read_sealed(path, "") | {"weights_sha256": "0" * 64})
    with pytest.raises(ArtifactError, match=r"metrics/test/distill/kd_strong\.json was measured on other weights"):
        collect(tmp_path, params.items(), params.final)


def test_a_model_made_from_other_weights_of_its_parent_is_refused(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    student = made["distill/kd_strong"] | {"parent_sha256": "0" * 64}
    write(tmp_path, "distill/kd_strong", student)
    with pytest.raises(ArtifactError, match=r"metrics/distill/kd_strong\.json was made from other weights of train/"):
        collect(tmp_path, params.items())
    student["parent_sha256"] = made["train/resnet18_strong"]["weights_sha256"]
    write(tmp_path, "distill/kd_strong", student)
    assert collect(tmp_path, params.items()).by_id["distill/kd_strong"].parent == "train/resnet18_strong"


def test_a_round_in_final_is_a_model_of_its_own(tmp_path: Path) -> None:
    params = sample_params(final=["prune/main/round_1"])
    made = write_metrics(tmp_path, params)
    model = collect(tmp_path, params.items(), params.final).by_id["prune/main/round_1"]
    assert model.measured.params == made["prune/main"]["rounds"][1]["params"]
    assert model.test is not None
    assert model.test.test_acc == pytest.approx(made["prune/main"]["rounds"][1]["val_acc"] - 0.004)
