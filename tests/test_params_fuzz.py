"""Mutated params files: each is read as DVC reads it, or refused in lines that name the file; nothing else happens."""

import time
from collections import Counter

import pytest
from dvc.utils.serialize import dumps_yaml, load_yaml, loads_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from params_mutants import NASTY, mutant

from netpress.base.errors import ConfigError
from netpress.graph.checks import load_checked
from netpress.params import reader
from netpress.params.document import parse_document
from netpress.params.whole import Params
from netpress.params.yaml_reader import MAX_BYTES

SECONDS_EACH = 5.0


def survey(folder, seeds):
    """Load every mutant; return how many were accepted and refused, and the longest time in seconds."""
    path = folder / "params.yaml"
    outcome: Counter[str] = Counter()
    longest = 0.0
    for seed in seeds:
        path.write_bytes(mutant(seed))
        start = time.process_time()
        try:
            params = load_checked(path)
        except ConfigError as error:
            outcome["refused"] += 1
            lines = str(error).splitlines()
            assert lines and all(line.startswith("params.yaml") and len(line) > 25 for line in lines), (seed, lines)
            assert all("\x1b" not in line and "\0" not in line for line in lines), (seed, lines)
        else:
            outcome["accepted"] += 1
            assert isinstance(params, Params), seed
            assert reader.read(path) == load_yaml(str(path)), f"mutant {seed} is read otherwise than DVC reads it"
        longest = max(longest, time.process_time() - start)
        assert longest < SECONDS_EACH, f"mutant {seed} took {longest:.1f} s"
    return outcome, longest


def test_mutants_are_read_or_refused_in_lines_that_name_the_file(tmp_path):
    outcome, _ = survey(tmp_path, range(150))
    assert outcome["accepted"] > 7 and outcome["refused"] > 75, outcome


@pytest.mark.exhaustive
def test_ten_thousand_mutants(tmp_path, record_property):
    start = time.process_time()
    outcome, longest = survey(tmp_path, range(10_000))
    record_property("outcome", f"{dict(outcome)}, longest {longest:.2f} s, in all {time.process_time() - start:.0f} s")
    print(f"{dict(outcome)}, longest {longest:.2f} s, in all {time.process_time() - start:.0f} s")
    assert outcome["accepted"] > 500 and outcome["refused"] > 5000, outcome


def filled(start, part, end=b""):
    """A file of just the size that is read."""
    return start + part * ((MAX_BYTES - len(start + end)) // len(part)) + end


@pytest.mark.parametrize(
    "content",
    [
        filled(b"a: ", b"["),
        filled(b"a: ", b"{a: "),
        filled(b"", b"- "),
        filled(b"a: ", b"x "),
        filled(b"a:\n", b"  x\n"),
        filled(b"", b"x: 1\n"),
        b"".join(b"k%d: 1\n" % i for i in range(7_000)),
        b"train: {" + b"".join(b"k%d: {}, " % i for i in range(5_500)) + b"}",
        filled(b"seeds: [", b"1,", b"]"),
        filled(b"a: !", b"x"),
        filled(b"", b"? "),
        filled(b'a: "', b"\\\n"),
        filled(b"", b"&a "),
        filled(b"a: |\n", b" \n"),
        filled(b"a: 1", b"0"),
        filled(b"", b"a: 1\n") * 10,
    ],
    ids=range(16),
)
def test_large_and_deep_files_take_seconds_at_most(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    start = time.process_time()
    with pytest.raises(ConfigError) as error:
        load_checked(path)
    assert time.process_time() - start < SECONDS_EACH
    assert len(str(error.value)) < 100_000
    assert all(line.startswith("params.yaml") for line in str(error.value).splitlines())


SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(NASTY)
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=8), VALUES, min_size=1, max_size=4))
def test_what_dvc_writes_is_read_back_or_refused(values):
    try:
        text = dumps_yaml(values)
        content = text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate cannot be written
        return
    try:
        document = parse_document(content, "params.yaml")
        with document.located():
            document.refuse_doubtful()
    except ConfigError as error:
        assert all(line.startswith("params.yaml") for line in str(error).splitlines())
    else:
        assert repr(document.values) == repr(loads_yaml(text)) == repr(values)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("01289_eE+-.:xonys~ tru") | st.characters(codec="utf-8"), max_size=8))
def test_a_scalar_is_read_as_dvc_reads_it_or_refused(text):
    """Numbers, words, signs: in what place a form is ambiguous is ours to say, but never another value."""
    content = f"a: {text}\n".encode()
    try:
        document = parse_document(content, "params.yaml")
        with document.located():
            document.refuse_doubtful()
    except ConfigError as error:
        assert str(error).startswith("params.yaml")
    else:
        assert repr(document.values) == repr(loads_yaml(content.decode()))
