"""`python -m netpress use`: profiles merged with their comments, hand edits kept."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import planned
from ruamel.yaml import YAML

from netpress.__main__ import main
from netpress.base.errors import ConfigError
from netpress.core.networks import build_model
from netpress.params import profiles, reader
from netpress.params.items import Prune
from netpress.prune.common.plan import share_epochs
from netpress.prune.run import control_rounds

ROOT = Path(__file__).parent.parent
ITEM = "{arch: mobile_student, options: {}, recipe: plain, epochs: 1, init: none}"
DEFAULT = f"""\
# Every knob.

profile: default   # the profile this file was written from

# Each stage trains every seed.
seeds: [0]

data:
  source: fashion-mnist    # which source
  root: data/none          # its folder
  resolution: 28           # pixels
  val_share: 0.1
  test_share: 0.0
  split_seed: 0
  on_overlap: error
  on_bad_image: error

runtime: {{device: cpu, threads: 2, precision: fp32, channels_last: true, compile: false, devices: 1,
  batch_norm: synchronized}}

# How a network is optimized.
recipes:
  plain:
    optimizer: sgd
    lr: 0.1                # peak
    body_lr: 1.0
    bias_lr: 1.0
    momentum: 0.9
    weight_decay: 5.0e-4   # kept as it is written
    schedule: one_cycle
    warmup: 0.3
    batch_size: 128
    min_steps: 0
    label_smoothing: 0.0
    clip_norm: 5.0
    average: 0.0
    resize_from: 1.0
    resize_until: 0.8
    augment: {{flip: true, crop_padding: 2, resized_crop: 0.0, erasing: 0.0, mixup: 0.0}}

# Networks trained from scratch.
train:
  first: {ITEM}  # of the default
  second: {ITEM}

# Taught ones.
distill: {{}}
lowrank: {{}}
factorize: {{}}

# One curve.
prune:
  from: train/first
  rate: 0.3                # share of the remaining channels
  until: 0.05
  until_of: params
  scope: local
  round_to: 1
  method: magnitude
  method_options: {{norm: 2}}
  schedule: geometric
  schedule_options: {{}}
  sparsity: 0.0
  sparse_epochs: 0
  reconstruct: 0
  bn_batches: 0
  recipe: plain
  loss: labels
  loss_options: {{}}
  epochs: 9
  control_rounds: []
  control_recipe: plain
  control_epochs: 1

prune_sweep: {{}}
quantize: {{}}

# Opened on test once.
final:
  - train/first

claims: {{}}
experiments: {{}}
# the end
"""
#: The line of the first model of `final`.
FINAL = DEFAULT.splitlines().index("final:") + 2
TINY = """\
# Tiny: for trying things out.

data:
  resolution: 16           # not taken: the default file explains the key

recipes:
  plain: {lr: 0.05}
  other:                   # a second recipe
    optimizer: adamw
    lr: 0.001
    body_lr: 1.0
    bias_lr: 1.0
    momentum: 0.9
    weight_decay: 0.01
    schedule: cosine
    warmup: 0.0
    batch_size: 64
    min_steps: 0
    label_smoothing: 0.1
    clip_norm: 0.0
    average: 0.0
    resize_from: 1.0
    resize_until: 0.8
    augment: {flip: false, crop_padding: 0, resized_crop: 0.0, erasing: 0.0, mixup: 0.0}

# One tiny network.
train:
  only:                    # of the overlay
    arch: mobile_student
    options: {}
    recipe: other
    epochs: 1
    init: none

prune: {from: train/only}

final: [train/only]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "default.yaml").write_text(DEFAULT)
    (tmp_path / "profiles" / "tiny.yaml").write_text(TINY)
    (tmp_path / "deep" / "below").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "below")
    return tmp_path


def use(*args):
    return main(["use", *args])


