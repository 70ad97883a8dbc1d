"""What `runtime` of params.yaml asks of the machine."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from torch import nn
from netpress.core.runtime import set_up
from netpress.params.recipes import Runtime

if sys.argv[1] == "set_up":
    one = {"devices": 1, "batch_norm": "synchronized"}
    set_up(Runtime(device="cpu", threads=1, precision="fp32", channels_last=True, compile=False, **one))
network = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU()
)
images = torch.ones(64, 1, 28, 28)
for step in range(30):
    if step == 15:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(images).sum().backward()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the system hands out in fifteen training steps, when the first ones are over."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_that_tensors_free_is_kept():
    kept, not_kept = faults("set_up"), faults("not")
    assert not_kept > 10_000
    assert kept < not_kept / 5


FILLED = """
import torch
from netpress.core.runtime import set_up
from netpress.params.recipes import Runtime

one = {"devices": 1, "batch_norm": "synchronized"}
set_up(Runtime(device="cpu", threads=1, precision="fp32", channels_last=True, compile=False, **one))
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    torch.empty(1000)
names = {event.key for event in profile.key_averages()}
print(torch.are_deterministic_algorithms_enabled(), "aten::empty" in names, "aten::fill_" in names)
"""


def test_deterministic_algorithms_do_not_fill_new_memory():
    done = subprocess.run([sys.executable, "-c", FILLED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "False"]
