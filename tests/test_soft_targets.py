"""Soft targets: a teacher that sees plain images is asked once, whoever its students are, and nothing else changes."""

import shutil

import numpy as np
import own
import pytest
import torch
from conftest import NO_AUGMENT, RUNTIME, striped
from little import DESIGN, SECTIONS, copy_of, forget, results
from ruamel.yaml import YAML

from netpress.core.artifacts import load, tensors_from_bytes
from netpress.core.batches import Batch, training_batches
from netpress.core.context import Method
from netpress.core.networks import build_model
from netpress.core.taps import Taps
from netpress.distill.losses import kd
from netpress.distill.teaching import soft_targets
from netpress.distill.teaching.taught import Taught, are_fixed

PLAIN = SECTIONS["distill"]["kd"] | {"teacher_view": "plain"}
COLD = {"temperature": 1.0, "weight": 0.9, "standardize": False}
HINT = {"method": "fitnet", "method_options": {"student_layer": "0.3", "teacher_layer": "0.3", "weight": 0.5}}
#: Normalizes in a way of its own.
OTHER = DESIGN | {"options": {"width": 0.4}, "init": "none", "normalization": {"mean": [0.4], "std": [0.2]}}
CHANGES = {
    "train": SECTIONS["train"] | {"other": OTHER},
    "distill": {
        "plain": PLAIN,
        "cold": PLAIN | {"method_options": COLD, "options": {"width": 0.3}},
        "seeds": PLAIN | {"seeds": [3, 4]},
        "two": PLAIN | {"second_teacher": "train/other"},
        "mixed": PLAIN | {"recipe": "mixed"},
        "hint": PLAIN | HINT,
        "same": PLAIN | {"teacher_view": "same"},
    },
}
TABLE = ".netpress/soft_targets/train/teacher/seed_0.safetensors"
#: Run before a stage: prints a line whenever a teacher is asked about some images.
ASKED = """
from netpress.core.context import Context
parent = Context.parent
def watched(self, *which):
    loaded = parent(self, *which)
    loaded.network.register_forward_hook(lambda *_: print("a teacher is asked", flush=True))
    return loaded
Context.parent = watched
"""
#: Of 480 training and 120 validation images, once: one batch each.
ONCE = 2


def asked(server, project, variant, patch=""):
    """Train a student, and return how often its teachers were asked."""
    done = server.run(project, "distill", variant, patch=ASKED + patch)
    assert done["code"] == 0, done["output"]
    return done["output"].count("a teacher is asked")


@pytest.fixture(scope="module")
def project(server, little_run, tmp_path_factory):
    """With two trained teachers, and no student yet."""
    recipes = YAML(typ="safe").load(little_run / "params.yaml")["recipes"]
    mixed = recipes["plain"] | {"augment": recipes["plain"]["augment"] | {"mixup": 0.2}}
    folder = tmp_path_factory.mktemp("targets") / "project"
    copy_of(little_run, folder, **CHANGES, recipes=recipes | {"mixed": mixed})
    server.finish(folder, "train", "other")
    return folder


@pytest.fixture(scope="module")
def plain(server, project, tmp_path_factory):
    """The first student is there, and with it the soft targets of its teacher."""
    folder = copy_of(project, tmp_path_factory.mktemp("plain") / "project")
    assert asked(server, folder, "plain") == ONCE
    return folder


def test_a_teacher_is_asked_once_for_students_of_every_temperature_size_and_seed(server, plain, tmp_path):
    folder = copy_of(plain, tmp_path / "project")
    assert asked(server, folder, "cold") == 0
    assert asked(server, folder, "seeds") == 0
    assert asked(server, folder, "two") == ONCE  # the other one
    assert asked(server, folder, "two") == 0