def edit(path: Path, old: str, new: str):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_overlay_changes_single_keys_and_replaces_sections_of_variants(project):
    assert use("tiny") == 0
    before, after = (YAML(typ="safe").load(text) for text in (DEFAULT, (project / "params.yaml").read_text()))
    assert after["profile"] == "tiny"
    assert after["data"] == before["data"] | {"resolution": 16}
    assert after["recipes"]["plain"] == before["recipes"]["plain"] | {"lr": 0.05}
    assert after["recipes"]["other"]["schedule"] == "cosine"
    assert list(after["train"]) == ["only"]
    assert after["prune"] == before["prune"] | {"from": "train/only"}
    assert after["final"] == ["train/only"]
    assert list(after) == list(before)


def test_comments_are_kept_and_those_of_a_replaced_section_come_along(project):
    assert use("tiny") == 0
    lines = (project / "params.yaml").read_text().splitlines()
    for kept in (
        "# Every knob.",
        "profile: tiny      # the profile this file was written from",
        "  resolution: 16           # pixels",
        "    lr: 0.05               # peak",
        "    weight_decay: 5.0e-4   # kept as it is written",
        "  other:                   # a second recipe",
        "# One tiny network.",
        "  only:                    # of the overlay",
        "# Taught ones.",
        "# Opened on test once.",
        "# the end",
    ):
        assert lines.count(kept) == 1, kept
    text = "\n".join(lines)
    for gone in ("Tiny: for trying", "of the default", "Networks trained", "not taken"):
        assert gone not in text
    assert "\n\n# One tiny network.\ntrain:" in text
    assert "\n\n\n" not in text


def test_use_default_goes_back_to_the_very_bytes(project):
    assert use("default") == 0
    assert (project / "params.yaml").read_bytes() == DEFAULT.encode()
    assert use("tiny") == 0
    assert use("default") == 0
    assert (project / "params.yaml").read_bytes() == DEFAULT.encode()


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [("  rate: 0.3 ", "  rate: 0.4 ", "prune.rate"), ("# the end", "# my note", "comments")],
)
def test_hand_edits_are_overwritten_only_with_force(project, capsys, old, new, named):
    assert use("tiny") == 0
    edit(project / "params.yaml", old, new)
    edited = (project / "params.yaml").read_text()
    assert use("default") == 1
    message = capsys.readouterr().err
    assert named in message and "--force" in message and "profile tiny" in message
    assert (project / "params.yaml").read_text() == edited
    assert use("default", "--force") == 0
    assert (project / "params.yaml").read_text() == DEFAULT


@pytest.mark.parametrize("text", ["train: [", "profile: gone\n", "profile: 3\n"])
def test_a_file_that_cannot_be_compared_needs_force(project, capsys, text):
    (project / "params.yaml").write_text(text)
    assert use("tiny") == 1
    assert "--force" in capsys.readouterr().err
    assert (project / "params.yaml").read_text() == text
    assert use("tiny", "--force") == 0


def test_unknown_profile_lists_those_that_exist(project, capsys):
    assert use("tinny") == 1
    assert "no profile 'tinny', did you mean 'tiny'?; known: default, tiny" in capsys.readouterr().err
    assert not (project / "params.yaml").exists()


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        ("trian: {}\n", "unknown section 'trian', did you mean 'train'?"),
        ("profile: other\n", "profile is 'other'"),
        ("distill: {x: {arch: a}}\n", "bad.yaml, line 1, column 11: distill.x.epochs: missing"),
        ("runtime: {threads: 010}\n", "bad.yaml, line 1, column 11: runtime.threads = 010: YAML readers differ"),
        ("data: {rot: x}\n", "data.rot: unknown key, did you mean 'root'?"),
        ("train: {}\n", f"default.yaml, line {FINAL}, column 5: final[0]: no model 'train/first'"),
        ("seeds: []\n", "seeds"),
        ("# mine\nruntime: {threads: 0}\n", "bad.yaml, line 2, column 11: runtime.threads = 0"),
        ("recipes:\n  plain: &p {lr: 0.5}\n  other: *p\n", "bad.yaml, line 2, column 10: write the values out"),
    ],
)
def test_a_bad_overlay_leaves_params_as_they_are(project, capsys, overlay, message):
    assert use("default") == 0
    (project / "profiles" / "bad.yaml").write_text(overlay)
    assert use("bad") == 1
    assert message in capsys.readouterr().err
    assert (project / "params.yaml").read_text() == DEFAULT


