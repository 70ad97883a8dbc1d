"""params.yaml: every fault is named with key, value, what is allowed and the nearest valid word."""

from copy import deepcopy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from netpress.base.errors import ConfigError
from netpress.graph.checks import load_checked
from netpress.params import reader

ROOT = Path(__file__).parent.parent
PROFILES = sorted((ROOT / "profiles").glob("*.yaml"))


@pytest.fixture
def raw():
    return YAML(typ="safe").load((ROOT / "profiles" / "default.yaml").read_text(encoding="utf-8"))


def write(tmp_path, raw):
    path = tmp_path / "params.yaml"
    with path.open("w", encoding="utf-8") as stream:
        YAML().dump(raw, stream)
    return path


def put(raw, key, value):
    *parents, last = key.split(".")
    place = raw
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value


def test_the_default_profile_is_valid_and_names_its_models(tmp_path, raw):
    params = load_checked(write(tmp_path, raw))
    assert {"train/resnet18_strong", "prune/main", "quantize/student_int8"} <= params.items().keys()
    assert len(params.items()) >= 16


FAULTS = [
    ("train.large_cnn.epocs", 3, "train.large_cnn.epocs: unknown key, did you mean 'epochs'?"),
    ("train.large_cnn.epochs", 0, "train.large_cnn.epochs = 0: brings a trained network in; name its weights"),
    ("train.large_cnn.epochs", 2.5, "train.large_cnn.epochs = 2.5: must be a whole number at least 0"),
    ("train.large_cnn.epochs", "many", "train.large_cnn.epochs = 'many': must be a whole number"),
    ("train.large_cnn.epochs", True, "train.large_cnn.epochs = True: must be a whole number"),
    ("train.large_cnn.epochs", None, "train.large_cnn.epochs: missing; add it, a whole number at least 0"),
    ("train.large_cnn.arch", "large_cn", "unknown architecture 'large_cn', did you mean 'large_cnn'"),
    ("train.large_cnn.options", {"width": -1.0}, "train.large_cnn.options.width = -1.0: must be a number above 0"),
    ("train.large_cnn.options", {"widht": 1.0}, "train.large_cnn.options.widht: unknown key, did you mean 'width'"),
    ("train.large_cnn.recipe", "plian", "train.large_cnn.recipe: no recipe 'plian', did you mean 'plain'"),
    ("recipes.plain.lr", "fast", "recipes.plain.lr = 'fast': must be a number above 0 and at most 10"),
    ("recipes.plain.lr", float("nan"), "recipes.plain.lr = nan: must be a number above 0"),
    ("recipes.plain.optimizer", "sdg", "recipes.plain.optimizer = 'sdg': must be one of sgd, adam, adamw, muon"),
    ("recipes.plain.augment.mixup", -0.1, "recipes.plain.augment.mixup = -0.1: must be a number at least 0"),
    ("recipes.plain.augment.flip", "alternate", "must be one of true, false, alternating (mirror half of the images"),
    ("recipes.plain.augment.flip", "alternate", "did you mean 'alternating'?"),
    ("recipes.plain.augment.flip", "yes", "; write true, without quotes"),
    ("recipes.plain.augment.flip", 1, "recipes.plain.augment.flip = 1: a number; write true, false or alternating"),
    ("recipes.plain.bias_lr", 0, "recipes.plain.bias_lr = 0: must be a number above 0 and at most 1000"),
    ("recipes.plain.bias_lr", 1001.0, "recipes.plain.bias_lr = 1001.0: must be a number above 0 and at most 1000"),
    ("recipes.plain.resize_from", 0, "recipes.plain.resize_from = 0: must be a number above 0 and at most 1"),
    ("recipes.plain.resize_from", 1.5, "recipes.plain.resize_from = 1.5: must be a number above 0 and at most 1"),
    ("recipes.plain.resize_until", 1.0, "recipes.plain.resize_until = 1.0: must be a number at least 0 and below 1"),
    ("prune.rate", 1.0, "prune.rate = 1.0: must be a number above 0 and below 1"),
    ("prune.rate", 0, "prune.rate = 0: must be a number above 0"),
    ("prune.from", "train/resnet18_strnog", "prune.from: no model 'train/resnet18_strnog', did you mean"),
    ("prune.from", "resnet18_strong", "prune.from = 'resnet18_strong': must be text (a model id"),
    ("prune.method", "magnitud", "prune.method: unknown pruning score 'magnitud', did you mean 'magnitude'"),
    ("prune.method_options", {"norm": 3}, "prune.method_options.norm: unknown key; allowed: none"),
    ("prune.control_rounds", [0], "prune.control_rounds.0 = 0: must be a whole number at least 1 and at most 9999 (or"),
    ("prune.control_rounds", ["first"], "prune.control_rounds.0 = 'first': must be a whole number at least 1 and at"),
    ("prune_sweep.main", None, "main"),
    ("quantize.student_int8.from", "quantize/resnet18_fp16", "'quantize/resnet18_fp16' is quantized"),
    ("quantize.student_int8.from", "train/large_cnn/round_2", "names a round, but only pruning has rounds"),
    ("quantize.student_int8.method_options", {}, "quantize.student_int8.method_options.calibration_images: missing"),
    ("distill.kd_weak.teacher", "train/nobody", "distill.kd_weak.teacher: no model 'train/nobody'; known: train/"),
    ("distill.kd_weak.method", "hinton", "unknown distillation method 'hinton'; known: "),
    ("distill.kd_weak.teacher", "train/plain_cnn", "is not smaller than its teacher train/plain_cnn"),
    ("distill.Kd", None, "distill.Kd"),
    ("data.source", "fashion-mnits", "unknown data source 'fashion-mnits', did you mean 'fashion-mnist'"),
    ("data.val_share", 1.5, "data.val_share = 1.5: must be a number above 0 and below 1"),
    ("data.resolution", 8, "data.resolution = 8: must be a whole number at least 16"),
    ("seeds", [], "seeds = []: must be a list with at least 1 entries"),
    ("seeds", [1, 1], "seeds = [1, 1]: each entry may stand once only"),
    ("seeds", [-1], "seeds.0 = -1: must be"),
    (
        "train.large_cnn.seeds",
        [],
        "train.large_cnn.seeds = []: must be a list or nothing with at least 1 entries and at",
    ),
    ("train.large_cnn.seeds", [-1], "train.large_cnn.seeds.0 = -1: must be a whole number at least 0"),
    ("train.resnet18_weak.class_names", ["a", "b", "a"], "each name may stand once only"),
    ("train.resnet18_weak.class_names", ["a", "b\r"], "'b\\r' holds characters that cannot be printed"),
    ("final", ["train/nobody"], "final[0]: no model 'train/nobody'"),
    ("final", ["prune/main", "prune/main"], "final = ['prune/main', 'prune/main']: each entry may stand once only"),
    ("claims.int8.equal", ["prune/main", "prune/main/round_2/control"], "add 2 to prune.control_rounds"),
    (
        "claims.int8.equal",
        ["prune/main", "prune_sweep/resnet18_rate50/control"],
        "it has none; add last to prune_sweep.r",
    ),
    ("claims.int8.equal", ["prune/main", "train/plain_cnn/control"], "only pruned models have controls"),
    ("claims.int8.equal", ["prune/main", "prune/man/control"], "claims.int8.equal.1: no model 'prune/man', did you"),
    (
        "claims.int8.equal",
        ["prune/main", "prune/main/cntrol"],
        "must be text (a model id such as train/resnet18_strong",
    ),
    ("trian", {}, "trian: unknown key, did you mean 'train'"),
    ("runtime.threads", 0, "runtime.threads = 0: must be a whole number at least 1"),
    ("runtime.device", "gpu", "runtime.device = 'gpu': must be one of auto, cpu, cuda"),
]


