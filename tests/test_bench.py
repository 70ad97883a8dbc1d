"""What a stage stands on: device, threads and a description of them."""

import json
import os
import platform

import pytest
import torch
from conftest import RECIPE, RUNTIME
from hypothesis import given
from hypothesis import strategies as st
from little import CURVE, DESIGN, copy_of, forget, write_idx
from ruamel.yaml import YAML

from netpress.base.errors import ConfigError
from netpress.core.batches import batches_per_epoch, enough_epochs, sized
from netpress.core.dataset import load_manifest
from netpress.core.fitting import fitted
from netpress.core.runtime import BF16, environment_of, set_up
from netpress.core.seeds import chance
from netpress.params.items import Prune, Train, VariantConfig
from netpress.params.recipes import Recipe
from netpress.params.schema import AUTO, parse


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_error_and_auto_is_not():
    with pytest.raises(ConfigError, match=r"runtime\.device = 'cuda': PyTorch finds no CUDA device"):
        set_up(RUNTIME.model_copy(update={"device": "cuda"}))
    assert set_up(RUNTIME.model_copy(update={"device": "auto"})).type == "cpu"
    assert torch.get_num_threads() == RUNTIME.threads
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_algorithms_are_deterministic_and_the_compilers_mode_is_set_only_where_it_compiles(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *args, **kwargs: asked.append((args, kwargs)))
    set_up(RUNTIME)
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not asked
    set_up(RUNTIME.model_copy(update={"compile": True}))
    assert asked == [((True,), {"warn_only": True})]


def with_cpu(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)


