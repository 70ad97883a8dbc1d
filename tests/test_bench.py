"""What a stage stands on: device, threads and a description of them."""

import os
import platform

import pytest
import torch
from conftest import RUNTIME

from netpress.base.errors import ConfigError
from netpress.bench import environment_of, set_up


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_an_error_and_auto_is_not():
    with pytest.raises(ConfigError, match=r"runtime\.device = 'cuda': PyTorch finds no CUDA device"):
        set_up(RUNTIME.model_copy(update={"device": "cuda"}))
    assert set_up(RUNTIME.model_copy(update={"device": "auto"})).type == "cpu"
    assert torch.get_num_threads() == RUNTIME.threads
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ


def test_the_environment_says_where_the_arithmetic_was_done_and_nothing_of_the_host():
    here = environment_of(RUNTIME, torch.device("cpu"))
    assert here["device"] == "cpu"
    assert here["threads"] == "2"
    assert here["torch"] == torch.__version__.split("+")[0]
    assert platform.node() not in here.values()
    assert not [value for value in here.values() if value.startswith("/")]
