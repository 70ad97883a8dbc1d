"""A copy of the project in a folder of its own, run under the smoke profile."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent

#: What a run or a tool leaves behind; Git ignores it, but an unpacked archive has no Git to ask.
LEFT_BEHIND = {".git", ".venv", ".netpress", "__pycache__", "prepared", "downloads", "cache", "tmp"}


def project_files():
    """The project's own files, without what a run leaves behind and without dvc.lock."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    else:
        listed = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    for name in listed:
        parts = Path(name).parts
        ours = parts and not LEFT_BEHIND & set(parts) and (parts[0] != "models" or parts[1:2] == ("none",))
        if ours and name != "dvc.lock" and (ROOT / name).is_file():
            yield name


class Project:
    """A copy of the project in a folder of its own, with a Git history of its own."""

    def __init__(self, folder):
        self.folder = folder
        for name in project_files():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
        for stale in [*(folder / "metrics").rglob("*.json"), *(folder / "plots").rglob("*.*")]:
            stale.unlink()
        self._git("init", "-q", "-b", "main")
        self._git("config", "user.name", "test")
        self._git("config", "user.email", "test@example.invalid")

    def call(self, *command):
        """Run a command in the copy, with the copy's own code, and return how it ended."""
        from little import environment  # scripts/mutants.py takes this file, and must not load netpress

        env = environment() | {"PYTHONPATH": str(self.folder / "src")}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def run(self, *command, ok=True):
        """Run a command in the copy, as `call`, and return what it printed."""
        done = self.call(*command)
        text = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{' '.join(command)} ended with {done.returncode}:\n{text[-4000:]}"
        return text

    def _git(self, *command):
        return subprocess.run(["git", *command], cwd=self.folder, check=True, capture_output=True, text=True).stdout

    def commit(self, message):
        self._git("add", "-A")
        self._git("commit", "-q", "-m", message)
        return self._git("rev-parse", "HEAD").strip()

    def clean(self):
        """Go back to the committed run, models included."""
        self._git("reset", "-q", "--hard", self.head)
        self._git("clean", "-q", "-fd")
        self.run("dvc", "checkout", "-q")

    def repro(self):
        """Run `dvc repro` and return the stages that ran."""
        return stages_run(self.run("dvc", "repro"))

    def edit(self, change):
        """Change params.yaml in place by `change(params)`."""
        yaml = YAML()
        path = self.folder / "params.yaml"
        params = yaml.load(path.read_text(encoding="utf-8"))
        change(params)
        with path.open("w", encoding="utf-8") as stream:
            yaml.dump(params, stream)

    def json(self, name):
        return json.loads((self.folder / name).read_text(encoding="utf-8"))


def stages_run(output):
    return set(re.findall(r"Running stage '([^']+)'", output))


ALL_STAGES = {
    "check",
    "prepare",
    "train@teacher",
    "train@student_alone",
    "distill@kd",
    "lowrank@compact_groups2",
    "factorize@tucker_teacher",
    "prune",
    "prune_sweep@teacher_rate60",
    "quantize@student_fp16",
    "quantize@pruned_int8",
    "test@distill/kd",
    "aggregate",
}


def fresh(folder):
    """A new copy under the smoke profile, run once from nothing on pictures that are learned in a few steps."""
    from little import write_idx  # as above

    project = Project(folder)
    project.run("python", "-m", "netpress", "use", "smoke", "--force")
    project.edit(lambda params: params["data"].update(root="data/own"))
    write_idx(folder / "data/own", "train", 2000, seed=0)
    write_idx(folder / "data/own", "t10k", 200, seed=1)
    project.commit("smoke profile")
    assert not (folder / "dvc.lock").exists()
    assert project.repro() == ALL_STAGES
    project.head = project.commit("a run")
    return project
