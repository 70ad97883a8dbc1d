"""What `runtime` of params.yaml asks of the machine."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from netpress.core.runtime import set_up
from netpress.params.recipes import Runtime

if sys.argv[1] == "set_up":
    set_up(Runtime(device="cpu", threads=1, precision="fp32", channels_last=True, compile=False))
sizes = 16 * [2**20]  # 4 MB each, as the maps that a training step keeps for its backward pass
for count in range(20):
    tensors = [torch.ones(size) for size in sizes]
    if count == 9:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the system hands out while tensors come and go."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no mallopt")
def test_memory_that_tensors_free_is_kept():
    assert faults("not") > 10_000
    assert faults("set_up") < 100
