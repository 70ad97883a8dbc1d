"""Several processes that share each training: what each does, and that together they do what one would."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NO_AUGMENT, striped

from netpress.core.batches import training_batches
from netpress.core.ranks import ALONE, Ranks
from netpress.params.recipes import Augment

WORKER = Path(__file__).parent / "ranks_worker.py"
AUGMENT = Augment(flip="alternating", crop_padding=2, resized_crop=0.0, erasing=0.5, mixup=0.3)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
@pytest.mark.parametrize("images", [0, 1, 6, 7, 64, 101])
def test_the_shares_of_a_batch_are_parts_of_it_of_nearly_one_size(count, images):
    order = np.random.default_rng(images).permutation(images)
    shares = [Ranks(number, count).share(order) for number in range(count)]
    assert np.array_equal(np.concatenate(shares), order)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("augment", [NO_AUGMENT, AUGMENT])
def test_processes_see_together_the_batches_that_one_would(augment):
    split = striped(101)
    given = split, augment, 0.1, 32, 3, 2
    theirs = [training_batches(*given, Ranks(number, 3)) for number in range(3)]
    for whole, *parts in zip(training_batches(*given), *theirs, strict=True):
        assert whole.share == 1.0
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert [part.share for part in parts] == [len(part.index) / len(whole.index) for part in parts]
        for key in ("images", "targets", "index"):
            assert torch.equal(torch.cat([getattr(part, key) for part in parts]), getattr(whole, key))
        assert torch.equal(torch.cat([part.plain() for part in parts]), whole.plain())


def test_a_process_alone_gives_back_what_it_is_given():
    tensor = torch.arange(3.0, requires_grad=True)
    (tensor * tensor).sum().backward()
    ALONE.sum_gradients([tensor])
    assert tensor.grad.tolist() == [0, 2, 4]
    assert ALONE.total(tensor) is tensor
    assert ALONE.gathered("x") == ["x"]
    assert ALONE.in_order({1: (5,), 0: (4,)}) == [(4,), (5,)]


def test_two_processes_do_what_one_would(tmp_path):
    """See ranks_worker.py: in double precision, where shares of a batch differ in size."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
