"""Check the data source, split it and write the arrays that every other stage reads.

Also validates the whole of params.yaml. Writes data/prepared/ and metrics/data.json.
"""

from pathlib import Path

from netpress.base.script import run_stage


def main(root: Path) -> None:
    # Here, so that --help and Ctrl-C need not wait for torch.
    from netpress import environment
    from netpress.base.files import sha256_file, write_json
    from netpress.base.project import PREPARED
    from netpress.data.prepared import MANIFEST, doubts, prepare, summary
    from netpress.graph import load_checked

    data = load_checked(root / "params.yaml").data
    manifest = prepare(root, data, root / PREPARED)
    counts = summary(manifest)
    write_json(root / "metrics/data.json", counts)
    environment.record(root, environment.DATA, sha256_file(root / PREPARED / MANIFEST), environment.current())
    size = f"{manifest.resolution}x{manifest.resolution}x{manifest.channels}"
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items() if isinstance(count, int))
    print("\n".join([*manifest.notes, *doubts(manifest), f"{data.source}: images of {size}; {found}"]))


if __name__ == "__main__":
    run_stage(__doc__, main)
