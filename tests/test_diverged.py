"""A run that diverges stops with epoch, step and the usual causes, and never appears as a result."""

import pytest
from little import copy_of, forget, results


@pytest.mark.parametrize(
    ("stage", "variant", "patch", "message"),
    [
        (
            "train",
            "teacher",
            "import netpress.core.engine as e; f = e.CrossEntropy.__call__\n"
            "e.CrossEntropy.__call__ = lambda *a: f(*a) * float('nan')",
            "train/teacher seed 0: the loss became nan in epoch 1, step 1; nothing was written. Usual causes: the "
            "learning rate is too high (lower recipes.<name>.lr), gradients are not clipped (set clip_norm: 5.0), bf16 "
            "is too coarse (set runtime.precision: fp32), or the loss of the item's method, if it has one, is not "
            "finite itself",
        ),
        (
            "train",
            "teacher",
            "import netpress.core.engine as e; f = e.evaluate\n"
            "e.evaluate = lambda n, *a: (next(n.buffers()).fill_(float('nan')), f(n, *a))[1]",
            "train/teacher seed 0 after epoch 1: the loss on 120 images became nan; nothing was written. Usual causes",
        ),
        (
            "quantize",
            "int8",
            "import netpress.quantize.run as q; forward = q.OnnxModule.forward\n"
            "q.OnnxModule.forward = lambda *a: forward(*a) * float('nan')",
            "quantize/int8 seed 0: the loss on 120 images became nan; nothing was written. Usual causes",
        ),
    ],
)
def test_it_never_appears_as_a_result(server, little_run, tmp_path, stage, variant, patch, message):
    project = copy_of(little_run, tmp_path / "project")
    forget(project, f"{stage}/{variant}")
    before = results(project)
    failed = server.run(project, stage, variant, patch=patch)
    assert failed["code"] == 1
    assert message in failed["output"]
    assert "Traceback" not in failed["output"]
    assert results(project) == before
    server.finish(project, stage, variant)  # nothing of it is left to go on from
    assert results(project) == results(little_run)


def test_a_network_of_nan_has_no_test_accuracy(server, little_run, tmp_path):
    project = copy_of(little_run, tmp_path / "project")
    (project / "metrics/test/distill/kd.json").unlink()
    before = results(project)
    patch = (
        "import netpress.final.run as f; e = f.evaluate\n"
        "f.evaluate = lambda n, *a: (next(n.parameters()).data.fill_(float('nan')), e(n, *a))[1]"
    )
    failed = server.run(project, "test", "distill/kd", patch=patch)
    assert failed["code"] == 1
    assert "test of distill/kd seed 0: the loss on 100 images became nan; nothing was written" in failed["output"]
    assert results(project) == before
