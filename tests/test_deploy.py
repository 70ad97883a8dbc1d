"""Models where they are used: their latency, folders of them that stand alone, and the choice by time."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from little import copy_of
from PIL import Image

from netpress.__main__ import main
from netpress.base import files, model_files
from netpress.base.errors import ArtifactError, NetpressError
from netpress.core import artifacts
from netpress.deploy import bundle
from netpress.deploy.latency import File, kind_of, measure
from netpress.deploy.model_card import wilson
from netpress.deploy.predictor import open_exported
from netpress.report import latency
from netpress.report.choice import CHANCE
from netpress.report.latency import Setting, Timed, Timing

UV = Path(sys.executable).with_name("uv")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def here(little_run, tmp_path, monkeypatch):
    project = copy_of(little_run, tmp_path / "project")
    monkeypatch.chdir(project)
    return project


def pictures(project, folder, count=20):
    """Validation images as files, by number, and the images themselves."""
    images = np.load(project / "data/prepared/val_images.npy")[:count]
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[:, :, 0]).save(folder / f"{number:03}.png")
    return images


def classes_of(project, model_id, images):
    """The class that the model itself names for each image."""
    import torch

    network, spec = artifacts.load_model(project / "models" / model_id)
    pixels = (images.astype(np.float32) / 255 - np.float32(spec.mean)) / np.float32(spec.std)
    with torch.inference_mode():
        logits = network(torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype(np.float32)))
    return [spec.classes[k] for k in logits.argmax(1).tolist()]


def test_every_model_is_measured_beside_what_it_was_made_from(here, capsys):
    assert main(["latency", "--rounds", "2", "--batch", "4"]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    rows = {cells[1]: cells for line in table if len(cells := [cell.strip() for cell in line.split("|")]) > 5}
    assert rows["distill/kd"][-4] == rows["factorize/tucker"][-4] == rows["prune/main"][-4] == "train/teacher"
    assert rows["quantize/int8"][-4] == "prune/main" and rows["quantize/int8"][-3].endswith("x")
    records = latency.read(here)
    assert {*records.models} == {*rows} - {"Model", "---------------------"} - {n for n in rows if n.startswith("--")}
    for name, timed in records.models.items():
        assert {(t.batch, t.threads) for t in timed.timings} >= {(1, 1), (4, 1)}
        assert all(0 < t.p50_ms <= t.p90_ms for t in timed.timings)
        assert timed.sha256 == json.loads((here / f"metrics/{name}.json").read_text())["weights_sha256"]


def test_models_that_are_named_come_with_their_parents(here, capsys):
    assert main(["latency", "prune/main/round_1", "--rounds", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {*told["models"]} == {"prune/main/round_1", "train/teacher"}
    assert main(["latency", "train/techer"]) == 1
    assert "error: no model 'train/techer', did you mean 'train/teacher'?" in capsys.readouterr().err


def test_where_nothing_is_made_there_is_nothing_to_measure(here, capsys):
    for file in here.glob("metrics/*/*.json"):
        file.unlink()
    assert main(["latency"]) == 1
    assert "no model is made here; run 'dvc repro'" in capsys.readouterr().err


def test_files_take_turns_and_slower_ones_take_longer(little_run):
    folder = little_run / "models/train/teacher/seed_0"
    spec = artifacts.read_spec(folder)
    data = artifacts.read_file(folder, spec, model_files.ONNX)
    seen = []
    listed = [File("one", data, spec.image), File("other", data, spec.image)]
    settings = [Setting(1, 1), Setting(64, 1)]
    found = measure(listed, settings, 5, lambda: seen.append(1))
    assert len(seen) == 10 and [*found] == ["one", "other"]
    for one, many in found.values():
        assert (one.batch, many.batch) == (1, 64)
        assert many.p50_ms > 2 * one.p50_ms, "64 images take longer than one"


def test_what_is_no_onnx_file_is_named():
    with pytest.raises(ArtifactError, match="onnxruntime refuses x"):
        measure([File("x", b"nothing", (1, 2, 2))], [Setting(1, 1)], 1)


def test_the_table_says_how_many_times_as_fast_a_model_is_and_why_it_is_no_faster():
    def timed(ms, **beside):
        return Timed(sha256="1", onnx_bytes=9, timings=[Timing(batch=1, threads=1, p50_ms=ms, p90_ms=ms)], **beside)

    models = {"a": timed(4.0), "b": timed(2.0, beside="a"), "c": timed(8.0, beside="a", note="smaller, not faster: so")}
    records = latency.Records(cpu="c", cores=2, runtimes={"onnxruntime": "1"}, load=0.0, rounds=1, models=models)
    rows = [[cell.strip() for cell in line.split("|")] for line in latency.latency_table(records).splitlines()]
    told = {row[1]: row[4:7] for row in rows if len(row) == 8}
    assert told["a"] == ["-", "-", ""]
    assert told["b"] == ["a", "2.00x", ""]
    assert told["c"] == ["a", "0.50x", "smaller, not faster: so"]


def test_a_second_runtime_is_measured_beside_the_first_where_it_is_installed(here, capsys):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is an extra")
    assert main(["latency", "train/teacher", "--rounds", "1", "--batch", "2"]) == 0
    assert "openvino, batch 2, 1 thread (ms" in capsys.readouterr().out
    records = latency.read(here)
    assert openvino.__version__.startswith(records.runtimes["openvino"])
    assert {t.runtime for t in records.models["train/teacher"].timings} == {"onnxruntime", "openvino"}


def test_one_runtime_may_be_asked_for_and_one_that_is_not_there_is_refused(here, capsys):
    assert main(["latency", "train/teacher", "--rounds", "1", "--runtime", "onnxruntime"]) == 0
    assert {*latency.read(here).runtimes} == {"onnxruntime"}
    assert main(["latency", "--runtime", "tensorrt"]) == 1
    assert "--runtime tensorrt: installed here are onnxruntime" in capsys.readouterr().err


def test_what_was_measured_of_another_file_does_not_count():
    timing = Timing(batch=1, threads=1, p50_ms=2.0, p90_ms=3.0)
    models = {name: Timed(sha256=sha, onnx_bytes=9, timings=[timing]) for name, sha in (("a", "1"), ("b", "2"))}
    records = latency.Records(cpu="c", cores=2, runtimes={"onnxruntime": "1"}, load=0.0, rounds=1, models=models)
    now = latency.of_now(records, {"a": "1", "b": "other"})
    assert latency.at(now) == latency.at(now, Setting(1, 1)) == {"a": 2.0}
    assert latency.at(now, Setting(8, 1)) == latency.at(now, Setting(1, 1, "openvino")) == {}


def test_the_choice_may_be_limited_by_time(here, capsys):
    choose = partial(main, ["choose", "--max-latency", "1000ms"])
    assert choose() == 1
    assert "no latency was measured here; run 'python -m netpress latency' first" in capsys.readouterr().err
    assert main(["latency", "--rounds", "1"]) == 0
    capsys.readouterr()
    assert choose() == 0
    best = capsys.readouterr().out.split()[0]
    assert main(["choose", "--max-latency", "1e-6"]) == 1
    assert "at most 1e-06 ms for an image; closest is" in capsys.readouterr().err
    raw = json.loads((here / latency.FILE).read_text())
    raw["models"][best]["sha256"] = "0" * 64
    (here / latency.FILE).write_text(json.dumps(raw))
    assert choose() == 0
    assert capsys.readouterr().out.split()[0] != best, "a model that was made again since has no time"
    (here / latency.FILE).write_text('{"cpu": 1}')
    assert choose() == 1
    assert "reports/latency.json is damaged" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["choose", "--max-latency", "soon"])
    assert "'soon' is no time; write milliseconds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model_id", "kind"),
    [("train/teacher", "nothing"), ("prune/main/round_1", "nothing"), ("quantize/int8", "integers")],
)
def test_an_exported_folder_answers_as_the_model(here, tmp_path, capsys, model_id, kind):
    assert main(["export", model_id, str(tmp_path / "shipped")]) == 0
    assert f"wrote {model_id} to" in capsys.readouterr().out
    folder = tmp_path / "shipped"
    names = {"README.md", "model.json", "model.onnx", "predict.py"} | (
        {"model.safetensors"} if kind == "nothing" else set()
    )
    assert {path.name for path in folder.iterdir()} == names
    assert kind_of((folder / "model.onnx").read_bytes()) == kind
    images = pictures(here, tmp_path / "pictures")
    paths = sorted(str(path) for path in (tmp_path / "pictures").iterdir())
    done = subprocess.run([sys.executable, folder / "predict.py", *paths], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == paths
    expected = classes_of(here, model_id, images)
    assert [line[1].rpartition(" ")[0] for line in lines] == expected
    predictor = open_exported(folder, 1)
    assert [predictor.classes[k] for k in predictor.probabilities(images).argmax(1)] == expected


def test_an_exported_folder_names_bad_pictures_and_does_the_others(here, tmp_path):
    assert main(["export", "train/teacher", str(tmp_path / "shipped")]) == 0
    pictures(here, tmp_path / "pictures")
    good = sorted((tmp_path / "pictures").iterdir())[:2]
    (tmp_path / "bad.png").write_text("<html>")
    command = [
        sys.executable,
        tmp_path / "shipped/predict.py",
        good[0],
        tmp_path / "bad.png",
        tmp_path / "gone",
        good[1],
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(path) for path in good]
    told = done.stderr.splitlines()
    assert told[0].startswith(f"{tmp_path}/bad.png: cannot identify image file")
    assert told[1].startswith(f"{tmp_path}/gone: ") and "No such file" in told[1]
    usage = subprocess.run([*command[:2], "--help"], capture_output=True, text=True)
    assert usage.returncode == 1 and "python predict.py PICTURE..." in usage.stderr


def test_a_model_that_is_none_is_not_exported(here, tmp_path, capsys):
    assert main(["export", "distill/kdd", str(tmp_path / "shipped")]) == 1
    assert "error: no model 'distill/kdd', did you mean 'distill/kd'?" in capsys.readouterr().err
    assert not (tmp_path / "shipped").exists()


def test_the_card_says_what_the_metrics_say(here, tmp_path):
    assert main(["latency", "distill/kd", "--rounds", "1"]) == 0
    assert main(["export", "distill/kd", str(tmp_path / "shipped")]) == 0
    card = (tmp_path / "shipped/README.md").read_text(encoding="utf-8")
    metrics = json.loads((here / "metrics/distill/kd.json").read_text())
    test = json.loads((here / "metrics/test/distill/kd.json").read_text())
    assert f"| validation accuracy | {100 * metrics['val_acc']:.2f} % of {metrics['val_images']} images (95 %: " in card
    assert f"| test accuracy | {100 * test['test_acc']:.2f} % of {test['n_images']} images |" in card
    assert "| an image on one thread | " in card
    assert "- `distill/kd`: compact_cnn, `kd`, 4 epochs in all; teacher `train/teacher`" in card
    assert "- `train/teacher`: compact_cnn, trained on the labels, 4 epochs in all" in card
    assert "`dvc repro distill@kd` makes it again" in card
    assert "Data: fashion-mnist, 10 classes, 28x28 pixels in 1 channel; images: " in card
    assert len((tmp_path / "shipped/predict.py").read_text().splitlines()) <= 40


def test_the_card_of_a_model_that_names_one_class_for_every_image_says_so(here, tmp_path):
    path = here / "metrics/distill/kd.json"
    before = path.read_bytes()
    files.write_sealed(path, files.read_sealed(path, "") | {"chance_acc": 1.0})
    try:
        assert main(["export", "distill/kd", str(tmp_path / "shipped")]) == 0
    finally:
        path.write_bytes(before)
    card = (tmp_path / "shipped/README.md").read_text(encoding="utf-8")
    assert f"; {CHANCE} |" in next(line for line in card.splitlines() if line.startswith("| validation accuracy"))


def test_a_folder_is_overwritten_only_with_force_and_only_by_an_export(here, tmp_path, capsys):
    assert main(["export", "train/teacher", str(tmp_path / "shipped")]) == 0
    assert main(["export", "distill/kd", str(tmp_path / "shipped")]) == 1
    assert "add --force to overwrite it" in capsys.readouterr().err
    assert main(["export", "distill/kd", str(tmp_path / "shipped"), "--force"]) == 0
    assert json.loads((tmp_path / "shipped/model.json").read_text())["model_id"] == "distill/kd"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("dear")
    assert main(["export", "distill/kd", str(tmp_path / "mine"), "--force"]) == 1
    assert "holds something else than an exported model" in capsys.readouterr().err
    assert (tmp_path / "mine/thesis.txt").read_text() == "dear"


def test_nothing_is_written_of_a_model_that_answers_otherwise(here, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "TOLERANCE", -1.0)
    with pytest.raises(ArtifactError, match="train/teacher: its ONNX file answers otherwise than the model"):
        bundle.export(here, "train/teacher", tmp_path / "shipped", overwrite=False)
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(bundle, "_compared", lambda *_: [9] * 20)
    with pytest.raises(NetpressError, match=r"the exported predict\.py does not do what the model does: it names"):
        bundle.export(here, "train/teacher", tmp_path / "shipped", overwrite=False)
    assert [*tmp_path.glob("*shipped*")] == []


def test_an_exported_folder_that_was_changed_is_refused(here, tmp_path, capsys):
    assert main(["export", "train/teacher", str(tmp_path / "shipped")]) == 0
    data = (tmp_path / "shipped/model.onnx").read_bytes()
    files.write_bytes(tmp_path / "shipped/model.onnx", data[:-1] + bytes([data[-1] ^ 1]))
    pictures(here, tmp_path / "pictures", 1)
    assert main(["predict", str(tmp_path / "shipped"), str(tmp_path / "pictures")]) == 1
    assert "export it again" in capsys.readouterr().err
    (tmp_path / "shipped/model.json").write_text("{}")
    assert main(["predict", str(tmp_path / "shipped"), str(tmp_path / "pictures")]) == 1
    assert "model.json is damaged" in capsys.readouterr().err


def test_the_interval_of_a_share():
    assert wilson(0.5, 100) == pytest.approx((0.40383, 0.59617), abs=1e-5)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(1.0, 10)[1] == pytest.approx(1.0)


@pytest.mark.e2e
@pytest.mark.skipif(not UV.is_file(), reason="the environment has no uv to make another with")
def test_the_script_needs_three_packages_alone(here, tmp_path):
    """In an environment that holds nothing else, it names what the model names."""
    wanted = re.findall(r"^(?:numpy|pillow|onnxruntime)==[\w.]+", (ROOT / "requirements.txt").read_text(), re.M)
    assert len(wanted) == 3
    assert main(["export", "quantize/int8", str(tmp_path / "shipped")]) == 0
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, tmp_path / "bare"], check=True)
    python = tmp_path / "bare/bin/python"
    subprocess.run([UV, "pip", "install", "-q", "--python", python, *wanted], check=True)
    images = pictures(here, tmp_path / "pictures", 100)
    command = [python, "-I", "predict.py", *sorted((tmp_path / "pictures").iterdir())]
    done = subprocess.run(command, cwd=tmp_path / "shipped", capture_output=True, text=True, check=True)
    named = [line.split("\t")[1].rpartition(" ")[0] for line in done.stdout.splitlines()]
    assert named == classes_of(here, "quantize/int8", images)
