"""The machinery of benchmarks/bench.py, on networks so small that it takes seconds."""

import io
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from netpress.base.errors import NetpressError
from netpress.core.measure import count_macs
from netpress.process.commands import execute

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench  # noqa: E402
from speed import commands, jobs, training  # noqa: E402
from speed.cases import BATCH, Case, Network  # noqa: E402
from speed.loops import Pictures, Shuffled, built, made_up  # noqa: E402
from speed.series import Series  # noqa: E402
from speed.workers import Team, Work, Worker, environment, interleaved  # noqa: E402

TINY = Network("compact_cnn", {"groups": 1, "width": 0.125})
TEACHER = Network("compact_cnn", {"groups": 2, "width": 0.125})
ALONE, TAUGHT = Case(TINY, 28, 1), Case(TINY, 28, 1, TEACHER)
EFFORT = training.Effort(threads=2, rounds=1, seconds=0.01)


class Clocked:
    """A worker whose steps take as long as it is told; notes its orders."""

    def __init__(self, step=0.01, images=BATCH):
        self.step, self.images, self.orders = step, images, []

    def order(self, steps):
        self.orders.append(steps)

    def answer(self):
        return {"done": self.images * self.orders[-1], "seconds": self.step * self.orders[-1]}


def test_a_ratio_is_of_rounds_that_followed_one_another():
    ours, other = Series((10.0, 40.0, 90.0)), Series((10.0, 20.0, 30.0))
    assert ours.over(other) == Series((1.0, 2.0, 3.0))
    assert ours.cell() == "40 (10 to 90)"
    assert Series((0.5, 0.25, 2.0)).cell(".2f", " s") == "0.50 s (0.25 to 2.00)"
    with pytest.raises(ValueError, match="shorter"):
        ours.over(Series((1.0,)))


def test_candidates_take_turns():
    calls = []
    found = interleaved({name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}, 3)
    assert calls == list("ababab")
    assert found == {"a": Series((1, 3, 5)), "b": Series((2, 4, 6))}


@pytest.mark.parametrize(("step", "steps"), [(0.001, 40), (0.02, 30), (0.5, 1), (5.0, 1)])
def test_a_round_lasts_as_long_as_asked_and_a_step_at_least(step, steps):
    worker = Clocked(step)
    team = Team([worker])
    team.pace(0.6, 40)
    assert team.steps == steps
    assert team.round() == pytest.approx(BATCH / step)
    assert worker.orders[-1] == steps


def test_workers_side_by_side_count_together_and_the_slowest_ends_the_round():
    assert Team([Clocked(0.01, 100), Clocked(0.02, 100)]).round() == pytest.approx(200 / 0.02)


def test_only_ours_waits_passively_and_packages_come_from_their_folder(tmp_path):
    outside = {"OMP_WAIT_POLICY": "ACTIVE", "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1"}
    outside |= {"HOME": "/x", "PYTHONPATH": "y"}
    ours = environment(Work("netpress", 2), outside)
    others = environment(Work("torchdistill", 2, passive=False, packages=tmp_path), outside)
    assert {key: value for key, value in ours.items() if "OMP" in key} == {"OMP_WAIT_POLICY": "PASSIVE"}
    assert not [key for key in others if "OMP" in key]
    assert others["PYTHONPATH"].split(os.pathsep) == [
        *(str(place) for place in (ROOT / "benchmarks", ROOT / "src", tmp_path)),
        "y",
    ]
    assert others["HOME"] == "/x"
    works = training.loops(training.Effort(2, 1, 0.1, tmp_path))
    for name, crew in works.items():
        assert {work.passive for work in crew} == {name in (training.OURS, training.SPLIT)}
    assert [work.threads for work in works[training.SPLIT]] == [1, 1]
    assert not [name for name in training.loops(EFFORT) if training.TORCHDISTILL in name]


def test_a_step_is_three_times_the_forward_pass_but_for_the_images_own_gradient():
    whole = built(TINY, ALONE)
    first = 2 * 14 * 14 * whole[0][0][0].weight.numel()
    expected = 3 * 2 * count_macs(whole, 1, 28, 28) - first
    assert jobs.flops(ALONE) == expected
    assert jobs.flops(TAUGHT) == expected + 2 * count_macs(built(TEACHER, TAUGHT), 1, 28, 28)