def test_an_overlay_in_flow_style_is_merged_too(project):
    (project / "profiles" / "flow.yaml").write_text(f"{{train: {{first: {ITEM}}}, seeds: [1, 2]}}\n")
    text = profiles.render(project / "profiles", "flow")
    merged = YAML(typ="safe").load(text)
    assert list(merged["train"]) == ["first"] and merged["seeds"] == [1, 2] and merged["profile"] == "flow"
    assert "# Each stage trains every seed.\nseeds:" in text


def test_a_layout_that_the_merge_cannot_follow_is_refused(project):
    (project / "profiles" / "odd.yaml").write_text("data: {root: 'x\nseeds: y'}\n")
    with pytest.raises(ConfigError, match="cannot be merged"):
        profiles.render(project / "profiles", "odd")


def test_method_options_are_replaced_with_their_method(project):
    edit(project / "profiles" / "default.yaml", "{norm: 2}", "{a: 1}")
    (project / "profiles" / "other.yaml").write_text("prune: {method: x, method_options: {b: 2}}\n")
    text = profiles.render(project / "profiles", "other")
    assert YAML(typ="safe").load(text)["prune"]["method_options"] == {"b": 2}


@pytest.mark.parametrize("name", profiles.names(ROOT / "profiles"))
def test_every_profile_of_the_project_is_valid(project, name):
    shutil.rmtree(project / "profiles")
    shutil.copytree(ROOT / "profiles", project / "profiles")
    assert use(name) == 0
    assert reader.read(project / "params.yaml")["profile"] == name
    assert "&" not in "".join(line.split("#")[0] for line in (project / "params.yaml").read_text().splitlines())
    assert use("default") == 0


def test_methods_are_compared_on_the_models_of_the_default_profile(project):
    """But for the epochs: what docs/results/methods.md says was measured with SGD, which takes more of them."""
    shutil.copytree(ROOT / "profiles", project / "profiles", dirs_exist_ok=True)
    assert use("default") == 0
    default = reader.load(project / "params.yaml").items()
    assert use("methods") == 0
    methods = reader.load(project / "params.yaml").items()
    shared = {"train/resnet18_strong", "train/student_alone", "train/large_cnn", "distill/kd_strong"}
    shared |= {"factorize/spatial_budget", "quantize/student_gptq4"}
    assert methods.keys() & default.keys() == shared | {"prune/main"}
    assert [n for n in shared if methods[n].model_copy(update={"epochs": default[n].epochs}) != default[n]] == []
    replaced = {"control_rounds": [], "scope": "local", "method": "magnitude", "method_options": {"norm": 2}}
    replaced |= {"epochs": methods["prune/main"].epochs}
    assert methods["prune/main"] == default["prune/main"].model_copy(update=replaced)


@pytest.mark.parametrize("name", profiles.names(ROOT / "profiles"))
def test_every_curve_of_a_profile_has_enough_epochs_for_its_rounds(project, name):
    shutil.copytree(ROOT / "profiles", project / "profiles", dirs_exist_ok=True)
    assert use(name) == 0
    items = reader.load(project / "params.yaml").items()
    curves = {model_id: item for model_id, item in items.items() if isinstance(item, Prune)}
    assert "prune/main" in curves
    for item in curves.values():
        design = items[item.parent]
        while not hasattr(design, "arch"):  # of what is factorized or pruned first
            design = items[design.parent]
        network = build_model(design.arch, 10, 3, **design.options)
        plan = planned(network, torch.zeros(2, 3, 32, 32), item.rate, item.until, item.round_to)
        assert all(share_epochs(item.epochs, len(plan)))
        assert control_rounds(item, len(plan)) <= set(range(1, len(plan) + 1))


def test_outside_a_project(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert use("default") == 1
    assert "no dvc.yaml" in capsys.readouterr().err
