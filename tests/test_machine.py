"""What of the machine the process may use, by what the system and a container say."""

import pytest

from netpress.base.errors import ConfigError
from netpress.process import machine

GB = 10**9


@pytest.mark.parametrize(
    ("limit", "expected"), [("max 100000", 6), ("250000 100000", 3), ("100000 100000", 1), ("", 6)]
)
def test_cores_are_those_of_the_container(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert machine.cores(tmp_path / "cpu.max") == expected
    assert machine.cores(tmp_path / "gone") == 6


@pytest.fixture
def system(tmp_path):
    """A made-up machine with 8 GB free, of which this process's groups may be told to use less."""
    for folder in ("proc/self", "groups/job/inner", "groups/memory/job"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable: {8 * GB // 1024} kB\nHuge: 0\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/job\n3:cpu:/\n0::/job/inner\n")
    return tmp_path


def limit(group, most, used, limit="memory.max", current="memory.current"):
    (group / limit).write_text(f"{most}\n")
    (group / current).write_text(f"{used}\n")
    (group / "memory.stat").write_text(f"anon 1\nactive_file {GB // 2}\ninactive_file {GB // 2}\n")


def left(system):
    return machine.memory(system / "proc", system / "groups")


def test_memory_is_what_the_system_has_left(system):
    assert left(system) == pytest.approx(8 * GB, abs=1024)
    limit(system / "groups/job/inner", "max", GB)
    assert left(system) == pytest.approx(8 * GB, abs=1024)


def test_memory_is_what_the_container_leaves_and_kept_files_make_room(system):
    limit(system / "groups/job", 6 * GB, 3 * GB)  # of the group around this process's own
    assert left(system) == 4 * GB
    limit(system / "groups/job/inner", 4 * GB, 2 * GB)
    assert left(system) == 3 * GB
    limit(system / "groups/memory/job", 3 * GB, 2 * GB, "memory.limit_in_bytes", "memory.usage_in_bytes")
    assert left(system) == 2 * GB
    limit(system / "groups/job", GB, 3 * GB)  # lowered while it was in use
    assert left(system) == 0


def test_another_system_says_what_it_has_in_all(tmp_path):
    assert left(tmp_path) > GB / 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2GB", 2 * GB), ("500 MB", GB // 2), ("1.5g", 3 * GB // 2), ("10kb", 10_000), ("7", 7), ("0", 0), ("", GB // 4)],
)
def test_the_budget_is_what_the_variable_says_or_a_share(monkeypatch, text, expected):
    monkeypatch.setenv("NETPRESS_MEMORY", text)
    assert machine.image_budget(GB) == expected


@pytest.mark.parametrize("text", ["much", "-1GB", "2GiB", "1e9", "GB", "2 4", "٢"])
def test_a_budget_that_is_no_size_is_refused(monkeypatch, text):
    monkeypatch.setenv("NETPRESS_MEMORY", text)
    with pytest.raises(ConfigError, match=f"NETPRESS_MEMORY = '{text}' is no size; write it as 2GB, 500MB or 0"):
        machine.image_budget()
