"""What `doctor` finds of a project's inputs: params.yaml, the data and the files of weights that it names."""

import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from netpress.base.errors import ArtifactError, ConfigError, NetpressError
from netpress.process.blame import blamed
from netpress.process.machine import cores

if TYPE_CHECKING:
    from torch import Tensor, nn

    from netpress.ingest.pieces import Source
    from netpress.params.items import Data
    from netpress.params.recipes import Runtime
    from netpress.params.whole import Params

LISTED = ("imagefolder", "food11")  # sources that are folders of pictures
NAMED = 200  # bad images, at most


@dataclass(frozen=True)
class Line:
    """One finding: `mark` is ok, warn (a run will work, perhaps not well) or FAIL."""

    mark: str
    name: str
    text: str


def inputs(root: Path, every_image: bool) -> Iterator[Line]:
    """Yield what is found of params.yaml, and of the data and the weights that it names."""
    path = root / "params.yaml"
    try:
        from netpress.core.runtime import lacking
        from netpress.graph.checks import check_project
        from netpress.params import reader
    except (ImportError, OSError) as error:
        yield Line("FAIL", "params.yaml", f"cannot be checked ({error}): run 'make setup'")
        return
    try:
        shared = reader.for_shared(path)
        yield _threads(shared.runtime)
        yield from (Line("FAIL", key, text) for key, text in lacking(shared.runtime))
    except ConfigError:
        yield Line("ok", "threads", f"{cores()} cores")
    try:
        with blamed():
            params = check_project(root)
            yield from _weights(root, params)
            yield from _data(root, params.data, every_image)
        yield Line("ok", "params.yaml", f"valid: profile {params.profile}, {len(params.items())} models")
    except NetpressError as error:
        yield Line("FAIL", "params.yaml", str(error))


def _weights(root: Path, params: "Params") -> Iterator[Line]:
    """Give every network of `train` the file of weights that its `init` names, as its stage will."""
    from netpress.base.files import read_checked, sha256_file
    from netpress.core.networks import build_model
    from netpress.graph.rounds import known_shape
    from netpress.params import plugins
    from netpress.params.items import NONE
    from netpress.params.reader import weights_file
    from netpress.train.pretrained import give, read_weights

    classes, channels = known_shape(params.data)
    known = hasattr(plugins.load("ingest/sources", params.data.module, "data.source"), "CLASSES")
    for name, item in params.train.items():
        if item.init == NONE:
            continue
        key = f"train.{name}.init"
        path = weights_file(root, item.init, key)
        sha256, said = sha256_file(path), io.StringIO()
        try:
            weights = read_weights(read_checked(path, sha256, "it was changed meanwhile: run this again"), path)
            count = len(item.class_names or ()) or classes
            network = build_model(item.arch, count, channels, **item.options)
            assumed = not known and not item.class_names
            if assumed:  # the folders may be in an archive: as many as the file has
                count = _outputs(network, weights, count)
                network = build_model(item.arch, count, channels, **item.options)
            with contextlib.redirect_stdout(said):
                give(network, weights, f"{path} (sha256 {sha256[:8]})", item.arch, key, count)
        except ArtifactError as error:
            yield Line("FAIL", "weights", str(error))
        else:
            of = f"; made for {count} classes, with others its last layer starts from scratch" if assumed else ""
            yield Line("ok", "weights", f"train/{name} {said.getvalue().strip()}{of}")


def _outputs(network: "nn.Module", weights: "Mapping[str, Tensor]", classes: int) -> int:
    """Return for how many classes the `weights` of a `network` are, which was built for `classes`."""
    from netpress.core.networks import classifier_name

    head = weights.get(f"{classifier_name(network, classes)}.weight")
    return len(head) if head is not None and head.ndim else classes


def _data(root: Path, data: "Data", every_image: bool) -> Iterator[Line]:
    """Look at the listing of a folder of pictures, or at every image of any source."""
    from netpress.base.errors import DataError
    from netpress.params import plugins

    # An archive would have to be unpacked.
    listed = every_image or (data.source in LISTED and (root / data.root).is_dir())
    try:
        with tempfile.TemporaryDirectory(prefix="netpress-") as folder:
            if listed:
                module = plugins.load("ingest/sources", data.module, "data.source")
                source = module.read(root / data.root, data, Path(folder) / "unpacked")
                yield from (Line("warn", "data", note) for note in source.notes)
            if every_image:
                yield from _images(source, data.on_bad_image)
        yield Line("ok", "data", data.root)
    except DataError as error:
        yield Line("FAIL", "data", str(error))


def _images(source: "Source", on_bad_image: str) -> Iterator[Line]:
    """Open every image, and say which cannot be used and what becomes of them."""
    from netpress.ingest.spool import all_pieces
    from netpress.process.progress import ImageProgress

    counts: Counter[str] = Counter()
    bad: list[str] = []
    with contextlib.closing(ImageProgress("opening", source.total)) as progress:
        for name, piece in all_pieces(source):
            counts[name] += len(piece.labels)
            bad += piece.bad
            progress.add(len(piece.labels) + len(piece.bad))
    said = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    yield Line("ok", "images", f"{counts.total():,} can be used: {said}")
    if bad:
        more = [f"and {len(bad) - NAMED} more"] if len(bad) > NAMED else []
        mark, remedy = "FAIL", "cannot be used; fix or remove them, or set data.on_bad_image: skip in params.yaml:"
        if on_bad_image == "skip":
            mark, remedy = "warn", "are skipped (data.on_bad_image):"
        yield Line(mark, "bad images", "\n".join([f"{len(bad)} {remedy}", *bad[:NAMED], *more]))


def _threads(runtime: "Runtime") -> Line:
    from netpress.core.runtime import devices_of

    count, devices = cores(), devices_of(runtime)
    many = f" for each of {devices} devices (runtime.devices)" if devices > 1 else ""
    text = f"{runtime.threads} of {count} cores (runtime.threads){many}"
    return Line("ok" if runtime.threads * devices <= count else "warn", "threads", text)
