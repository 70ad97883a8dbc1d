"""How params.yaml is read: which forms are refused, with what place and what remedy."""

import re
import time
from pathlib import Path

import pytest

from netpress.base.errors import ConfigError
from netpress.graph.checks import load_checked
from netpress.params import reader
from netpress.params.document import parse_document

ROOT = Path(__file__).parent.parent
DEFAULT = (ROOT / "profiles" / "default.yaml").read_text(encoding="utf-8")
#: Of train.large_cnn, and what follows there alone.
EPOCHS = "    epochs: 5\n    init: none\n    seeds"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.yaml"


def write(path, old, new):
    """Write the default profile with its first `old` replaced."""
    assert old in DEFAULT
    path.write_text(DEFAULT.replace(old, new, 1), encoding="utf-8")


def line_of(text):
    return DEFAULT[: DEFAULT.index(text)].count("\n") + 1


def fault(path, reader=load_checked):
    with pytest.raises(ConfigError) as error:
        reader(path)
    return str(error.value)


REFUSED = [
    (
        b"a: 1\nb: &x 2\n",
        "line 2, column 4: write the values out instead of an anchor or a tag",
    ),
    (b"a: 1\nb: *x\n", "line 2, column 4: found undefined alias 'x'"),
    (b"a: &x [1]\nb: *x\n", "line 1, column 4: write the values out instead of an anchor or a tag"),
    (b"a: 1\n<<: {b: 1}\n", "line 2, column 1: found '<<' as a key"),
    (b"a: !!int 1\n", "line 1, column 4: write the values out instead of an anchor or a tag"),
    (b"a: !!python/object:os.system x\n", "line 1, column 4: write the values out instead of an anchor or a tag"),
    (b"a: &x 1\nb: &x 2\n", "line 1, column 4: write the values out instead of an anchor or a tag"),
    (b"!a b: 1\n", "line 1, column 1: write the values out instead of an anchor or a tag"),
    (b"a: [1, b:c]\n", "line 1, column 8: not every reader of YAML takes this inside brackets for text; quote 'b:c'"),
    (b"a: {b: C:/x}\n", "line 1, column 8: not every reader of YAML takes this inside brackets"),
    (b"a: [1, b?]\n", "line 1, column 8: not every reader of YAML takes this inside brackets"),
    (b"a: [1, {b:c: 2}]\n", "line 1, column 9: not every reader of YAML takes this inside brackets"),
    (b"a: {b: 1, c: 2, b: 3}\n", "line 1, column 17: found duplicate key 'b', which stands in line 1 already"),
    (b"a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
    (b"%YAML 1.1\n---\na: 1\n", "line 1, column 1: a directive (% at the margin) is not allowed"),
    (b"a:\n  b: 1\n\tc: 2\n", "line 3, column 1: found character '\\t' that cannot start any token"),
    (b"1: 2\n", "line 1, column 1: found '1' as a key; keys are names"),
    (b"1:30: 2\n", "line 1, column 1: found '1:30' as a key"),
    (b"a: {true: 2}\n", "line 1, column 5: found 'true' as a key"),
    (b"~: 2\n", "line 1, column 1: found '~' as a key"),
    (b"'': 2\n", "line 1, column 1: found '' as a key"),
    (b"? [a]\n: 2\n", "line 1, column 3: found a sequence as a key"),
    (b'"a\\nb": 2\n', "line 1, column 1: found 'a\\nb' as a key"),
    (b"a" * 201 + b": 2\n", "line 1, column 1: found 'aaa"),
    (b"a: " + b"[" * 5000 + b"]" * 5000, "cannot be read as YAML (maximum recursion depth exceeded"),
    (b"a: 1\0\n", "line 1, column 5: character U+0000 is not allowed here"),
    (b"a: 1\rb: 2\n", "line 1, column 5: character U+000D is not allowed here"),
    ("# ok\na: \u2028\n".encode(), "line 2, column 4: character U+2028 is not allowed here"),
    (b"a: 1\nb: \xff\n", "line 2, column 4: not UTF-8 (byte 0xff); save the file as UTF-8"),
    (b"\xef\xbb\xbfa: 1\n", "line 1, column 1: character U+FEFF is not allowed here"),
    ("a: 1\n".encode("utf-16"), "line 1, column 1: not UTF-8 (byte 0xff)"),
    (b'a: 1\nb: "\\UFFFFFFFF"\n', "cannot be read as YAML"),
    (b"a: [1\n", "check indentation, quotes and brackets"),
    (b"# nothing\n", "expected sections of keys and values, found NoneType"),
    (b"[1]\n", "expected sections of keys and values, found list"),
    (b"#" * 65_536 + b"\n", "larger than 65,536 bytes"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_file_that_readers_may_take_differently_is_refused(path, content, message):
    path.write_bytes(content)
    said = fault(path, reader.read)
    assert said.startswith("params.yaml") and message in said
    assert len(said.splitlines()) == 1


DOUBTFUL = [
    *(("010", "decimal"), ("-007", "decimal"), ("0o10", "decimal"), ("0x1F", "decimal"), ("0b1", "decimal")),
    *(("1_000", "decimal"), ("1_0.5", "decimal"), ("012.5", "decimal"), ("1:30", "base 60"), ("1:30.5", "base 60")),
    *(("2020-01-01", "a date"), ("=", "a sign"), ("1e400", "readers differ")),
    *(("1" * 30, "up to 18"), ('"a\\nb"', "must be one line"), ("x" * 5000, "at most 4,096 characters")),
]


@pytest.mark.parametrize(("text", "message"), DOUBTFUL, ids=[text[:12] for text, _ in DOUBTFUL])
def test_a_value_that_readers_may_take_differently_is_refused_where_it_is_read(path, text, message):
    """With the allowed range where another is meant, and without stopping the stages that do not read it."""
    write(path, EPOCHS, EPOCHS.replace("5", text))
    said = fault(path)
    place = f"params.yaml, line {line_of(EPOCHS)}, column 5: train.large_cnn.epochs = "
    assert said.startswith(place) and message in said and len(said.splitlines()) == 1
    assert "must be a whole number at least 0 and at most 100000 (passes over the training images; 0 for" in said
    assert fault(path, lambda p: reader.for_variant(p, "train", "large_cnn")) == said
    assert reader.for_variant(path, "train", "plain_cnn").item.epochs == 3
    (path.parent / "data/fashion-mnist").mkdir(parents=True)
    (path.parent / "data/fashion-mnist/images.gz").touch()
    assert reader.for_data(path).resolution == 28


@pytest.mark.parametrize("text", [".nan", ".inf", "-.INF"])
def test_no_number_is_refused_with_the_range(path, text):
    write(path, "lr: 0.1 ", f"lr: {text} ")
    assert "recipes.plain.lr = " in fault(path) and "must be a number above 0 and at most 10" in fault(path)


@pytest.mark.parametrize(("word", "meant"), [("yes", "true"), ("On", "true"), ("no", "false"), ("off", "false")])
def test_words_for_true_and_false_are_refused_where_one_of_them_is_meant(path, word, meant):
    write(path, "compile: false", f"compile: {word}")
    assert f"runtime.compile = '{word}': must be true or false; write {meant}, without quotes" in fault(path)


@pytest.mark.parametrize(("written", "number"), [("1e-3", 0.001), ("2E-2", 0.02), (".5", 0.5), ("+1.", 1.0), ("1", 1)])
def test_a_number_that_dvc_reads_as_a_person_means_it_is_accepted(path, written, number):
    write(path, "lr: 0.1 ", f"lr: {written} ")
    assert load_checked(path).recipes["plain"].lr == number


def test_line_ends_of_windows_are_accepted(path):
    path.write_bytes(DEFAULT.replace("\n", "\r\n").encode())
    from_windows = load_checked(path)
    path.write_bytes(DEFAULT.encode())
    assert from_windows == load_checked(path)


def test_every_key_has_its_line_and_column():
    document = parse_document(DEFAULT.encode(), "params.yaml")
    lines = DEFAULT.splitlines()
    assert len(document.content.places) > 200
    for key, (line, column) in document.content.places.items():
        text = lines[line - 1][column - 1 :]
        assert text.startswith(key.rpartition(".")[2]) or re.match(r"\d+$", key.rpartition(".")[2]), key
    assert document.place("final.1") == (line_of("- distill/kd_strong"), 5)
    assert document.place("train.large_cnn.nothing") == document.place("train.large_cnn")
    assert document.place("nothing") == (0, 0)


def test_all_faults_are_named_in_the_order_of_the_file(path):
    """Also those of cross-references, and none that only follows from another."""
    text = DEFAULT.replace("teacher: train/large_cnn", "teacher: train/large_cn").replace(
        EPOCHS, EPOCHS.replace("5", "0")
    )
    text = text.replace("rate: 0.3 ", "rate: 010 ", 1).replace("recipe: quick", "recipe: quikc", 1)
    text = text.replace("method: spatial_svd", "method: spatial", 1).replace("lr: 0.05", "lr: 20")
    path.write_text(text, encoding="utf-8")
    said = fault(path).splitlines()
    keys = ["recipes.finetune.lr", "train.resnet18_strong.recipe", "train.large_cnn.epochs", "distill.plain_kd.teacher"]
    keys += ["factorize.spatial_budget.method", "prune.rate"]
    assert [re.match(r"params\.yaml, line \d+, column \d+: ([\w.]+)", line)[1] for line in said] == keys
    numbers = [int(re.search(r"line (\d+)", line)[1]) for line in said]
    assert numbers == sorted(numbers)


def test_a_missing_section_is_named_once(path):
    write(path, "\ntrain:\n", "\ntrian:\n")
    said = fault(path).splitlines()
    assert len(said) == 2
    assert said[0].startswith("params.yaml: train: missing; add it, a section of keys and values")
    line = line_of("train:\n")
    assert f"line {line}, column 1: trian: unknown key, did you mean 'train'?" in said[1]


def test_a_missing_key_has_the_place_of_its_section(path):
    write(path, EPOCHS, EPOCHS.partition("\n")[2])
    where = f"params.yaml, line {line_of('  large_cnn:')}, column 3: train.large_cnn.epochs: missing; add it"
    assert fault(path).startswith(where)
    assert fault(path, lambda p: reader.for_variant(p, "train", "large_cnn")).startswith(where)


@pytest.mark.parametrize("root", ['""', "' photos'", "data", ".", "..", "models/x", "data/prepared", "./data/"])
def test_a_data_folder_that_cannot_be_one_is_refused(path, root):
    write(path, "root: data/fashion-mnist", f"root: {root}")
    assert fault(path).startswith(f"params.yaml, line {line_of('root: data')}, column 3: data.root = ")


@pytest.mark.parametrize("root", ["../photos", "/srv/photos", "data/none", "my photos", "models_of_cars"])
def test_a_data_folder_may_lie_beside_the_project(path, root):
    write(path, "root: data/fashion-mnist", f"root: {root}")
    assert load_checked(path).data.root == root


def test_names_that_are_too_long_for_a_file_are_refused(path):
    write(path, "  plain_cnn:\n", f"  {'a' * 65}:\n")
    assert "the name is not allowed: use lower-case letters, digits and underscores, at most 64" in fault(path)


def test_too_many_entries_are_refused(path):
    write(path, "seeds: [0, 1, 2]", f"seeds: {list(range(1001))}")
    assert "seeds = [0, 1, 2" in fault(path)
    assert "must be a list with at least 1 entries and at most 1000 entries" in fault(path)


def test_a_long_list_of_faults_is_cut(path):
    path.write_text("".join(f"k{i}: 1\n" for i in range(300)), encoding="utf-8")
    said = fault(path).splitlines()
    assert len(said) == 101 and said[-1] == "params.yaml: and more faults; fix the first 100 and check again"


def test_reading_the_default_profile_is_fast(path):
    path.write_text(DEFAULT, encoding="utf-8")
    load_checked(path)  # imports torch and counts the parameters once
    times = []
    for _ in range(5):
        start = time.process_time()  # whatever else the machine does
        load_checked(path)
        times.append(time.process_time() - start)
    assert min(times) < 0.15