@pytest.mark.parametrize("case", [ALONE, TAUGHT, Case(TINY, 32, 3)], ids=lambda case: case.title)
@pytest.mark.parametrize("kind", ["netpress", "ordinary"])
def test_every_loop_trains_as_many_images_as_it_says(kind, case, monkeypatch):
    networks, read = [], {"network": vars(case.network), "size": case.size, "channels": case.channels}
    read |= {"teacher": case.teacher and vars(case.teacher)}

    def noted(network, of):
        networks.append(built(network, of))
        return networks[-1]

    monkeypatch.setattr("speed.loops.built", noted)
    monkeypatch.setattr("speed.loops.made_up", lambda case: made_up(case, 2))
    train = jobs.JOBS[kind](read, 1, 0)
    seen = []
    networks[0].register_forward_hook(lambda module, given, _: seen.append(module.training and len(given[0])))
    before = [p.detach().clone() for network in networks for p in network.parameters()]
    assert train(2) == 2 * BATCH
    assert [count for count in seen if count] == [BATCH, BATCH]
    after = [p for network in networks for p in network.parameters()]
    changed = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    own = len(list(networks[0].parameters()))
    assert any(changed[:own])
    assert not any(changed[own:])  # a teacher


def test_pictures_are_those_of_the_split_in_a_new_order():
    data = Pictures(made_up(Case(TINY, 28, 3), 1))
    image, label = data[3]
    assert (image.shape, label) == ((3, 28, 28), 3)
    order = Shuffled(data)
    order.count = 100
    drawn = list(order)
    assert len(set(drawn)) == len(order) == 100
    assert drawn != list(order)


def test_a_worker_that_fails_says_why(tmp_path):
    with Worker(Work("torchdistill", 1)) as worker:
        with pytest.raises(NetpressError, match=r"'torchdistill' ended with 1: .*on a pair of teacher and student"):
            worker.take({"network": vars(TINY), "size": 28, "channels": 1, "teacher": None})
        with pytest.raises(NetpressError, match="ended with 1"):
            worker.do(1)


@pytest.mark.exhaustive  # a minute on two busy cores, of which the loops beside a busy process take most
def test_the_whole_table_of_a_tiny_network(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(bench, "CASES", [ALONE])
    monkeypatch.setattr(bench, "PAIR", TAUGHT)
    monkeypatch.setattr(training, "PRODUCTS", [(64, 64, 64)])
    place = tmp_path / "bench.md"
    asked = ["--only", "training", "--threads", "1", "--rounds", "2", "--seconds", "0.01", "--write", str(place)]
    assert bench.main(asked) == 0
    text = capsys.readouterr().out
    assert place.read_text(encoding="utf-8") == text
    assert f"python benchmarks/bench.py {' '.join(asked)}" in text
    assert "Left out: torchdistill, for want of --torchdistill." in text
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    alone = [line for line in lines if line[0] == ALONE.title]
    assert [line[1] for line in alone] == ["quiet", "busy"]
    for line in alone:
        rates = [float(cell.split()[0].replace(",", "")) for cell in line[2:6]]
        assert min(rates) > 0
    taught = [line[:2] for line in lines if line[0] in ("quiet", "busy")]
    names = [training.ORDINARY, training.ORDINARY + training.LOADERS, training.OURS, training.SPLIT]
    assert taught == [[machine, name] for machine in ("quiet", "busy") for name in names]
    assert len(re.findall(r"\d%", text)) == 5  # of the limit: ours alone, four loops of the pair


def photos(path, training_images=22, validation_images=11):
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("training", training_images), ("validation", validation_images)):
            for k in range(count):
                pixels = np.random.default_rng([count, k]).integers(0, 256, (20, 24, 3), np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                archive.writestr(f"{split}/{k % 11}_{k // 11}.png", buffer.getvalue())
        archive.writestr("README.txt", "no picture")


def test_both_ways_of_reading_photos_read_all_of_them(tmp_path):
    photos(tmp_path / "photos.zip")
    place = {"path": str(tmp_path / "photos.zip"), "size": 16}
    for kind in ("prepare", "pictures"):
        assert jobs.JOBS[kind](place, 1, 0)(2) == 2 * 33


def test_int8_runs_integers_and_fp32_does_not(monkeypatch):
    files = []
    monkeypatch.setattr(jobs, "_session_job", lambda data, case, threads: files.append(data) or (lambda steps: steps))
    raw = {"network": vars(TINY), "size": 28, "channels": 1, "teacher": None}
    for kind in ("fp32", "int8"):
        jobs.JOBS[kind](raw, 1, 0)
    assert [b"QuantizeLinear" in data for data in files] == [False, True]
    monkeypatch.undo()
    assert jobs.JOBS["fp32"](raw, 1, 0)(3) == 3


def test_what_checkpoints_cost_is_part_of_the_run():
    raw = {"case": {"network": vars(TINY), "size": 28, "channels": 1, "teacher": None}, "images": 64}
    run = jobs.checkpoint_job(raw, 1, 0)
    spent, written = run(2)
    assert spent > 0
    assert written in (0, 1, 2)
    assert run(1)[0] < spent * 100  # counted anew


def test_a_command_that_fails_is_quoted(tmp_path):
    with pytest.raises(NetpressError, match=r"'python -c import no_package' ended with 1: ModuleNotFoundError"):
        commands.seconds_of(tmp_path, ["-c", "import no_package"])
    assert commands.seconds_of(tmp_path, ["-c", "pass"]) > 0


@pytest.mark.slow
def test_dvc_is_timed_where_nothing_is_to_be_done_and_never_runs_a_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "STARTS", [(["-c", "import sys; sys.exit('not ready')"], ["-c", "pass"])])
    (tmp_path / "dvc.yaml").write_text("stages:\n  one:\n    cmd: echo x >> b\n    deps: [a]\n    outs: [b]\n")
    (tmp_path / "a").write_text("1")
    execute(tmp_path, [sys.executable, "-m", "dvc", "init", "--no-scm", "-q"])
    rows, left_out = commands.starts(tmp_path, EFFORT)
    assert rows == []
    assert left_out[0].endswith("1 stages of " + tmp_path.name + " are not up to date")
    assert left_out[1].endswith("ended with 1: not ready")
    assert not (tmp_path / "b").exists()
    execute(tmp_path, [sys.executable, "-m", "dvc", "repro", "-q"])
    rows, left_out = commands.starts(tmp_path, EFFORT)
    assert [row.ours for row in rows] == ["`python -m dvc repro`"]
    assert rows[0].cells()[1].startswith(f"{rows[0].found.median:.3f} s (")
    assert len(left_out) == 1
    assert (tmp_path / "b").read_text() == "x\n"


