"""A run that diverges stops with epoch, step and the usual causes, and never appears as a result."""

import pytest
from little import SECTIONS, STAGES, make_project, results


@pytest.mark.parametrize(
    ("stage", "variant", "patch", "message"),
    [
        (
            "train",
            "teacher",
            "import netpress.designs as d; f = d.cross_entropy\n"
            "d.fit_and_save.__defaults__ = (None, lambda b, l: f(b, l) * float('nan'))",
            "train/teacher seed 0: the loss became nan in epoch 1, step 1; nothing was written. Usual causes",
        ),
        (
            "train",
            "teacher",
            "import netpress.engine as e; f = e.evaluate\n"
            "e.evaluate = lambda n, *a: (next(n.buffers()).fill_(float('nan')), f(n, *a))[1]",
            "train/teacher seed 0 after epoch 1: the loss on 120 images became nan; nothing was written. Usual causes",
        ),
        (
            "quantize",
            "int8",
            "import netpress.quantization as q; forward = q.OnnxModule.forward\n"
            "q.OnnxModule.forward = lambda *a: forward(*a) * float('nan')",
            "quantize/int8 seed 0: the loss on 120 images became nan; nothing was written. Usual causes",
        ),
    ],
)
def test_it_never_appears_as_a_result(server, tmp_path, stage, variant, patch, message):
    project = make_project(tmp_path / "project", train={"teacher": SECTIONS["train"]["teacher"] | {"epochs": 1}})
    before_it = {"train": ("prepare",), "quantize": ("prepare", "train", "prune")}[stage]
    for name, args in STAGES:
        if name in before_it:
            server.finish(project, name, *args)
    before = results(project)
    failed = server.run(project, stage, variant, patch=patch)
    assert failed["code"] == 1
    assert message in failed["output"]
    assert "Traceback" not in failed["output"]
    assert results(project) == before
    server.finish(project, stage, variant)  # nothing of it is left to go on from
    assert results(project).keys() > before.keys()


def test_a_network_of_nan_has_no_test_accuracy(server, tmp_path):
    project = make_project(tmp_path / "project", train={"teacher": SECTIONS["train"]["teacher"] | {"epochs": 1}})
    for name, args in STAGES[:3]:
        server.finish(project, name, *args)
    before = results(project)
    patch = (
        "import netpress.final as f; e = f.evaluate\n"
        "f.evaluate = lambda n, *a: (next(n.parameters()).data.fill_(float('nan')), e(n, *a))[1]"
    )
    failed = server.run(project, "test", "distill/kd", patch=patch)
    assert failed["code"] == 1
    assert "test of distill/kd seed 0: the loss on 100 images became nan; nothing was written" in failed["output"]
    assert results(project) == before
