import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from report_samples import DEFAULT, right, sample_params, study_in, write, write_metrics

from netpress.params.reader import load
from netpress.report import distillation_figure, pruning_figure, size_figure, style
from netpress.report.collect import Study, collect
from netpress.report.curves import drawn_curves
from netpress.report.pareto import Point, intervals, points_of

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    params = sample_params()
    write_metrics(tmp_path, params)
    return collect(tmp_path, params.items())


def ink(png: bytes) -> float:
    """Return the share of pixels that are not white."""
    from matplotlib.image import imread

    pixels = imread(io.BytesIO(png), format="png")[..., :3]
    return float(np.mean(pixels.min(axis=-1) < 0.9))


def test_figures_show_something_at_their_size(study: Study) -> None:
    curves = drawn_curves(study)
    pngs = [
        pruning_figure.draw(curves),
        size_figure.draw(points := points_of(study, [c.model_id for c in curves]), intervals(study, points)),
        distillation_figure.draw(study),
    ]
    for png in pngs:
        assert png.startswith(PNG)
        assert b"Software" not in png
        assert 0.01 < ink(png) < 0.5


def test_pixels_depend_on_the_figures(study: Study) -> None:
    curves = drawn_curves(study)
    assert pruning_figure.draw(curves) != pruning_figure.draw(curves[:1])


def test_controls_are_drawn_unfilled_and_within_the_axes(study: Study) -> None:
    curve = drawn_curves(study)[0]
    last = curve.rounds[-1].model_copy(update={"control_val_acc": 0.5, "control_val_acc_std": 0.01, "n_seeds": 2})
    curve = replace(curve, rounds=(*curve.rounds[:-1], last))

    def draw(figure: object) -> None:
        pruning_figure._draw([curve], figure)  # type: ignore[arg-type]
        axes = figure.axes[0]  # type: ignore[attr-defined]
        lines = [line for line in axes.lines if line.get_label() == "main: same shapes trained from scratch"]
        assert [line.get_markerfacecolor() for line in lines] == ["white"]
        assert lines[0].get_xydata().tolist() == [[last.params, 50.0]]
        assert axes.get_ylim()[0] < 50

    style.render(draw, (8.4, 4.9))


@pytest.mark.slow
def test_bytes_are_equal_in_two_processes_whatever_the_users_style(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dvc.yaml").write_text("stages: {}\n")
        (tmp_path / name / "params.yaml").write_bytes((root / "profiles/default.yaml").read_bytes())
        write_metrics(tmp_path / name, load(DEFAULT), controls=True)
    (tmp_path / "b/matplotlibrc").write_text("font.size: 25\nlines.linewidth: 9\n")
    for name in ("a", "b"):
        stage = [sys.executable, str(root / "stages/aggregate.py")]
        done = subprocess.run(stage, cwd=tmp_path / name, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "metrics/summary.md" in done.stdout
    written = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a/plots").rglob("*.*"))
    figures = ["accuracy_size.png", "claims.png", "distillation.png", "pruning_curves.csv", "pruning_curves.png"]
    curves = ["prune/main.csv", "prune/resnet18_rate50.csv"]
    assert [path.relative_to("plots").as_posix() for path in written] == sorted([*figures, *curves])
    for path in [*written, Path("reports/index.html")]:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_one_model_and_equal_models_can_be_drawn() -> None:
    alone = Point("train/a", "trained alone", 1000, 0.5)
    assert ink(size_figure.draw([alone], {})) > 0.005
    twins = [alone, Point("train/b", "trained alone", 1000, 0.5)]
    assert ink(size_figure.draw(twins, {})) > 0.005
    perfect = [Point("train/a", "trained alone", 1000, 1.0), Point("train/b", "trained alone", 900, 0.0)]
    assert ink(size_figure.draw(perfect, {})) > 0.005


def test_nothing_to_draw_is_said_in_words(tmp_path: Path) -> None:
    params = sample_params(distill={}, prune_sweep={}, quantize={}, final=[])
    params = params.model_copy(update={"prune": params.prune.model_copy(update={"parent": "train/large_cnn"})})
    write_metrics(tmp_path, params)
    assert ink(distillation_figure.draw(collect(tmp_path, params.items()))) > 0.001
    assert ink(pruning_figure.draw([])) > 0.001
    assert ink(size_figure.draw([], {})) > 0.001


def test_labels_cover_neither_points_nor_one_another(study: Study) -> None:
    boxes: list[object] = []

    def draw(figure: object) -> None:
        from matplotlib.text import Annotation, Text

        size_figure._draw(points_of(study, ["prune/main"]), {}, figure)  # type: ignore[arg-type]
        axes = figure.axes[0]  # type: ignore[attr-defined]
        notes = [text for text in axes.texts if isinstance(text, Annotation)]
        boxes.extend(Text.get_window_extent(note) for note in notes)

    style.render(draw, (9.6, 5.4))
    assert len(boxes) >= 5
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])  # type: ignore[attr-defined]