def test_without_an_archive_a_line_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "starts", lambda *_: ([], ["the start"]))
    row = commands.Row("int8", "x", Series((4.0,)), Series((2.0,)), "images")
    monkeypatch.setattr(commands, "inference", lambda *_: row)
    text = commands.beside_training(tmp_path, tmp_path / "none.zip", EFFORT)
    assert "Left out: the start.\n" in text
    assert f"Left out: `prepare` beside a PIL loop: {tmp_path / 'none.zip'} is not there.\n" in text
    assert "| 4 images/s (4 to 4) | x | 2 images/s (2 to 2) | 2.00 (2.00 to 2.00) |" in text
    assert "for want of --pictures" in commands.beside_training(tmp_path, None, EFFORT)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--seconds", "nan"], "'nan': a number above 0, at most 60, is wanted"),
        (["--seconds", "soon"], "'soon': a number above 0"),
        (["--threads", "100000"], "100000: this machine has"),
        (["--torchdistill", "here"], "here holds no torchdistill; install it: uv pip install"),
        (["--write", "no/such/folder/x.md"], "no/such/folder/x.md: its folder is not there"),
        (["--only", "all"], "invalid choice: 'all'"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_measured(arguments, says, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.main(arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err


def test_an_error_is_one_line(monkeypatch, capsys):
    def broken(*_):
        raise NetpressError("the process that measures 'netpress' ended with 1: x")

    monkeypatch.setattr(bench, "sections", broken)
    assert bench.main(["--quick"]) == 1
    assert capsys.readouterr().err == "error: the process that measures 'netpress' ended with 1: x\n"


def test_parts_are_chosen(monkeypatch, capsys):
    made = []
    monkeypatch.setattr(bench, "sections", lambda cases, effort: made.append((cases, effort)) or "training\n")
    monkeypatch.setattr(bench, "beside_training", lambda *_: "beside\n")
    monkeypatch.setattr(bench, "checkpoints", lambda _: "checkpoints\n")
    found = []
    for arguments in ([], ["--quick"], ["--only", "checkpoints", "--only", "beside"]):
        assert bench.main(arguments) == 0
        found.append([line for line in capsys.readouterr().out.splitlines() if line in bench.PARTS])
    assert found == [[*bench.PARTS], ["training"], ["beside", "checkpoints"]]
    assert [cases for cases, _ in made] == [[*bench.CASES, bench.PAIR], [*bench.QUICK]]
    assert made[1][1].rounds < made[0][1].rounds
