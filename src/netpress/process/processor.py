"""The cores that a process may use."""

import math
import os
from pathlib import Path

#: Of a container: microseconds of processor time, or `max`, and the period in which they may be used.
CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def cores(cpu_max: Path = CPU_MAX) -> int:
    """Return how many cores this process may use, by its affinity and by the limit of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return min(count, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # no such limit
        return count
