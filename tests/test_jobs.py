"""The graph as jobs: held to DVC's own graph, and what is chosen, stale and urgent in it."""

import json
import shutil
import subprocess
import sys

import pytest
from little import ROOT, environment

from netpress.base.errors import ConfigError
from netpress.base.files import write_json, write_text
from netpress.execute import slots as machine
from netpress.execute.eta import (
    IMAGE_MACS,
    LEAST,
    MACS_A_SECOND,
    NETWORK_MACS,
    SPEED,
    STAGE_SECONDS,
    Eta,
    keep_speed,
    known_images,
    known_speed,
    training_work,
)
from netpress.execute.local import urgency
from netpress.graph.jobs import Job, all_needs, chosen, direct_needs, jobs_of, stale
from netpress.params.profiles import names, render
from netpress.params.reader import load
from netpress.params.recipes import Runtime

PROFILES = names(ROOT / "profiles")
#: What no profile has: teachers below their students in dvc.yaml, one of them a round of a curve; and two of them.
TWISTED, ROUND, BELOW = "twisted", "prune/main/round_1", "lowrank/large_depthwise"
#: Prints, for each params file named, DVC's plan: every stage in the order in which `dvc repro` runs it, and its needs.
SCRIPT = """
import json, sys
from pathlib import Path
from dvc.repo import Repo
from dvc.repo.reproduce import get_active_graph, plan_repro

found = {}
for name in sys.argv[1:]:
    Path("params.yaml").write_text(Path(name).read_text())
    graph = get_active_graph(Repo(".").index.graph)
    plan = plan_repro(graph, list(graph))
    found[name] = [[stage.addressing, sorted(need.addressing for need in graph.successors(stage))] for stage in plan]
print(json.dumps(found))
"""


def twisted(params):
    """Give two students of the default profile teachers that stand below them in dvc.yaml."""
    return params.replace(
        "teacher: train/resnet18_weak\n    second_teacher: none", f"teacher: {ROUND}\n    second_teacher: {BELOW}"
    ).replace("teacher: train/large_cnn", f"teacher: {BELOW}")


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """Profile -> its jobs, and DVC's plan."""
    folder = tmp_path_factory.mktemp("graph")
    shutil.copy2(ROOT / "dvc.yaml", folder / "dvc.yaml")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots")
    (folder / ".dvc/config").write_text("[core]\n    no_scm = true\n")
    for name in PROFILES:
        (folder / name).write_text(render(ROOT / "profiles", name))
    (folder / TWISTED).write_text(twisted((folder / "default").read_text()))
    command = [sys.executable, "-c", SCRIPT, *PROFILES, TWISTED]
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout.splitlines()[-1])
    return {name: (jobs_of(load(folder / name)), plan) for name, plan in plans.items()}


@pytest.mark.parametrize("name", [*PROFILES, TWISTED])
def test_jobs_need_what_dvc_says_in_the_order_of_dvc(plans, name):
    jobs, plan = plans[name]
    assert len(plan) > 8
    assert [[job.stage, sorted(job.needs)] for job in jobs.values()] == plan
    assert list(jobs) == [job.stage for job in jobs.values()]


def test_stages_that_others_need_come_before_them(plans):
    jobs = plans[TWISTED][0]
    assert jobs["distill@kd_weak"].needs == {"prepare", "prune", "lowrank@large_depthwise"}
    assert list(jobs).index("prune") < list(jobs).index("distill@kd_weak") < list(jobs).index("lowrank@compact_plain")


def test_direct_needs_leave_out_what_others_follow_from(plans):
    jobs = plans[TWISTED][0]
    assert direct_needs(jobs, "distill@kd_weak") == {"prune", "lowrank@large_depthwise"}
    assert direct_needs({stage: job for stage, job in jobs.items() if stage != "check"}, "prepare") == set()
    for stage in jobs:
        assert all_needs(jobs, stage) == {n for d in direct_needs(jobs, stage) for n in {d, *all_needs(jobs, d)}}


