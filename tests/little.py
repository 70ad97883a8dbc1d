"""A project of a few hundred made-up pictures, whose stages run in about a second each."""

import atexit
import functools
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from netpress.base import files
from netpress.process.warm import WARM, Warm

ROOT = Path(__file__).parent.parent
CURVE = {
    "rate": 0.4,
    "until": 0.2,
    "until_of": "params",
    "scope": "local",
    "round_to": 1,
    "method": "magnitude",
    "method_options": {"norm": 2},
    "schedule": "geometric",
    "schedule_options": {},
    "sparsity": 0.0,
    "sparse_epochs": 0,
    "reconstruct": 0,
    "bn_batches": 0,
    "recipe": "finetune",
    "loss": "labels",
    "loss_options": {},
    "epochs": 4,
    "control_rounds": [],
    "control_recipe": "plain",
    "control_epochs": 4,
}
DESIGN = {"arch": "compact_cnn", "options": {"width": 0.25}, "recipe": "plain", "epochs": 4}
SECTIONS = {
    "seeds": [0],
    "train": {"teacher": DESIGN | {"options": {"width": 0.5}, "init": "none"}},
    "distill": {
        "kd": DESIGN
        | {
            "teacher": "train/teacher",
            "second_teacher": "none",
            "teacher_weights": "equal",
            "method": "kd",
            "method_options": {"temperature": 4.0, "weight": 0.7, "standardize": False},
            "teacher_view": "same",
            "allow_larger": False,
        }
    },
    "lowrank": {"depthwise": DESIGN | {"options": {"groups": "depthwise", "width": 0.25}}},
    "factorize": {
        "tucker": {
            "from": "train/teacher",
            "method": "tucker2",
            "method_options": {"choose": "share", "rank": 0.5, "min_channels": 8},
            "budget": "none",
            "budget_of": "params",
            "bn_batches": 0,
            "recipe": "finetune",
            "loss": "labels",
            "loss_options": {},
            "epochs": 3,
        }
    },
    "prune": {"from": "train/teacher"} | CURVE,
    "prune_sweep": {},
    "quantize": {
        "int8": {
            "from": "prune/main",
            "method": "int8_static",
            "method_options": {
                "calibration_images": 64,
                "calibration": "minmax",
                "reduce_range": True,
                "max_disagreement": 1.0,
            },
            "recipe": "finetune",
            "loss": "labels",
            "loss_options": {},
            "epochs": 0,
        }
    },
    "final": ["distill/kd"],
    "claims": {},
    "experiments": {},
}
#: What makes results, in the order of the graph: stage script, variant.
STAGES = [
    ("check", []),
    ("prepare", []),
    ("train", ["teacher"]),
    ("distill", ["kd"]),
    ("lowrank", ["depthwise"]),
    ("factorize", ["tucker"]),
    ("prune", ["main"]),
    ("quantize", ["int8"]),
    ("test", ["distill/kd"]),
    ("aggregate", []),
]


