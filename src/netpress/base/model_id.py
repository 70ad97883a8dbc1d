"""Names of models: `<section>/<variant>`, or `<section>/<variant>/round_<k>` for one round of a pruning curve."""

from pathlib import Path

from netpress.base.project import MODEL_STAGES

ROUND = "round_"
#: The section that is one variant, and what that variant is called.
ONE_VARIANT, MAIN = "prune", "main"
#: A model id as regular expression.
PATTERN = rf"({'|'.join(MODEL_STAGES)})/[a-z0-9_]{{1,64}}(/{ROUND}[1-9][0-9]{{0,3}})?"

#: What stands behind the id of a pruned model where its shape, trained from scratch, is meant.
CONTROL = "/control"


class ModelId(str):
    """A model id, such as `train/resnet18_strong` or `prune/main/round_2`; it is its own text."""

    __slots__ = ()

    @classmethod
    def of_stage(cls, stage: str) -> "ModelId | None":
        """Return the model that a stage of the graph makes: `train@net` -> `train/net`, `prune` -> `prune/main`."""
        section, _, variant = stage.partition("@")
        return cls(f"{section}/{variant or MAIN}") if section in MODEL_STAGES else None

    @property
    def stage(self) -> str:
        """The stage of the graph that makes it: `train/net` -> `train@net`, `prune/main/round_2` -> `prune`."""
        return self.section if self.section == ONE_VARIANT else self.base.replace("/", "@")

    @property
    def section(self) -> str:
        """The section of params.yaml."""
        return self.split("/")[0]

    @property
    def variant(self) -> str:
        """The name below the section; of a round, with the round."""
        return self.partition("/")[2]

    @property
    def base(self) -> "ModelId":
        """The id without its round: what params.yaml and the graph know."""
        return ModelId("/".join(self.split("/")[:2]))

    @property
    def round(self) -> int | None:
        """The round of a pruning curve, if it names one."""
        number = self.partition(f"/{ROUND}")[2]
        return int(number) if number.isdecimal() else None

    @property
    def key(self) -> str:
        """The dotted key of its item in params.yaml."""
        return self.section if self.section == ONE_VARIANT else ".".join(self.split("/")[:2])

    def of_round(self, number: int) -> "ModelId":
        """Return the id of one of its rounds."""
        return ModelId(f"{self}/{ROUND}{number}")

    def folder(self, root: Path) -> Path:
        """Folder of the model, with one `seed_<k>/` below it for each seed."""
        return root / "models" / self


def variants(section: str, content: object) -> list[str]:
    """Return the variants of a section whose content is not validated."""
    if section == ONE_VARIANT:
        return [MAIN]
    return [str(name) for name in content] if isinstance(content, dict) else []