def test_jobs_have_the_seeds_of_their_variants(tmp_path):
    text = (ROOT / "profiles/default.yaml").read_text()
    head, name, rest = text.partition("\n  resnet18_strong:\n")
    (tmp_path / "params.yaml").write_text(f"{head}{name}    seeds: [0, 5]\n{rest}")
    params = load(tmp_path / "params.yaml")
    found = {stage: job.seeds for stage, job in jobs_of(params).items()}
    assert found["train@resnet18_strong"] == 2 and found["prune"] == 3
    assert found["prepare"] == found["aggregate"] == 1
    shared = params.model_copy(update={"runtime": params.runtime.model_copy(update={"devices": 2})})
    assert {job.seeds for job in jobs_of(shared).values()} == {1}


def test_parents_that_do_not_exist_and_circles_are_left_to_the_stage_check(tmp_path):
    text = (ROOT / "profiles/default.yaml").read_text()
    text = text.replace("teacher: train/resnet18_weak", "teacher: train/gone")
    text = text.replace("teacher: train/large_cnn", "teacher: distill/plain_kd")
    (tmp_path / "params.yaml").write_text(text)
    jobs = jobs_of(load(tmp_path / "params.yaml"))
    assert jobs["distill@kd_weak"].needs == {"prepare"}
    assert "distill@plain_kd" in jobs["distill@plain_kd"].needs
    assert all("check" in all_needs(jobs, stage) for stage in jobs if stage != "check")


def graph(**needs):
    return {stage: Job(stage, frozenset(found.split())) for stage, found in needs.items()}


DIAMOND = graph(a="", b="a", c="a", d="b c", e="")


def test_all_needs_go_up_to_the_first_and_stay_among_the_jobs():
    assert all_needs(DIAMOND, "d") == {"a", "b", "c"}
    assert all_needs(graph(d="b c", c="a"), "d") == {"c"}


def test_stale_is_what_changed_and_what_follows_in_order():
    assert list(stale(DIAMOND, ["b", "e"])) == ["b", "d", "e"]
    assert stale(DIAMOND, []) == {}


def test_names_mean_stages_groups_and_models_with_what_they_need():
    jobs = graph(check="", prepare="check") | {
        "train@big": Job("train@big", frozenset({"prepare"})),
        "train@small": Job("train@small", frozenset({"prepare"})),
        "prune": Job("prune", frozenset({"prepare", "train@big"})),
    }
    assert list(chosen(jobs, ["train/small"])) == ["check", "prepare", "train@small"]
    assert list(chosen(jobs, ["train@small"])) == ["check", "prepare", "train@small"]
    assert list(chosen(jobs, ["train"])) == ["check", "prepare", "train@big", "train@small"]
    assert list(chosen(jobs, ["prune/main"])) == ["check", "prepare", "train@big", "prune"]
    message = (
        r"'train/smal' is no stage and no model of params.yaml, did you mean 'train@small'\?; known: check, prepare"
    )
    with pytest.raises(ConfigError, match=message):
        chosen(jobs, ["train/smal"])


def test_the_longest_path_is_the_most_urgent():
    seconds = {"a": 1.0, "b": 5.0, "c": 2.0, "d": 3.0, "e": 8.5}
    assert urgency(DIAMOND, seconds.__getitem__) == {"a": 9.0, "b": 8.0, "c": 5.0, "d": 3.0, "e": 8.5}


def test_eta_falls_as_stages_end_and_follows_their_speed():
    eta = Eta({"prepare": 0.0, "a": 1e12, "b": 2e12})
    total = eta.seconds()
    eta.observe("prepare", 3.0)
    assert eta.seconds() == pytest.approx(total - STAGE_SECONDS)
    eta.observe("a", STAGE_SECONDS + 10)  # 1e11 a second
    assert eta.seconds() == pytest.approx(STAGE_SECONDS + 20)
    eta.drop("b")
    assert eta.seconds() == 0


