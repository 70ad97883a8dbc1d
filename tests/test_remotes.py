"""docs/remotes.md, line by line: models pushed to a folder and to an S3 on loopback, and pulled in a clone."""

import re
import shlex
from pathlib import Path

import pytest
from little import committed, copy_of, results, run
from project import stages_run
from ruamel.yaml import YAML

from netpress.cli import doctor
from netpress.cli._unpulled import to_pull
from netpress.core.artifacts import load_model

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs/remotes.md").read_text(encoding="utf-8")
#: Title -> the blocks of lines below it.
BLOCKS = {
    title: re.findall(r"```sh\n(.*?)```", text, re.S)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)
}
INSTALL = ".venv/bin/uv pip install "
SHARE = "/mnt/share/netpress"
KEYS = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",  # else botocore asks the network for keys
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_CONFIG_FILE": "/nonexistent",
    "NO_PROXY": "127.0.0.1",
}


def follow(folder, block, places=None):
    """Run the lines of a block, with the page's `places` replaced by the test's; return what the last one printed."""
    for page, ours in (places or {}).items():
        assert page in block
        block = block.replace(page, ours)
    for line in block.splitlines():
        if line.startswith(INSTALL):
            named = re.findall(r"requirements[\w-]*\.txt", line)
            assert named and all((ROOT / name).is_file() for name in named), line
            continue
        done = run(folder, *shlex.split(line))
        assert done.returncode == 0, f"{line}\n{done.stdout}"
    return done.stdout


def clone(origin, folder):
    done = run(origin, "git", "clone", "--quiet", str(origin), str(folder))
    assert done.returncode == 0, done.stdout
    return folder


@pytest.fixture(scope="module")
def project(little_run, tmp_path_factory):
    """The little project, committed; no remote is set."""
    return committed(little_run, tmp_path_factory.mktemp("remotes") / "project")


@pytest.fixture(scope="module")
def pushed(project, tmp_path_factory):
    """The project after the lines for a folder."""
    folder = copy_of(project, tmp_path_factory.mktemp("folder") / "project")
    follow(folder, *BLOCKS["A folder"], {SHARE: str(folder.parent / "store")})
    return folder


@pytest.fixture
def s3(monkeypatch):
    """The address of an S3 on loopback with an empty bucket, whose keys are in the environment."""
    pytest.importorskip("dvc_s3", reason="dvc-s3 is not installed: requirements-s3.txt")
    moto = pytest.importorskip("moto.server", reason="moto is not installed: requirements-dev.txt")
    import boto3

    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bucket")
    yield address
    server.stop()


def check_clone(origin, folder):
    """In a clone, what the page says holds: all is pulled, nothing runs, and the models are those that were made."""
    clone(origin, folder)
    assert not (folder / "models/distill").exists()
    pull, repro, verify = BLOCKS["In a clone"][0].splitlines()
    follow(folder, pull)
    assert results(folder) == results(origin)
    said = follow(folder, repro)
    assert stages_run(said) == set() and "up to date" in said
    assert "nothing found" in follow(folder, verify)
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    _, spec = load_model(folder / "models/distill/kd")
    assert spec.model_id == "distill/kd"


def test_a_folder_as_remote(pushed, tmp_path):
    check_clone(pushed, tmp_path / "clone")


def test_s3_as_remote(project, s3, tmp_path, monkeypatch):
    origin = copy_of(project, tmp_path / "project")
    follow(origin, *BLOCKS["S3"], {"https://s3.example.org": s3})
    config = (origin / ".dvc/config").read_text()
    assert "s3://bucket/netpress" in config and "secret" not in config
    check_clone(origin, tmp_path / "clone")

    other = clone(origin, tmp_path / "other")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    done = run(other, "dvc", "pull")
    assert done.returncode != 0
    assert "Unable to locate credentials" in done.stdout and "Traceback" not in done.stdout


def test_one_model_alone(pushed, tmp_path):
    folder = clone(pushed, tmp_path / "clone")
    line = re.search(r"`(dvc pull models/distill/)kd_strong`", TEXT)[1] + "kd"
    follow(folder, line)
    load_model(folder / "models/distill/kd")
    assert not (folder / "models/train").exists()


def test_where_nothing_is_changed_nothing_is_run(pushed, tmp_path):
    folder = clone(pushed, tmp_path / "clone")
    assert stages_run(follow(folder, *BLOCKS["One thing changed, the rest pulled"])) == set()


