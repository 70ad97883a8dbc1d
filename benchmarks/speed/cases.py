"""What is trained in the benchmark: networks, sizes of images, and how."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netpress.params.reader import load

#: Images of a batch, in every loop.
BATCH = 128
#: Steps for which a loop has images; no round is longer.
LONGEST = 40

_PLAIN = load(Path(__file__).parents[2] / "profiles/default.yaml").recipes["plain"]
#: That of the default profile, but for what ordinary loops leave out or have otherwise.
RECIPE = _PLAIN.model_copy(
    update={
        "lr": 0.01,
        "batch_size": BATCH,
        "clip_norm": 0.0,
        "augment": _PLAIN.augment.model_copy(update={"crop_padding": 2}),
    }
)


@dataclass(frozen=True)
class Network:
    """An architecture of `src/netpress/models` and its options."""

    arch: str
    options: dict[str, Any]

    @property
    def title(self) -> str:
        """Such as `resnet18 width=0.25`."""
        return " ".join([self.arch, *(f"{key}={value}" for key, value in self.options.items())])


@dataclass(frozen=True)
class Case:
    """A network to train on made-up images.

    Attributes:
        network: what is trained.
        size: rows and columns of the images, pixels.
        channels: 1 or 3.
        teacher: whose soft targets the network learns from, if any.
    """

    network: Network
    size: int
    channels: int
    teacher: Network | None = None

    @property
    def title(self) -> str:
        """Network and size, and the teacher where there is one."""
        taught = f" taught by {self.teacher.title}" if self.teacher else ""
        return f"{self.network.title}{taught}, {self.size} px"

    @classmethod
    def read(cls, raw: dict[str, Any]) -> "Case":
        """Return the case that `dataclasses.asdict` made `raw` of."""
        teacher = raw["teacher"] and Network(**raw["teacher"])
        return cls(Network(**raw["network"]), raw["size"], raw["channels"], teacher)


SMALL_RESNET = Network("resnet18", {"width": 0.25, "stem": "pooled"})
SMALL_STUDENT = Network("mobile_student", {"width": 0.5})

#: Networks of the default profile on images like Fashion-MNIST, and those of the photo profiles on 32 and 64 pixels.
CASES = (
    Case(SMALL_RESNET, 28, 1),
    Case(SMALL_STUDENT, 28, 1),
    Case(Network("resnet18", {}), 32, 3),
    Case(Network("mobile_student", {}), 32, 3),
    Case(Network("resnet18", {}), 64, 3),
    Case(Network("mobile_student", {}), 64, 3),
    Case(Network("compact_cnn", {"groups": 1}), 28, 1),
    Case(Network("compact_cnn", {"groups": 2}), 28, 1),
    Case(Network("compact_cnn", {"groups": "depthwise"}), 28, 1),
    Case(Network("large_cnn", {"width": 0.125}), 28, 1),
)
#: Those of `--quick`.
QUICK = CASES[:2]
#: The pair of the default profile.
PAIR = Case(SMALL_STUDENT, 28, 1, SMALL_RESNET)
#: Temperature, and the teacher's share of the loss, in every loop that distills.
TEMPERATURE, WEIGHT = 4.0, 0.7
