"""What is written stays inside the project: no name in a file leads out of it."""

from pathlib import Path

import pytest
from project import ROOT
from ruamel.yaml import YAML

from netpress.base.errors import ArtifactError, ConfigError
from netpress.base.project import MODEL_STAGES
from netpress.core import artifacts
from netpress.graph.checks import load_checked
from netpress.params import profiles, reader

#: Names that would lead out of a folder, or into another one, if a path were made of them.
OUTSIDE = ["../x", "..", ".", "/tmp/x", "a/../../x", "a\\..\\x", "a\0b", "a/b", "~", "a\n", "C:x", "%2e%2e", ""]


def edited(tmp_path, change):
    """Write params.yaml changed by `change(params)`."""
    yaml = YAML(typ="safe")
    params = yaml.load((ROOT / "profiles/default.yaml").read_text(encoding="utf-8"))
    change(params)
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    return path


def first(section):
    return next(iter(section.values()))


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("section", [s for s in MODEL_STAGES if s != "prune"])
def test_no_variant_is_named_like_a_path(tmp_path, section, name):
    path = edited(tmp_path, lambda params: params[section].update({name: first(params[section])}))
    with pytest.raises(ConfigError):
        load_checked(path)


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_parent_no_final_and_no_profile_is_named_like_a_path(tmp_path, name):
    for change in (
        lambda params: params["distill"]["kd_strong"].update(teacher=f"train/{name}"),
        lambda params: params["quantize"]["resnet18_int8"].update({"from": f"prune/main/round_{name}"}),
        lambda params: params.update(final=[f"train/{name}"]),
        lambda params: params.update(profile=name),
    ):
        with pytest.raises(ConfigError):
            load_checked(edited(tmp_path, change))


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_method_and_no_architecture_is_loaded_by_a_path(tmp_path, name):
    for change in (
        lambda params: params["train"]["large_cnn"].update(arch=name),
        lambda params: params["distill"]["kd_strong"].update(method=name),
        lambda params: params["quantize"]["resnet18_int8"].update(method=name),
        lambda params: params["data"].update(source=name),
    ):
        with pytest.raises(ConfigError):
            load_checked(edited(tmp_path, change))


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "_blocks", "__init__", "default.yaml"])
def test_no_profile_is_read_from_elsewhere(name):
    with pytest.raises(ConfigError, match="no profile"):
        profiles.render(ROOT / "profiles", name)


@pytest.mark.parametrize("name", ["../../x", "../x", "large_cnn/../../x"])
def test_a_stage_started_by_hand_takes_no_variant_that_is_a_path(tmp_path, name):
    path = edited(tmp_path, lambda params: None)
    with pytest.raises(ConfigError):
        reader.for_variant(path, "train", name)


def test_a_spec_that_names_a_file_elsewhere_reads_it_never_into_a_model(tmp_path):
    """The hash of a file is in the spec itself, so a stranger's spec can name any file; its text is not shown."""
    secret = tmp_path / "secret"
    secret.write_text("of this user alone")
    spec = artifacts.Spec.model_construct(sha256={"../secret": "0" * 64}, quantized=False)
    with pytest.raises(ArtifactError) as error:
        artifacts.read_file(tmp_path / "model", spec, "../secret")
    assert "of this user" not in str(error.value)


def test_names_that_become_files_are_those_of_the_default_profile():
    """The tests above start from a file that is valid."""
    assert load_checked(Path(ROOT / "profiles/default.yaml")).items()