def test_before_the_pull_the_remote_is_named(pushed, tmp_path):
    folder = clone(pushed, tmp_path / "clone")
    said = run(folder, "python", "-m", "netpress", "doctor").stdout
    assert re.search(r"warn +outputs +nothing but the outputs of 8 stages is missing here: 'dvc pull' .*'store'", said)
    assert "nothing found" in follow(folder, "python -m netpress verify --quick")
    done = run(folder, "python", "-m", "netpress", "run", "check")
    assert done.returncode == 0
    assert "note: nothing but the outputs of 1 stage is missing here: 'dvc pull'" in done.stdout
    follow(folder, "dvc pull")
    assert results(folder) == results(pushed)
    assert list(doctor._unpulled(folder)) == []


def test_doctor_passes_over_a_project_that_dvc_cannot_read(pushed, tmp_path):
    folder = clone(pushed, tmp_path / "clone")
    assert [line.mark for line in doctor._unpulled(folder)] == ["warn"]
    (folder / "dvc.yaml").write_text("stages: [")
    assert list(doctor._unpulled(folder)) == []


def test_without_a_remote_dvc_says_so_and_netpress_does_not_speak_of_one(project, tmp_path):
    folder = clone(project, tmp_path / "clone")
    done = run(folder, "dvc", "pull")
    assert done.returncode != 0
    assert "no default remote set" in done.stdout and "Traceback" not in done.stdout
    assert list(doctor._unpulled(folder)) == []


@pytest.mark.parametrize("title", ["Google Cloud Storage", "SSH", "Credentials"])
def test_lines_that_configure_and_what_is_local_stays_local(pushed, tmp_path, title):
    folder = clone(pushed, tmp_path / "clone")
    if title == "Credentials":
        follow(folder, "dvc remote modify store url s3://bucket/netpress")  # a profile is a key of S3 alone
    else:
        follow(folder, "dvc remote remove store")
    shared, local = folder / ".dvc/config", folder / ".dvc/config.local"
    for line in BLOCKS[title][0].splitlines():
        if line.startswith(INSTALL):
            continue
        before = shared.read_text()
        follow(folder, line)
        assert (shared.read_text() == before) == ("--local" in line)
        assert shlex.split(line)[-1] in (local if "--local" in line else shared).read_text()
    assert "remote = store" in shared.read_text()
    assert ".dvc/config.local" not in run(folder, "git", "status", "--porcelain").stdout


@pytest.mark.exhaustive
def test_an_experiment_goes_to_another_clone(project, tmp_path):
    origin = copy_of(project, tmp_path / "project")
    follow(origin, *BLOCKS["A folder"], {SHARE: str(tmp_path / "store")})
    follow(origin, f"git clone --quiet --bare . {tmp_path / 'bare.git'}\ngit remote add origin {tmp_path / 'bare.git'}")
    follow(origin, "dvc exp run --name half -S prune.rate=0.5")
    push, pull = BLOCKS["Experiments"]
    follow(origin, push)
    other = clone(tmp_path / "bare.git", tmp_path / "clone")
    follow(other, pull)
    assert YAML().load(other / "params.yaml")["prune"]["rate"] == 0.5
    assert results(other) == results(origin)


OUTS = {"changed outs": {"models/a": "not in cache"}}
DEPS = {"changed deps": {"data/prepared": "deleted"}}


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ({}, 0),
        ({"train@a": [DEPS, OUTS]}, 1),
        ({"train@a": [{"changed outs": {"models/a": "deleted"}}], "train@b": [OUTS]}, 2),
        ({"train@a": [{"changed outs": {"models/a": "modified"}}], "train@b": [OUTS]}, 1),
        ({"train@a": [OUTS, {"changed deps": {"params.yaml": {"train.a": "modified"}}}]}, 0),
        ({"train@a": [OUTS, {"changed deps": {"src/a.py": "modified"}}]}, 0),
        ({"train@a": [OUTS, "changed command"]}, 0),
        ({"aggregate": [DEPS]}, 0),
    ],
)
def test_only_stages_that_lack_nothing_but_files_are_to_pull(changed, stages, monkeypatch):
    monkeypatch.setattr("netpress.cli._unpulled.execute", lambda root, command: "store\n")
    found = re.search(r"outputs of (\d+) stage", to_pull(Path(), changed))
    assert (int(found[1]) if found else 0) == stages


def test_the_sizes_are_those_of_the_committed_lock():
    lock = YAML(typ="safe").load(ROOT / "dvc.lock")
    megabytes = {"models": 0.0, "data": 0.0}
    for stage in lock["stages"].values():
        for out in stage["outs"]:
            top = out["path"].split("/")[0]
            if top in megabytes:
                megabytes[top] += out["size"] / 1e6
    told = re.search(r"about (\d+) MB: models about (\d+) MB, prepared data about (\d+) MB", TEXT)
    assert [int(size) for size in told.groups()] == pytest.approx(
        [sum(megabytes.values()), megabytes["models"], megabytes["data"]], rel=0.2
    )