@pytest.mark.parametrize("variant", ["mixed", "hint", "same"])
def test_a_teacher_that_mixtures_views_or_features_need_is_asked_at_every_step(server, plain, tmp_path, variant):
    folder = copy_of(plain, tmp_path / "project")
    steps = PLAIN["epochs"] * -(-480 // 128)
    assert asked(server, folder, variant) >= steps + 1


def test_a_student_of_kept_targets_is_that_of_new_ones_and_of_a_teacher_in_the_loop(server, plain, tmp_path):
    """The agreement with the teacher too; in the loop up to the rounding of batches of another size."""
    kept, loop = (copy_of(plain, tmp_path / name) for name in ("kept", "loop"))
    for folder in (kept, loop):
        forget(folder, "distill/plain")
    assert asked(server, kept, "plain") == 0
    assert results(kept) == results(plain)
    off = "import netpress.distill.run as run; run.are_fixed = lambda *_: False"
    assert asked(server, loop, "plain", off) > ONCE
    rows = [np.genfromtxt(f / "models/distill/plain/seed_0/history.csv", delimiter=",")[1:] for f in (plain, loop)]
    np.testing.assert_allclose(*rows, rtol=1e-3)
    shares = [YAML(typ="safe").load(f / "metrics/distill/plain.json")["teacher_agreement"] for f in (plain, loop)]
    assert shares[0] == pytest.approx(shares[1], abs=2 / 120)


def test_what_is_drawn_for_an_adapter_does_not_depend_on_the_store(server, project, tmp_path):
    """An adapter of the student's features alone, which needs no teacher in the loop."""
    method = """
import torch
from netpress.core.taps import Taps
from netpress.distill.losses import kd
loss = kd.loss
kd.taps = lambda options: Taps(student=("0.3",))
kd.adapter = lambda student, teacher, options: torch.nn.Linear(student["0.3"][0], 10)
def both(student, teacher, targets, options, adapter):
    seen = adapter(student.features["0.3"].mean((2, 3)))
    return loss(student, teacher, targets, options, None) + (seen - teacher.logits).square().mean()
kd.loss = both
"""
    new, kept = (copy_of(project, tmp_path / name) for name in ("new", "kept"))
    assert asked(server, new, "plain", method) == ONCE
    shutil.copytree(new / ".netpress/soft_targets", kept / ".netpress/soft_targets")
    assert asked(server, kept, "plain", method) == 0
    assert results(kept) == results(new)


def test_the_table_holds_what_each_teacher_says_of_each_image_in_order(server, plain, tmp_path):
    folder = copy_of(plain, tmp_path / "project")
    server.finish(folder, "distill", "two")
    for name in ("teacher", "other"):
        path = folder / f".netpress/soft_targets/train/{name}/seed_0.safetensors"
        table, teacher = tensors_from_bytes(path.read_bytes(), path), load(folder / f"models/train/{name}/seed_0")
        said = {}
        for split in ("train", "val"):
            images = np.load(folder / f"data/prepared/{split}_images.npy")
            with torch.inference_mode():
                fed = torch.from_numpy(own.normalized(images, teacher.spec.mean, teacher.spec.std))
                said[split] = teacher.network(fed).numpy()
        assert table["logits"].dtype == torch.float32
        np.testing.assert_allclose(table["logits"].numpy(), said["train"], atol=1e-4)
        np.testing.assert_array_equal(table["answers"].numpy(), said["val"].argmax(1))


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize("harm", [flipped, pytest.param(truncated, marks=pytest.mark.exhaustive)])
def test_a_damaged_table_is_made_again_and_said(server, plain, tmp_path, harm):
    folder = copy_of(plain, tmp_path / "project")
    forget(folder, "distill/plain")
    harm(folder / TABLE)
    done = server.run(folder, "distill", "plain", patch=ASKED)
    assert done["output"].count("a teacher is asked") == ONCE
    (told,) = [line for line in done["output"].splitlines() if "it is made again" in line]
    assert told.startswith("soft targets of train/teacher seed 0: ")
    assert "seed_0.safetensors is not what was written" in told
    assert results(folder) == results(plain)


def test_the_table_of_another_teacher_is_not_used(server, plain, tmp_path):
    folder = copy_of(plain, tmp_path / "project", train={"teacher": SECTIONS["train"]["teacher"] | {"epochs": 3}})
    forget(folder, "distill/plain")
    server.finish(folder, "train", "teacher")
    assert asked(server, folder, "plain") == ONCE
    student = results(folder)
    shutil.rmtree(folder / ".netpress/soft_targets")
    forget(folder, "distill/plain")
    assert asked(server, folder, "plain") == ONCE
    assert results(folder) == student


@pytest.mark.parametrize(
    "moment", ["half seed_0.safetensors", pytest.param("after fit_2.safetensors", marks=pytest.mark.exhaustive)]
)
def test_a_killed_run_goes_on_to_the_same_bytes(server, project, plain, tmp_path, moment):
    folder = copy_of(project, tmp_path / "project")
    killed = server.run(folder, "distill", "plain", kill_at=moment)
    assert killed["moments"][-1] == moment
    server.finish(folder, "distill", "plain")
    assert results(folder) == results(plain)


def test_what_the_code_of_the_targets_is_covers_all_that_it_imports():
    """Each of its prefixes stands for code that a student follows from, so that none of them is empty."""
    from netpress.params.families import PACKAGE, SHARED

    assert {f"{PACKAGE}/{part}" for part in soft_targets.CODE} == {
        *(f"{PACKAGE}/{part}/" for part in SHARED),
        f"{PACKAGE}/distill/teaching/soft_targets.py",
    }


def taught(student, teachers, train):
    options = kd.Options(temperature=2.0, weight=0.9, standardize=False)
    return Taught(student, teachers, Method("kd", kd, options), "plain", RUNTIME, train)


def network(width=0.25, seed=0):
    torch.manual_seed(seed)
    return build_model("compact_cnn", 3, 1, width=width).eval()


def test_a_loss_from_the_table_is_that_of_the_teacher_asked_to_the_bit():
    """In a batch of the same images; in other batches, of images in another order, up to rounding."""
    train, student, teacher = striped(96), network(), network(0.5, 1).to(memory_format=torch.channels_last)
    images = train.normalize(train.images)
    with torch.no_grad():
        table = teacher(images)
    looked_up, asking = taught(student, [table], train), taught(student, [teacher], train)
    whole = Batch(images, torch.eye(3)[train.labels], torch.arange(96), lambda: images)
    assert looked_up(whole, student(images)).item() == asking(whole, student(images)).item()
    for batch in training_batches(train, NO_AUGMENT.model_copy(update={"flip": True}), 0.0, 20, 0, 0):
        logits = student(batch.images)
        assert looked_up(batch, logits).item() == pytest.approx(asking(batch, logits).item(), rel=1e-5)


def test_of_two_tables_the_loss_is_the_mean():
    batch = Batch(torch.zeros(2, 1, 28, 28), torch.eye(3)[:2], torch.tensor([5, 1]), None)
    tables = [torch.randn(8, 3, generator=torch.Generator().manual_seed(k)) for k in range(2)]
    logits = torch.randn(2, 3)
    both, *alone = (
        taught(network(), chosen, striped(8))(batch, logits).item() for chosen in (tables, *([t] for t in tables))
    )
    assert both == pytest.approx(sum(alone) / 2)
    assert alone[0] != pytest.approx(alone[1])


@pytest.mark.parametrize(
    ("view", "mixup", "layers", "fixed"),
    [
        ("plain", 0.0, Taps(), True),
        ("plain", 0.0, Taps(student=("0.3",)), True),
        ("plain", 0.0, Taps(teacher=("0.3",)), False),
        ("plain", 0.2, Taps(), False),
        ("same", 0.0, Taps(), False),
    ],
)
def test_logits_are_fixed_where_no_epoch_changes_what_the_teacher_sees(view, mixup, layers, fixed):
    module = type("Module", (), {"taps": staticmethod(lambda options: layers)})
    augment = NO_AUGMENT.model_copy(update={"mixup": mixup, "flip": True})
    assert are_fixed(Method("mine", module, None), view, augment) == fixed