def write_idx(folder, name, count, seed):
    """Noise with one bright stripe, placed by class, in the IDX format."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 3] = 220
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 2051, count, 28, 28) + images.tobytes())
    (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, count) + labels.tobytes())


def make_project(folder, **changes):
    """Lay out a little project in `folder`, with top-level sections of params.yaml replaced by `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "models/none", folder / "models/none")
    shutil.copytree(ROOT / "data/weights/none", folder / "data/weights/none")
    shutil.copytree(ROOT / ".dvc/plots", folder / ".dvc/plots", ignore=shutil.ignore_patterns("page.html"))
    for kept in ROOT.glob("metrics/*/.gitkeep"):  # a folder without variants is a dependency too
        files.write_bytes(folder / kept.relative_to(ROOT), b"")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / ".dvc/config.local").write_text("[core]\n    no_scm = true\n")
    (folder / "src").symlink_to(ROOT / "src")  # dvc.yaml lists the code; it is imported from this checkout
    default = YAML(typ="safe").load((ROOT / "profiles/default.yaml").read_text(encoding="utf-8"))
    write_params(folder, default | SECTIONS | {"data": default["data"] | {"root": "data/own"}} | changes)
    write_idx(folder / "data/own", "train", 600, seed=0)
    write_idx(folder / "data/own", "t10k", 100, seed=1)
    return folder


def write_params(folder, params):
    """Write params.yaml, one key a line."""
    params = json.loads(json.dumps(params))  # what is shared would be written as an alias
    with (folder / "params.yaml").open("w", encoding="utf-8") as stream:
        YAML(typ="safe").dump(params, stream)


def copy_of(finished, folder, **changes):
    """Copy a project that was run to `folder`, with top-level sections of params.yaml replaced by `changes`."""
    shutil.copytree(finished, folder, symlinks=True)
    if changes:
        write_params(folder, YAML(typ="safe").load((folder / "params.yaml").read_text(encoding="utf-8")) | changes)
    return folder


def committed(finished, folder):
    """Copy a project that was run to `folder`, as a Git repository in which all of it is committed."""
    copy_of(finished, folder)
    (folder / ".dvc/config.local").unlink()  # which says that there is no Git
    for command in (
        "git init -q -b main",
        "git config user.name test",
        "git config user.email test@example.invalid",
        "dvc commit --force --quiet",
        "git add -A",
        "git commit -q -m models",
    ):
        done = run(folder, *shlex.split(command))
        assert done.returncode == 0, done.stdout
    return folder


def results(folder):
    """Every file that the project's stages have written: name -> bytes."""
    found = {}
    for top in ("models", "metrics", "plots", "data/prepared"):
        for path in sorted((folder / top).rglob("*")):
            if path.is_file():
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def run(folder, *command, **options):
    """Run a command in the project with this checkout's code; all output is in stdout of what is returned."""
    return subprocess.run(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def start(folder, *command):
    """Start a command as the leader of a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def environment():
    """The environment of a shell in which this checkout's code and interpreter come first."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("GIT_", "DVC_"))}
    bin_folder = str(Path(sys.executable).parent)
    ours = {"PYTHONPATH": str(ROOT / "src"), "PATH": f"{bin_folder}{os.pathsep}{env['PATH']}"}
    return env | ours | {WARM: loaded()}


@functools.cache
def loaded():
    """Start the process that stages started by these tests are forks of, as under `netpress run`; return its socket."""
    process = Warm()
    process.__enter__()
    atexit.register(process.__exit__, None, None, None)
    return os.environ.pop(WARM)  # for those that ask here, not for whatever else is started


class Server:
    """Runs stages of projects in a process that has everything imported; see stage_server.py."""

    def __init__(self):
        script = Path(__file__).parent / "stage_server.py"
        fork = f"import sys, netpress.process.warm as w; sys.argv = [{str(script)!r}]; sys.exit(w.handed_over())"
        command, pipe = [sys.executable, "-c", fork], subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)
        assert self._process.stdout.readline() == "ready\n"  # so that of two servers none is late

    def run(self, folder, stage, *args, kill_after=None, kill_at=None, share=None, patch=None):
        request = {"script": str(folder / f"stages/{stage}.py"), "args": args, "cwd": str(folder)}
        request |= {"kill_after": kill_after, "kill_at": kill_at, "share": share, "patch": patch}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def finish(self, folder, stage, *args):
        """Run a stage to its end and return what it printed."""
        done = self.run(folder, stage, *args)
        assert done["code"] == 0, done["output"]
        return done["output"]

    def close(self):
        self._process.stdin.close()
        self._process.wait(timeout=30)


def check_killed(server, project, folder, model_id, moment):
    """In a copy of `project` a stage that is killed at `moment` goes on to the bytes that it gave without that."""
    again = copy_of(project, folder)
    forget(again, model_id)
    killed = server.run(again, *model_id.split("/"), kill_at=moment)
    assert killed["moments"][-1] == moment
    assert "goes on after epoch" in server.finish(again, *model_id.split("/"))
    assert results(again) == results(project)


def forget(folder, model_id):
    """Remove what a stage has made of a model, so that it is made again."""
    shutil.rmtree(folder / "models" / model_id)
    shutil.rmtree(folder / ".netpress/runs" / model_id)
    (folder / f"metrics/{model_id}.json").unlink()