@pytest.mark.parametrize("moved", [-0.03, 0.03])
def test_labels_of_gains_stay_inside_the_axes(tmp_path: Path, moved: float) -> None:
    params = sample_params()
    made = write_metrics(tmp_path, params, seeds=3)
    by_seed = [value + moved for value in made["distill/plain_kd"]["val_acc_by_seed"]]
    bits = {"val_acc_by_seed": by_seed, "val_acc_right": right("plain_kd", by_seed), "val_acc": sum(by_seed) / 3}
    write(tmp_path, "distill/plain_kd", made["distill/plain_kd"] | bits)
    study = study_in(tmp_path, params)
    inside: list[bool] = []

    def draw(figure: object) -> None:
        groups = [group for group in distillation_figure.students(study) if group.taught[0].id == "distill/plain_kd"]
        differences = distillation_figure.gains(study, groups)
        rows = [distillation_figure._rows(study, differences, student) for student in groups]
        distillation_figure._draw(groups, rows, figure)  # type: ignore[arg-type]
        figure.draw_without_rendering()  # type: ignore[attr-defined]
        axes = figure.axes[0]  # type: ignore[attr-defined]
        boxes = [text.get_window_extent() for text in axes.texts]
        inside.extend(box.x0 >= axes.bbox.x0 and box.x1 <= axes.bbox.x1 for box in boxes)

    style.render(draw, (9.0, 5.0))
    assert inside == [True, True]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(900, 2100, [1000, 2000]), (1e4, 1e5, [1e4, 2e4, 5e4, 1e5]), (1e3, 5e6, [1e3, 3e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6])],
)
def test_log_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert style.log_ticks(low, high) == expected


def test_ticks_are_words() -> None:
    assert [style.tick_size(v) for v in (500, 2e4, 1e6, 5e9)] == ["500 B", "20 kB", "1 MB", "5 GB"]
    assert [style.tick_count(v) for v in (500, 2e4, 1e6)] == ["500", "20 k", "1 M"]


def test_template_is_json_with_the_anchors_that_dvc_fills() -> None:
    text = (Path(__file__).parent.parent / ".dvc/plots/pruning_curves.json").read_text(encoding="utf-8")
    spec = json.loads(text)
    assert spec["data"]["values"] == "<DVC_METRIC_DATA>"
    assert spec["encoding"]["x"]["scale"]["type"] == "log"
    assert spec["encoding"]["y"]["scale"]["zero"] is False
    assert spec["encoding"]["color"]["field"] == "curve"
    assert spec["layer"][0]["encoding"]["strokeDash"]["field"] == "rev"
    for anchor in ("X", "Y", "X_LABEL", "Y_LABEL", "TITLE"):
        assert f"<DVC_METRIC_{anchor}>" in text
