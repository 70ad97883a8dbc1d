"""Check the data source, split it and write the arrays that every other stage reads.

Writes data/prepared/ and metrics/data.json.
"""

from pathlib import Path

from netpress.base.script import run_stage


def main(root: Path) -> None:
    from netpress import environment, reader
    from netpress.base.files import sha256_file, write_json
    from netpress.base.project import PREPARED
    from netpress.data.prepared import MANIFEST, doubts, prepare, summary

    data = reader.for_data(root / "params.yaml")
    manifest = prepare(root, data, root / PREPARED)
    counts = summary(manifest)
    write_json(root / "metrics/data.json", counts)
    environment.record(root, environment.DATA, sha256_file(root / PREPARED / MANIFEST), environment.current())
    size = f"{manifest.resolution}x{manifest.resolution}x{manifest.channels}"
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if isinstance(count, int))
    print("\n".join([*manifest.notes, *doubts(manifest), f"{data.source}: images of {size}; {found}"]))


if __name__ == "__main__":
    run_stage(__doc__, main)