@pytest.mark.parametrize(("key", "value", "message"), FAULTS, ids=[f"{k}={v}" for k, v, _ in FAULTS])
def test_faults_are_named(tmp_path, raw, key, value, message):
    if key in ("prune_sweep.main", "distill.Kd"):
        section, name = key.split(".")
        raw[section][name] = deepcopy(next(iter(raw[section].values())))
    else:
        put(raw, key, value)
    with pytest.raises(ConfigError) as error:
        load_checked(write(tmp_path, raw))
    assert message in str(error.value)


def test_several_faults_are_named_at_once(tmp_path, raw):
    put(raw, "train.large_cnn.epochs", 0)
    put(raw, "prune.rate", 2.0)
    put(raw, "distill.kd_weak.allow_smaller", True)
    with pytest.raises(ConfigError) as error:
        load_checked(write(tmp_path, raw))
    assert len(str(error.value).splitlines()) == 3


def test_a_larger_student_is_accepted_where_the_variant_says_so(tmp_path, raw):
    put(raw, "distill.kd_weak.teacher", "train/plain_cnn")
    put(raw, "distill.kd_weak.allow_larger", True)
    load_checked(write(tmp_path, raw))


def test_parents_in_a_circle_are_refused(tmp_path, raw):
    put(raw, "distill.kd_weak.teacher", "distill/kd_strong")
    put(raw, "distill.kd_strong.teacher", "distill/kd_weak")
    with pytest.raises(ConfigError, match="its parents form a circle"):
        load_checked(write(tmp_path, raw))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seeds: [0]\nseeds: [1]\n", "params.yaml, line 2, column 1: found duplicate key"),
        ("seeds: [0\ndata: {}\n", "params.yaml, line 2"),
        ("seeds:\n\t- 0\n", "params.yaml, line 2, column 1"),
        ("- 1\n- 2\n", "expected sections of keys and values, found list"),
        ("", "expected sections of keys and values, found NoneType"),
    ],
)
def test_text_that_is_not_our_yaml_is_refused_with_its_place(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        reader.load(tmp_path / "params.yaml")
    assert message in str(error.value)


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    from dvc.utils.serialize import load_yaml

    text = "a: 1e-3\nb: no\nc: 1e3\nd: 5.0e-4\ne: +.5\nf: 0\ng: -7\nh: yes\ni: 'on'\nj: ~\nk: TRUE\nl: .5\nm: '010'\n"
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert reader.read(path) == load_yaml(str(path))
    assert reader.read(path)["a"] == 0.001


def test_a_missing_file_names_the_way_out(tmp_path):
    with pytest.raises(ConfigError, match="use default"):
        reader.load(tmp_path / "params.yaml")


def test_a_stage_reads_its_own_part_only(tmp_path, raw):
    put(raw, "train.large_cnn.epochs", 0)
    path = write(tmp_path, raw)
    found = reader.for_variant(path, "distill", "kd_strong")
    assert found.item.teacher == "train/resnet18_strong"
    assert found.recipe.lr == raw["recipes"]["quick"]["lr"]
    with pytest.raises(ConfigError, match=r"train\.large_cnn\.epochs"):
        reader.for_variant(path, "train", "large_cnn")
    with pytest.raises(ConfigError, match="train: no variant 'large_cn', did you mean 'large_cnn'"):
        reader.for_variant(path, "train", "large_cn")
    with pytest.raises(ConfigError, match="no section 'distil'"):
        reader.for_variant(path, "distil", "kd_strong")


def test_prune_is_the_variant_main(tmp_path, raw):
    path = write(tmp_path, raw)
    assert reader.for_variant(path, "prune", "main").item.rate == raw["prune"]["rate"]
    assert reader.for_variant(path, "quantize", "resnet18_fp16").control_recipe is None
