from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from report_samples import sample_params, write, write_metrics

from netpress.params.whole import Params
from netpress.report.collect import Study, collect
from netpress.report.curves import columns_of, drawn_curves
from netpress.report.pareto import points_of
from netpress.report.write import report_text, write_report

pytestmark = pytest.mark.usefixtures("tables_alone")

COLUMNS = ["round", "rate", "params", "macs", "onnx_bytes", "channels_share", "epochs_total", "val_acc"]


def study_of(root: Path, params: Params) -> Study:
    write_metrics(root, params)
    return collect(root, params.items())


def with_rate(rate: float, **changes: Any) -> Params:
    params = sample_params()
    return params.model_copy(update={"prune": params.prune.model_copy(update={"rate": rate, **changes})})


def test_each_curve_is_a_line_of_its_own(tmp_path: Path) -> None:
    names = [curve.name for curve in drawn_curves(study_of(tmp_path, sample_params()))]
    assert names == ["main", "resnet18_rate50", "student_rate30"]


def test_a_sweep_with_the_settings_of_prune_is_drawn_once(tmp_path: Path) -> None:
    study = study_of(tmp_path, with_rate(0.5))
    assert [curve.name for curve in drawn_curves(study)] == ["main", "student_rate30"]
    assert "prune_sweep/resnet18_rate50" in study.by_id


def test_a_sweep_that_differs_in_anything_else_is_drawn(tmp_path: Path) -> None:
    curves = drawn_curves(study_of(tmp_path, with_rate(0.5, epochs=7)))
    assert [curve.name for curve in curves] == ["main", "resnet18_rate50", "student_rate30"]


def test_a_sweep_with_controls_of_its_own_is_drawn(tmp_path: Path) -> None:
    params = with_rate(0.5)
    name = "resnet18_rate50"
    item = params.prune_sweep[name].model_copy(update={"control_rounds": [1]})
    params = params.model_copy(update={"prune_sweep": params.prune_sweep | {name: item}})
    assert [curve.name for curve in drawn_curves(study_of(tmp_path, params))] == ["main", name, "student_rate30"]


def test_files_hold_the_rows_of_each_curve(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    write_report(tmp_path, collect(tmp_path, params.items()))
    together = pd.read_csv(tmp_path / "plots/pruning_curves.csv")
    assert list(together.columns) == ["curve", *COLUMNS]
    for name, rows in together.groupby("curve"):
        alone = pd.read_csv(tmp_path / f"plots/prune/{name}.csv")
        assert list(alone.columns) == COLUMNS
        pd.testing.assert_frame_equal(alone, rows.drop(columns="curve").reset_index(drop=True))
    main = pd.read_csv(tmp_path / "plots/prune/main.csv")
    assert main["params"].tolist() == [row["params"] for row in made["prune/main"]["rounds"]]
    assert main["round"].tolist() == list(range(len(main)))


def test_files_of_curves_that_are_gone_are_removed(tmp_path: Path) -> None:
    write_report(tmp_path, study_of(tmp_path, sample_params()))
    write_report(tmp_path, study_of(tmp_path, with_rate(0.5)))
    assert sorted(p.name for p in (tmp_path / "plots/prune").iterdir()) == ["main.csv", "student_rate30.csv"]


def test_the_control_has_a_column_only_where_it_was_measured(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params)
    assert columns_of(drawn_curves(collect(tmp_path, params.items()))) == COLUMNS
    made["prune/main"]["rounds"][1]["control_val_acc"] = 0.8
    write(tmp_path, "prune/main", made["prune/main"])
    write_report(tmp_path, collect(tmp_path, params.items()))
    together = pd.read_csv(tmp_path / "plots/pruning_curves.csv")
    assert list(together.columns) == ["curve", *COLUMNS, "control_val_acc"]
    assert together["control_val_acc"].dropna().tolist() == [0.8]


def test_the_table_has_the_control_and_what_the_rounds_weights_bring(tmp_path: Path) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params, seeds=3)
    study = collect(tmp_path, params.items())
    assert "Control" not in report_text(study, drawn_curves(study), [], {})
    made["prune/main"]["rounds"][2] |= {"val_acc": 0.81, "control_val_acc": 0.8, "control_val_acc_std": 0.004}
    write(tmp_path, "prune/main", made["prune/main"])
    study = collect(tmp_path, params.items())
    lines = report_text(study, drawn_curves(study), [], {}).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| main (rate")]
    assert [row[11:14] for row in cells[1:3]] == [["-", "-", "-"], ["80.00 ± 0.40", "+1.00", "cannot tell"]]
    header = next(line for line in lines if line.startswith("| Curve"))
    titles = [cell.strip() for cell in header.strip("|").split("|")]
    assert titles[11:14] == ["Control (%)", "Above it (points)", "Verdict"]


def test_rounds_between_first_and_last_are_points_of_their_own(tmp_path: Path) -> None:
    study = study_of(tmp_path, sample_params())
    points = points_of(study, [curve.model_id for curve in drawn_curves(study)])
    ids = [point.id for point in points]
    assert len(ids) == len(set(ids))
    last = len(study.rounds("prune/main")) - 1
    assert "prune/main/round_1" in ids
    assert "prune/main/round_0" not in ids
    assert f"prune/main/round_{last}" not in ids
