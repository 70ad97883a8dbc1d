"""What of this machine the process may use: cores, and memory for images."""

import math
import os
import re
from contextlib import suppress
from pathlib import Path

from netpress.base.errors import ConfigError

#: Environment variable: bytes of images of one split that a stage holds in memory; a larger split stays on the disk.
MEMORY = "NETPRESS_MEMORY"
#: Without it: this share of the memory that the process may still take. A stage holds two splits, and a network.
SHARE = 1 / 4
SIZE = re.compile(r"(\d+(?:\.\d+)?) ?(k|M|G|T)?B?", re.IGNORECASE | re.ASCII)
FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
#: Where the system says what it has, and what a container may use of it.
PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
#: Of a container: microseconds of processor time, or `max`, and the period in which they may be used.
CPU_MAX = GROUPS / "cpu.max"
#: Kind of control group in /proc/self/cgroup (nothing: the second version) -> files of its limit and its use.
LIMITS = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}


def cores(cpu_max: Path = CPU_MAX) -> int:
    """Return how many cores this process may use, by its affinity and by the limit of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such limit
        return count


def image_budget(available: int | None = None) -> int:
    """Return how many bytes of images of one split may be held in memory.

    Args:
        available: bytes of which `SHARE` is taken where `NETPRESS_MEMORY` is not set; by default those of `memory`.

    Raises:
        ConfigError: `NETPRESS_MEMORY` is not a size.
    """
    text = os.environ.get(MEMORY, "").strip()
    if not text:
        return int(SHARE * (memory() if available is None else available))
    match = SIZE.fullmatch(text)
    if not match:
        raise ConfigError(f"{MEMORY} = '{text}' is no size; write it as 2GB, 500MB or 0, or unset it")
    return int(float(match[1]) * FACTORS[(match[2] or "").lower()])


def memory(proc: Path = PROC, groups: Path = GROUPS) -> int:
    """Return the bytes that this process may still take, by what the system has and the limits of its container."""
    try:
        free = [1024 * int(_facts(proc / "meminfo")["MemAvailable:"])]
        listed = (proc / "self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, KeyError):  # another system than Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for _, kind, path in (line.split(":", 2) for line in listed):
        if kind in LIMITS:
            place = groups / kind / path.lstrip("/")
            inside = [folder for folder in (place, *place.parents) if folder.is_relative_to(groups / kind)]
            free += [left for folder in inside for left in _left(folder, *LIMITS[kind])]
    return max(0, min(free))


def _left(group: Path, limit: str, used: str) -> list[int]:
    """Return what a control group leaves, if it has a limit; files that the system keeps in memory make room."""
    with suppress(OSError, ValueError):  # no such group here, or its limit is `max`
        stated, taken = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
        kept = _facts(group / "memory.stat")
        return [stated - taken + int(kept.get("active_file", 0)) + int(kept.get("inactive_file", 0))]
    return []


def _facts(path: Path) -> dict[str, str]:
    """Return the first two words of each line."""
    rows = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}
