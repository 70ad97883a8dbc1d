"""Check the data source, split it and write the arrays that every other stage reads.

Writes data/prepared/ and metrics/data.json, and marks metrics/summary.md where it is of other data.
"""

from pathlib import Path

from netpress.process.script import run_stage


def main(root: Path) -> None:
    # Here, so that --help and Ctrl-C need not wait for numpy.
    from netpress.base.files import sha256_file, write_json
    from netpress.base.project import PREPARED
    from netpress.core.dataset import MANIFEST
    from netpress.ingest.prepare import doubts, prepare, summary
    from netpress.params import reader
    from netpress.process import environment
    from netpress.report.data_line import FACTS, MARK, mark_tables

    data = reader.for_data(root / "params.yaml")
    manifest = prepare(root, data, root / PREPARED)
    counts = summary(manifest)
    sha256 = sha256_file(root / PREPARED / MANIFEST)
    shape = {"source": manifest.source, "resolution": manifest.resolution, "channels": manifest.channels}
    write_json(root / FACTS, counts | shape | {"manifest_sha256": sha256})
    environment.record(root, environment.DATA, sha256, environment.current())
    size = f"{manifest.resolution}x{manifest.resolution}x{manifest.channels}"
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if isinstance(count, int))
    print("\n".join([*manifest.notes, *doubts(manifest), f"{data.source}: images of {size}; {found}"]))
    if mark_tables(root):
        print(MARK.strip("*"))


if __name__ == "__main__":
    run_stage(__doc__, main)