def test_work_counts_rounds_seeds_and_images_and_the_unknown_is_the_mean(tmp_path):
    rounds = [{"epochs_total": 0, "macs": 100}, {"epochs_total": 2, "macs": 50}, {"epochs_total": 3, "macs": 20}]
    rounds[2]["control_val_acc"] = 0.5  # of a shape that is trained as long as its parent and the three epochs
    for name, value in {
        "train/x": {"epochs": 4, "macs": 7, "n_seeds": 3},
        "prune/main": {"epochs": 3, "macs": 20, "rounds": rounds, "parent": "train/x"},
    }.items():
        path = tmp_path / "metrics" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    work = training_work(tmp_path, ["prepare", "train@x", "prune", "train@gone"], 10)
    x = 3 * (NETWORK_MACS + 10 * 4 * (7 + IMAGE_MACS))
    prune = 3 * NETWORK_MACS + 10 * (2 * (50 + IMAGE_MACS) + (1 + 4 + 3) * (20 + IMAGE_MACS))
    assert work == {"prepare": 0, "train@x": x, "prune": prune, "train@gone": (x + prune) / 2}


def test_where_no_work_is_known_all_models_are_alike(tmp_path):
    work = training_work(tmp_path, ["check", "train@x", "prune"], 0)
    assert work["check"] == 0 and work["train@x"] == work["prune"] > 0


def test_metrics_of_other_data_tell_nothing_of_what_training_takes(tmp_path):
    data = load(ROOT / "profiles/default.yaml").data
    assert known_images(tmp_path) == known_images(tmp_path, data) == 0
    facts = {"source": data.source, "resolution": data.resolution, "train_images": 7}
    write_json(tmp_path / "metrics/data.json", facts)
    assert known_images(tmp_path) == known_images(tmp_path, data) == 7
    for change in ({"source": "imagefolder"}, {"resolution": 2 * data.resolution}):
        assert known_images(tmp_path, data.model_copy(update=change)) == 0


def test_the_speed_of_the_last_run_is_that_of_the_next_until_a_stage_has_ended(tmp_path):
    assert Eta({}).speed == known_speed(tmp_path) == MACS_A_SECOND
    for content in ("{", "[]", '{"macs_a_second": -1.0}', '{"macs_a_second": "fast"}'):
        write_text(tmp_path / SPEED, content)
        assert known_speed(tmp_path) == MACS_A_SECOND
    first = Eta({"a": 1e9 * LEAST, "finished before": 1e12})
    first.observe("finished before", STAGE_SECONDS)
    keep_speed(tmp_path, first)
    assert known_speed(tmp_path) == MACS_A_SECOND
    first = Eta({"a": 1e9 * LEAST})
    first.observe("a", STAGE_SECONDS + LEAST)
    keep_speed(tmp_path, first)
    eta = Eta({"a": 4e9, "b": 2e9}, speed=known_speed(tmp_path))
    assert eta.of("b") == STAGE_SECONDS + 2
    eta.observe("a", STAGE_SECONDS + 2)
    assert eta.speed == 2e9 and eta.of("b") == STAGE_SECONDS + 1


def test_time_left_is_shared_among_slots_but_no_shorter_than_one_job():
    eta = Eta({"a": 0.0, "b": 0.0, "c": 0.0, "long": 5e9 * 60})
    assert eta.of("long") == STAGE_SECONDS + 60
    assert eta.seconds() == 4 * STAGE_SECONDS + 60
    assert eta.seconds(slots=4) == STAGE_SECONDS + 60
    assert eta.seconds({"long": 50.0, "a": 100.0}, slots=1) == 3 * STAGE_SECONDS + 10
    assert eta.seconds({"long": 50.0, "a": 100.0}, slots=9) == STAGE_SECONDS + 10
    shared = Eta({"long": 5e9 * 60}, {"long": 3})
    assert [shared.seconds(slots=slots) for slots in (1, 2, 9)] == [(STAGE_SECONDS + 60) / most for most in (1, 2, 3)]


def of(threads=1, device="cpu"):
    return Runtime(
        device=device,
        threads=threads,
        precision="fp32",
        channels_last=True,
        compile=False,
        devices=1,
        batch_norm="synchronized",
    )


def test_slots_are_cores_by_threads_and_one_on_a_gpu(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert [machine.slots(of(threads)) for threads in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert machine.slots(of(device="cuda")) == 1
    for found in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda found=found: found)
        assert machine.slots(of(device="auto")) == (1 if found else 8)
