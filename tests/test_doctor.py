"""`python -m netpress doctor`: what it prints and when it fails."""

import importlib.metadata
import re
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from little import write_idx
from PIL import Image
from source_samples import paint

from netpress.__main__ import main
from netpress.cli import _inputs, doctor
from netpress.core import kernels
from netpress.core.kernels import convolve
from netpress.core.networks import build_model
from netpress.graph import checks
from netpress.models import compact_cnn
from netpress.process import selftest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    shutil.copy(ROOT / "profiles" / "default.yaml", tmp_path / "params.yaml")
    (tmp_path / "data" / "fashion-mnist").mkdir(parents=True)
    (tmp_path / "data" / "fashion-mnist" / "images.gz").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selftest, "SPAN", 0.0)  # seconds for which a layer is timed: once is enough
    return tmp_path


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_sound_project(project, capsys):
    assert main(["doctor"]) == 0
    out, err = capsys.readouterr()
    names = [line.split()[1] for line in out.splitlines()]
    assert {"python", "torch", "device", "threads", "disk", "memory", "data", "params.yaml"} <= set(names)
    assert "FAIL" not in out and err == ""
    columns = {line.index(line.split()[2]) for line in out.splitlines()}
    assert len(columns) == 1, "the lines are aligned"
    assert main(["doctor", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_invalid_params(project, capsys, quiet):
    edit(project / "params.yaml", "  resolution: 28", "  resolutoin: 28")
    assert main(["doctor", *quiet]) == 1
    out, err = capsys.readouterr()
    assert "data.resolutoin: unknown key, did you mean 'resolution'?" in out + err
    assert "data.resolution: missing" in out + err
    assert bool(out) != bool(quiet)


def test_missing_params(project, capsys):
    (project / "params.yaml").unlink()
    assert main(["doctor", "--quiet"]) == 1
    assert "python -m netpress use default" in capsys.readouterr().err


def test_missing_data(project, capsys):
    (project / "data" / "fashion-mnist" / "images.gz").unlink()
    assert main(["doctor", "--quiet"]) == 1
    assert "line 12, column 3: data.root = 'data/fashion-mnist' is an empty folder" in capsys.readouterr().err
    (project / "data" / "fashion-mnist").rmdir()
    assert main(["doctor", "--quiet"]) == 1
    assert "line 12, column 3: data.root = 'data/fashion-mnist' does not exist" in capsys.readouterr().err


def test_missing_weights_are_named_with_those_that_are_there(project, capsys):
    edit(project / "params.yaml", "    init: none", "    init: resnet.pth")
    (project / "data/weights").mkdir()
    (project / "data/weights/resnet18.pth").touch()
    assert main(["doctor", "--quiet"]) == 1
    line = (
        "train.resnet18_weak.init: no file data/weights/resnet.pth, did you mean 'resnet18.pth'?; known: resnet18.pth"
    )
    place = (project / "params.yaml").read_text().splitlines().index("    init: resnet.pth") + 1
    assert f"params.yaml, line {place}, column 5: {line}" in capsys.readouterr().err
    (project / "data/weights/resnet18.pth").unlink()
    torch.save(build_model("resnet18", 10, 1, width=0.125, stem="pooled").state_dict(), "data/weights/resnet.pth")
    assert main(["doctor"]) == 0
    assert re.search(r"ok +weights +train/resnet18_weak starts from resnet.pth \(sha256 ", capsys.readouterr().out)
    torch.save(build_model("resnet18", 10, 1, width=0.25, stem="pooled").state_dict(), "data/weights/resnet.pth")
    assert main(["doctor", "--quiet"]) == 1
    assert "train.resnet18_weak.init: the weights of" in (said := capsys.readouterr().err)
    assert "do not fit resnet18: conv1.weight is (16, 1, 3, 3), expected (8, 1, 3, 3)" in said


def test_weights_for_folders_of_pictures_are_for_as_many_classes_as_their_file_has(project, capsys):
    edit(project / "params.yaml", "source: fashion-mnist", "source: imagefolder")
    edit(project / "params.yaml", "    init: none", "    init: own.pth")
    (project / "data/weights").mkdir()
    torch.save(build_model("resnet18", 4, 3, width=0.125, stem="pooled").state_dict(), "data/weights/own.pth")
    main(["doctor"])
    told = next(line for line in capsys.readouterr().out.splitlines() if "own.pth" in line)
    assert re.search(r"starts from own.pth \(sha256 \w+\); made for 4 classes, with others its last layer starts", told)


def test_missing_and_old_packages(project, capsys, monkeypatch):
    real = importlib.metadata.version

    def version(name):
        if name == "onnxruntime":
            raise importlib.metadata.PackageNotFoundError(name)
        return "2.10.1+cpu" if name == "torch" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert main(["doctor", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "onnxruntime  not installed: run 'make setup'" in err
    assert "2.10.1+cpu, older than 2.11" in err


def test_cuda_asked_for_and_absent(project, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    edit(project / "params.yaml", "  device: cpu", "  device: cuda")
    assert main(["doctor", "--quiet"]) == 1
    assert "FAIL  runtime.device  runtime.device = 'cuda': PyTorch finds no CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize("has", [True, False])
def test_bf16_where_the_processor_has_none_is_seen_and_not_proposed(project, capsys, monkeypatch, has):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has, "amx_bf16": False})
    edit(project / "params.yaml", "  precision: fp32", "  precision: bf16")
    assert main(["doctor"]) == (0 if has else 1)
    out = capsys.readouterr().out
    assert ("FAIL  runtime.precision  runtime.precision = 'bf16': this processor has no" in out) != has
    assert f"proposed: device: cpu, threads: 1, precision: {'mixed' if has else 'fp32'}" in out


@pytest.mark.parametrize(
    ("cores", "cuda", "says"),
    [
        (8, False, "threads: 1, precision: fp32; 8 jobs side by side (python -m netpress run)"),
        (1, False, "threads: 1, precision: fp32; one job after another"),
        (8, True, "proposed: device: auto, threads: 8, precision: bf16"),
    ],
)
def test_a_runtime_is_proposed_that_suits_the_machine(project, capsys, monkeypatch, cores, cuda, says):
    monkeypatch.setattr(doctor, "_device", lambda: doctor.Line("ok", "device", ""))
    monkeypatch.setattr(doctor, "cores", lambda: cores)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False})
    main(["doctor"])
    assert says in capsys.readouterr().out


def test_the_speed_of_layers_is_said_unless_quiet(project, capsys, monkeypatch):
    assert main(["doctor"]) == 0
    words = capsys.readouterr().out
    for case in selftest.CASES:
        (speed,) = re.findall(rf"[:,] {re.escape(case.name)} (\d+\.\d)\b", words)
        assert float(speed) < 1e6  # of one core
    monkeypatch.setattr(selftest, "speeds", None)
    assert main(["doctor", "--quiet"]) == 0


@pytest.mark.parametrize(("factor", "said"), [(1.001, "0.001"), (float("nan"), "nan")])
def test_layers_that_are_computed_wrongly_are_named(project, capsys, monkeypatch, factor, said):
    monkeypatch.setattr(kernels, "convolve", lambda *arguments: convolve(*arguments) * factor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert main(["doctor", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "FAIL  arithmetic  off by more than 0.0001 of the largest value in double precision: 3x3 on 2x2" in err
    assert f": 3x3 on 2x2 by {said}, depthwise on 2x2 by {said}, strided 1x1 by {said}\n" in err
    assert "install PyTorch again" in err


def test_more_threads_than_cores_is_a_warning(project, capsys):
    edit(project / "params.yaml", "  threads: 1", "  threads: 1000")
    assert main(["doctor"]) == 0
    assert any(line.startswith("warn  threads") for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("size", "code", "says"),
    [
        ("2GB", 0, "ok splits of up to 2.0 GB are held"),
        ("much", 1, "FAIL splits NETPRESS_MEMORY = 'much'"),
    ],
)
def test_how_much_of_a_split_is_held_in_memory_is_said(project, capsys, monkeypatch, size, code, says):
    monkeypatch.setenv("NETPRESS_MEMORY", size)
    assert main(["doctor"]) == code
    assert says in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "changes", "says"),
    [
        ("x = (", "", "path = 'nets/own.py': it fails: SyntaxError"),
        ("def build(*given):\n    1 / 0\n", "", "arguments = {}: nets/own.py: build: ZeroDivisionError"),
        ("def build(*given):\n    pass\n", "", "factory = 'build': it gives a NoneType and not a torch.nn.Module"),
        ("def build(*given):\n    pass\n", ", factory: make", "factory = 'make': nets/own.py has no function of this"),
    ],
)
def test_a_network_of_ones_own_that_cannot_be_built_is_seen(project, capsys, text, changes, says):
    (project / "nets").mkdir()
    (project / "nets/own.py").write_text(text)
    own = f"{{path: nets/own.py, sha256: {sha256(text.encode()).hexdigest()}{changes}}}"
    begin = (project / "params.yaml").read_text()
    item = f"train:\n  own: {{arch: module, options: {own}, recipe: plain, epochs: 1, init: none}}\n"
    edit(project / "params.yaml", "train:\n", item)
    assert main(["doctor", "--quiet"]) == 1
    place = begin[: begin.index("\ntrain:\n")].count("\n") + 3
    error = capsys.readouterr().err
    assert f"params.yaml, line {place}, column" in error and f"train.own.options.{says}" in error


def test_an_architecture_whose_file_fails_is_seen(project, capsys, monkeypatch):
    def fail(classes, channels, options):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(compact_cnn, "build", fail)
    checks._count_params.cache_clear()
    assert main(["doctor", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "lowrank.compact_groups2.arch = compact_cnn: it cannot be built: RuntimeError: no such thing" in error


def test_no_published_weights_are_fetched(project, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("fetched")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    published = "{arch: torchvision, options: {name: mobilenet_v3_small, weights: DEFAULT}, recipe: plain"
    edit(project / "params.yaml", "train:\n", f"train:\n  own: {published}, epochs: 1, init: none}}\n")
    assert main(["doctor", "--quiet"]) == 0


@pytest.fixture
def rwlock(project):
    path = project / doctor.RWLOCK
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize("content", ["", '{"read": {"src": [{"pid": 4', "\0" * 4096], ids=["empty", "half", "zeros"])
def test_a_lock_of_dvc_that_a_full_disk_has_cut_off_is_named_with_the_remedy(rwlock, capsys, content):
    rwlock.write_text(content)
    assert main(["doctor", "--quiet"]) == 1
    assert "FAIL  rwlock" in (told := capsys.readouterr().err)
    assert "unless a dvc is running here, run 'rm .dvc/tmp/rwlock'" in told
    assert rwlock.read_text() == content


def test_a_whole_lock_of_dvc_is_none_of_its_business(rwlock, capsys):
    rwlock.write_text('{"read": {"src": [{"pid": 4, "cmd": "dvc repro"}]}}')
    assert main(["doctor", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def photos(project):
    """Four pictures in each of two classes, as `imagefolder` reads them."""
    for label in ("apple", "pear"):
        for number in range(4):
            paint(project / "photos" / label / f"{number}.png", colour=(number * 60, 90, 30))
    edit(project / "params.yaml", "  source: fashion-mnist ", "  source: imagefolder ")
    edit(project / "params.yaml", "  root: data/fashion-mnist ", "  root: photos ")
    return project / "photos"


def test_every_picture_is_opened_if_asked(photos, capsys):
    noise = photos / "apple" / "noise.jpg"
    Image.effect_noise((60, 60), 90).save(noise)
    (photos / "pear" / "cut.jpg").write_bytes(noise.read_bytes()[:700])
    (photos / "pear" / "page.jpg").write_bytes(b"<html>not found</html>")
    assert main(["doctor", "--quiet"]) == 0  # the listing does not show it
    capsys.readouterr()
    assert main(["doctor", "--data"]) == 1
    out = capsys.readouterr().out
    assert "9 can be used: train 9" in out
    assert "FAIL  bad images" in out
    assert "2 cannot be used; fix or remove them, or set data.on_bad_image: skip in params.yaml:" in out
    assert "photos/pear/cut.jpg: image file is truncated" in out
    assert "photos/pear/page.jpg: not a picture" in out
    edit(photos.parent / "params.yaml", "  on_bad_image: error ", "  on_bad_image: skip ")
    assert main(["doctor", "--data"]) == 0
    assert "warn  bad images" in (out := capsys.readouterr().out) and "photos/pear/cut.jpg" in out


def test_only_so_many_bad_pictures_are_named(photos, capsys, monkeypatch):
    monkeypatch.setattr(_inputs, "NAMED", 2)
    for number in range(5):
        (photos / "pear" / f"empty{number}.jpg").touch()
    assert main(["doctor", "--data", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "5 cannot be used" in err and err.count("empty file") == 2 and "and 3 more" in err


def test_every_image_of_an_archive_and_of_another_source_is_opened(photos, project, capsys):
    shutil.make_archive(str(project / "packed"), "zip", photos)
    edit(project / "params.yaml", "  root: photos ", "  root: packed.zip ")
    assert main(["doctor", "--data"]) == 0
    assert "8 can be used: train 8" in capsys.readouterr().out
    write_idx(project / "idx", "train", 30, seed=0)
    write_idx(project / "idx", "t10k", 10, seed=1)
    edit(project / "params.yaml", "  source: imagefolder ", "  source: fashion-mnist ")
    edit(project / "params.yaml", "  root: packed.zip ", "  root: idx ")
    assert main(["doctor", "--data"]) == 0
    assert "40 can be used: train 30, test 10" in capsys.readouterr().out


def test_classes_that_cannot_be_split_and_leftovers_of_macos_are_seen_without_opening_a_picture(photos, capsys):
    (photos / "__MACOSX").mkdir()
    assert main(["doctor"]) == 0
    assert "warn  data" in (out := capsys.readouterr().out) and "hidden or __MACOSX folders: photos/__MACOSX" in out
    (photos / "plum").mkdir()
    (photos / "plum" / "0.png").touch()
    assert main(["doctor", "--quiet"]) == 1
    err = capsys.readouterr().err
    assert "FAIL  data  too few pictures to split in photos/plum (1): a class needs 2 or more" in err


def test_a_curve_with_fewer_epochs_than_rounds_is_seen(project, capsys):
    text = (project / "params.yaml").read_text()
    begin = text.index("\nprune:")
    (project / "params.yaml").write_text(text[:begin] + text[begin:].replace("  epochs: 4 ", "  epochs: 2 ", 1))
    assert main(["doctor", "--quiet"]) == 1
    assert "prune.epochs = 2: the curve takes 4 rounds or more, each of an epoch or more" in capsys.readouterr().err