@pytest.mark.parametrize("precision", ["bf16", "mixed"])
@pytest.mark.parametrize(
    "lacking",
    [{"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, {"bf16": False}],
)
def test_bf16_is_refused_where_the_processor_cannot_compute_in_it(monkeypatch, precision, lacking):
    with_cpu(monkeypatch, **lacking)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = rf"runtime\.precision = '{precision}': this processor has no instructions for bf16.*; set it to fp32"
    for device in ("cpu", "auto"):
        with pytest.raises(ConfigError, match=message) as caught:
            set_up(RUNTIME.model_copy(update={"precision": precision, "device": device}))
        assert [key for key, _ in caught.value.faults] == ["runtime.precision"]
    set_up(RUNTIME)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which is set now, and taken back after the test
    assert set_up(RUNTIME.model_copy(update={"precision": precision, "device": "auto"})).type == "cuda"


@pytest.mark.parametrize(
    "having",
    [
        {"avx512_bf16": True, "amx_bf16": False},
        {"avx512_bf16": False, "amx_bf16": True},
        {"bf16": True, "sve": False},
        {"bf16": False, "sve_bf16": True},
        {"architecture": "another"},
    ],
)
def test_bf16_is_left_to_processors_that_have_it_or_of_which_nothing_is_known(monkeypatch, having):
    with_cpu(monkeypatch, **having)
    assert set_up(RUNTIME.model_copy(update={"precision": "bf16"})).type == "cpu"


def test_pytorch_tells_of_this_processor_what_the_refusal_asks():
    """The names are PyTorch's own; a newer one that renames them must not pass as a processor that is unknown."""
    known = torch.cpu.get_capabilities()
    if known["architecture"] in ("x86_64", "arm64", "aarch64"):
        assert set(known) & set(BF16)


def test_the_environment_says_where_the_arithmetic_was_done_and_nothing_of_the_host():
    here = environment_of(RUNTIME, torch.device("cpu"))
    assert here["device"] == "cpu"
    assert here["threads"] == "1"
    assert here["torch"] == torch.__version__.split("+")[0]
    assert platform.node() not in here.values()
    assert not [value for value in here.values() if value.startswith("/")]


def test_auto_is_a_batch_size_and_other_words_are_refused():
    raw = RECIPE.model_dump()
    assert parse(Recipe, raw | {"batch_size": "auto"}, "recipes.plain").batch_size == AUTO
    for value in ("Auto", 0, 1, None):
        with pytest.raises(ConfigError, match=r"recipes\.plain\.batch_size = .*: must be a whole number .*or auto"):
            parse(Recipe, raw | {"batch_size": value}, "recipes.plain")


@pytest.mark.parametrize(("images", "size"), [(1, 16), (397, 16), (1023, 16), (1024, 32), (4095, 64), (50_000, 128)])
def test_auto_gives_an_epoch_32_steps_where_it_can(images, size):
    recipe = RECIPE.model_copy(update={"batch_size": AUTO})
    assert sized(recipe, images).batch_size == size
    assert sized(RECIPE, images) == RECIPE


@given(images=st.integers(1, 5000), epochs=st.integers(1, 50), steps=st.integers(0, 2000), batch=st.integers(2, 256))
def test_epochs_are_added_up_to_the_least_steps_and_no_further(images, epochs, steps, batch):
    recipe = RECIPE.model_copy(update={"batch_size": batch, "min_steps": steps})
    found = enough_epochs(recipe, epochs, images)
    assert found >= epochs
    assert found * batches_per_epoch(images, batch) >= steps
    assert found == epochs or (found - 1) * batches_per_epoch(images, batch) < steps


def test_a_variants_recipes_and_epochs_are_fitted_to_the_images():
    auto = RECIPE.model_copy(update={"batch_size": AUTO, "min_steps": 100})
    shared = {"seeds": [0], "runtime": RUNTIME}
    train = VariantConfig(
        item=Train.model_validate(DESIGN | {"init": "none"}), recipe=auto, control_recipe=None, **shared
    )
    found = fitted(train, 160)  # 10 steps an epoch
    assert (found.recipe.batch_size, found.item.epochs) == (16, 10)
    item = Prune.model_validate({"from": "train/x"} | CURVE)  # 4 and 4 epochs
    curve = VariantConfig(item=item, recipe=RECIPE, control_recipe=auto, **shared)
    found = fitted(curve, 160)
    assert (found.item.epochs, found.item.control_epochs, found.recipe) == (4, 10, RECIPE)
    computed = VariantConfig(
        item=item.model_copy(update={"control_epochs": AUTO}), recipe=RECIPE, control_recipe=auto, **shared
    )
    assert fitted(computed, 160).item.control_epochs == AUTO


OTHER = "other images, or another split of them"


@pytest.mark.parametrize(
    ("stage", "variant", "changes", "how"),
    [
        ("distill", "kd", {"resolution": 32}, "28x28 pixels and not 32x32"),
        ("factorize", "tucker", {"split_seed": 1}, OTHER),
        ("prune", "main", {"val_share": 0.5}, OTHER),
        ("test", "train/teacher", {"resolution": 32}, "28x28 pixels and not 32x32"),
    ],
)
def test_a_parent_of_other_data_is_refused_by_name(server, little_run, tmp_path, stage, variant, changes, how):
    data = YAML(typ="safe").load(little_run / "params.yaml")["data"]
    folder = copy_of(little_run, tmp_path / "project", data=data | changes, final=["train/teacher"])
    if stage != "test":
        forget(folder, f"{stage}/{variant}")
    server.finish(folder, "prepare")
    ended = server.run(folder, stage, variant)
    assert ended["code"] == 1
    says = f"models/train/teacher (seed 0) was made with other data than those in data/prepared: {how}; run 'dvc repro'"
    assert says in ended["output"]
    assert not (folder / f"metrics/{stage}/{variant}.json").exists()


def test_a_parent_of_other_pictures_of_the_same_kind_is_refused(server, little_run, tmp_path):
    folder = copy_of(little_run, tmp_path / "project")
    write_idx(folder / "data/own", "train", 600, seed=7)
    server.finish(folder, "prepare")
    assert "other images, or another split" in server.run(folder, "distill", "kd")["output"]


def test_the_same_data_prepared_again_are_the_same(server, little_run, tmp_path):
    folder = copy_of(little_run, tmp_path / "project")
    forget(folder, "distill/kd")
    server.finish(folder, "prepare")
    spec = json.loads((folder / "models/train/teacher/seed_0/spec.json").read_text())
    assert spec["data_sha256"] == load_manifest(folder / "data/prepared").data_sha256
    assert "epoch" in server.finish(folder, "distill", "kd")


def test_few_steps_and_chance_are_said(server, little_run, tmp_path):
    folder = copy_of(little_run, tmp_path / "project")
    file, yaml = folder / "params.yaml", YAML()
    params = yaml.load(file)
    params["train"]["teacher"]["epochs"] = 1
    params["recipes"]["plain"]["lr"] = 1e-9
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    output = server.finish(folder, "train", "teacher")
    assert "train/teacher  warning: 4 steps of training in all" in output
    assert "lower recipes.plain.batch_size, or set recipes.plain.min_steps" in output
    assert "train/teacher  warning: no better than naming one class for every image" in output
    params["recipes"]["plain"] |= {"lr": 0.1, "batch_size": "auto", "min_steps": 200}
    with file.open("w", encoding="utf-8") as stream:
        yaml.dump(params, stream)
    output = server.finish(folder, "train", "teacher")
    assert "warning" not in output
    assert "epoch 7/7" in output  # 480 images are 30 batches of 16


def test_chance_is_the_largest_class_and_what_its_sample_allows(little_run):
    manifest = load_manifest(little_run / "data/prepared")
    assert manifest.counts["val"] == [12] * 10
    assert chance(manifest) == pytest.approx(0.1 + 2 * (0.1 * 0.9 / 120) ** 0.5)
    uneven = manifest.model_copy(update={"counts": manifest.counts | {"val": [30, 10]}})
    assert chance(uneven) == pytest.approx(0.75 + 2 * (0.75 * 0.25 / 40) ** 0.5)
