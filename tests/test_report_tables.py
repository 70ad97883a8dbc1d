import json
import re
from pathlib import Path

import pandas as pd
import pytest
from report_samples import sample_params, write, write_metrics

from netpress.params.whole import Params
from netpress.report import units
from netpress.report.collect import Study, collect
from netpress.report.comparisons import distillation_table, students
from netpress.report.markdown import table
from netpress.report.overview import summary
from netpress.report.write import write_report

pytestmark = pytest.mark.usefixtures("tables_alone")


def study_of(root: Path, params: Params, seeds: int = 1) -> Study:
    write_metrics(root, params, seeds)
    return collect(root, params.items(), params.final)


def cells(text: str, first: str, section: str = "All models") -> list[str]:
    """Return the cells of the row that begins with `first` in a section of the Markdown report."""
    body = re.split(r"^#+ ", text, flags=re.MULTILINE)
    part = next(p for p in body if p.startswith(section))
    line = next(line for line in part.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_summary_is_nested_by_stage_and_variant_with_numbers_alone(tmp_path: Path) -> None:
    params = sample_params()
    nested = summary(study_of(tmp_path, params))
    assert {f"{stage}/{name}" for stage, section in nested.items() for name in section} == set(params.items())
    values = [v for section in nested.values() for row in section.values() for v in row.values()]
    assert all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    assert nested["distill"]["kd_strong"]["val_acc"] == 0.9005
    assert nested["prune"]["main"]["rate"] == 0.3
    assert "test_acc" in nested["distill"]["kd_strong"]
    assert "test_acc" not in nested["distill"]["kd_weak"]
    assert "n_seeds" not in nested["distill"]["kd_weak"]


def test_summary_tells_the_deviation_of_several_seeds(tmp_path: Path) -> None:
    row = summary(study_of(tmp_path, sample_params(), seeds=3))["train"]["large_cnn"]
    assert (row["n_seeds"], row["val_acc_std"]) == (3, 0.0021)


def test_models_at_chance_are_named(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    for model_id, above in (("train/plain_cnn", -0.001), ("distill/plain_kd", 0.001), ("prune/main", 0.0)):
        write(tmp_path, model_id, made[model_id] | {"chance_acc": made[model_id]["val_acc"] - above})
    write_report(tmp_path, collect(tmp_path, params.items(), params.final))
    text = (tmp_path / "metrics/summary.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "No better than naming one class" in line]
    assert line.endswith("of no use as they are: train/plain_cnn, prune/main.")


def test_removed_variants_vanish_from_every_table(tmp_path: Path) -> None:
    params = sample_params()
    write_metrics(tmp_path, params)
    write_report(tmp_path, collect(tmp_path, params.items()))
    without = params.model_copy(update={"prune_sweep": {}, "distill": {"kd_strong": params.distill["kd_strong"]}})
    without = without.model_copy(update={"quantize": {}})
    write_report(tmp_path, collect(tmp_path, without.items()))
    text = "".join((tmp_path / "metrics" / f"summary.{kind}").read_text() for kind in ("json", "md", "csv"))
    assert "kd_weak" not in text
    assert "resnet18_rate50" not in text
    assert [p.name for p in (tmp_path / "plots/prune").iterdir()] == ["main.csv"]


def test_overview_gives_the_numbers_as_people_read_them(tmp_path: Path) -> None:
    write_report(tmp_path, study_of(tmp_path, sample_params()))
    text = (tmp_path / "metrics/summary.md").read_text(encoding="utf-8")
    expected = ["distill/kd_strong", "kd", "train/resnet18_strong", "90.05", "89.65", "412.0 k", "15.24 M", "1.66 MB"]
    assert cells(text, "distill/kd_strong")[:8] == expected
    # 11.211 MB against 1.659 MB, and 13.667 MB for the largest
    assert cells(text, "distill/kd_strong")[8:10] == ["6.76x", "8.24x"]
    assert cells(text, "train/large_cnn")[-1] == "on it"
    assert cells(text, "distill/kd_strong")[-1] == "behind lowrank/compact_plain"


def test_report_compares_each_family_with_where_it_came_from(tmp_path: Path) -> None:
    write_report(tmp_path, study_of(tmp_path, sample_params()))
    text = (tmp_path / "metrics/summary.md").read_text(encoding="utf-8")
    assert cells(text, "quantize/resnet18_fp16", "Quantization")[3:5] == ["91.85", "91.75"]
    assert cells(text, "quantize/resnet18_fp16", "Quantization")[5].startswith("-0.10 (-")
    assert cells(text, "quantize/resnet18_fp16", "Quantization")[-2:] == ["2.00x", "cannot tell"]
    apart, *_, verdict = cells(text, "lowrank/compact_depthwise", "Compact designs")[3:]
    assert apart.startswith("-1.45 (-")
    assert verdict == "worse"
    rounds = [line for line in text.splitlines() if line.startswith("| main (rate 0.3) ")]
    assert [cell.strip() for cell in rounds[2].split("|")][2:6] == ["2", "49.0 %", "49.0 %", "24.0 %"]


def test_deviation_stands_beside_the_accuracy(tmp_path: Path) -> None:
    write_report(tmp_path, study_of(tmp_path, sample_params(), seeds=3))
    text = (tmp_path / "metrics/summary.md").read_text(encoding="utf-8")
    assert cells(text, "distill/kd_weak")[3] == "89.30 ± 0.21"


def test_without_a_test_split_there_is_no_test_column(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    for model_id in params.final:
        write(tmp_path, f"test/{model_id}", {"n_images": 0, "weights_sha256": made[model_id]["weights_sha256"]})
    study = collect(tmp_path, params.items(), params.final)
    write_report(tmp_path, study)
    assert "Test acc" not in (tmp_path / "metrics/summary.md").read_text(encoding="utf-8")
    assert all("test_acc" not in row for section in summary(study).values() for row in section.values())


def test_gain_is_against_the_same_network_trained_alone(tmp_path: Path) -> None:
    study = study_of(tmp_path, sample_params())
    groups = students(study)
    assert [group.alone.id for group in groups if group.alone] == ["train/student_alone", "train/plain_cnn"]
    assert [m.id for m in groups[0].taught] == ["distill/kd_weak", "distill/kd_strong"]
    text = distillation_table(study)
    assert "+0.35 (" in text
    assert "+1.10 (" in text
    assert ") *" not in text


def test_a_student_of_other_options_has_no_control(tmp_path: Path) -> None:
    params = sample_params()
    other = params.train["student_alone"].model_copy(update={"options": {"width": 0.75}})
    params = params.model_copy(update={"train": params.train | {"student_alone": other}})
    groups = students(study_of(tmp_path, params))
    assert groups[0].alone is None
    assert [
        line.split("|")[-2].strip() for line in distillation_table(study_of(tmp_path, params)).splitlines()[2:4]
    ] == [
        "-",
        "-",
    ]


def test_students_of_two_recipes_are_held_against_their_own_control(tmp_path: Path) -> None:
    params = sample_params()
    strong = params.distill["kd_strong"].model_copy(update={"recipe": "finetune"})
    alone = params.train["plain_cnn"].model_copy(
        update=params.train["student_alone"].model_dump() | {"recipe": "finetune"}
    )
    changes = {"train": params.train | {"plain_cnn": alone}, "distill": params.distill | {"kd_strong": strong}}
    groups = students(study_of(tmp_path, params.model_copy(update=changes)))
    assert [(group.label.split(", ", 1)[1], group.alone and group.alone.id) for group in groups[:2]] == [
        ("quick, 4 epochs", "train/student_alone"),
        ("finetune, 4 epochs", "train/plain_cnn"),
    ]


def test_a_control_trained_otherwise_is_marked(tmp_path: Path) -> None:
    params = sample_params()
    longer = params.train["student_alone"].model_copy(update={"epochs": 99})
    params = params.model_copy(update={"train": params.train | {"student_alone": longer}})
    text = distillation_table(study_of(tmp_path, params))
    assert ") * |" in text
    assert "another recipe or number of epochs" in text


def test_csv_is_one_row_a_model_for_pandas(tmp_path: Path) -> None:
    params = sample_params()
    write_report(tmp_path, study_of(tmp_path, params))
    frame = pd.read_csv(tmp_path / "metrics/summary.csv")
    assert set(frame["model"]) == set(params.items())
    assert frame["onnx_bytes"].is_monotonic_decreasing
    row = frame.set_index("model").loc["quantize/resnet18_fp16"]
    assert row["times_smaller_than_parent"] == pytest.approx(2.0, rel=1e-3)
    assert frame["on_front"].dtype == bool
    assert (frame["dominated_by"].isna() == frame["on_front"]).all()


def test_tables_are_the_same_twice_and_have_unix_line_ends(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        write_report(tmp_path / name, study_of(tmp_path / name, sample_params()))
        texts.append([(tmp_path / name / f).read_bytes() for f in ("metrics/summary.md", "metrics/summary.csv")])
    assert texts[0] == texts[1]
    assert b"\r" not in texts[0][0] + texts[0][1]
    assert json.loads((tmp_path / "a/metrics/summary.json").read_text())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.short_count(11_182_155), "11.18 M"),
        (units.short_count(406_220), "406.2 k"),
        (units.short_count(870), "870"),
        (units.size(4_320_000), "4.32 MB"),
        (units.size(263_000), "263.0 kB"),
        (units.size(870), "870 B"),
        (units.percent(0.8731), "87.31"),
        (units.percent(0.8731, 0.002), "87.31 ± 0.20"),
        (units.points(0.0114), "+1.14"),
        (units.points(-0.00001), "0.00"),
        (units.times(10, 4), "2.50x"),
        (units.times(100, 4), "25.0x"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected


def test_table_is_aligned_and_escapes_bars() -> None:
    lines = table(["a", "b"], [["x|y", "1"], ["z", "22"]]).splitlines()
    assert lines == ["| a    |   b |", "| ---- | --: |", "| x\\|y |   1 |", "| z    |  22 |"]
