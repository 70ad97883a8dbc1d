"""Collect the metrics of every model of params.yaml into tables, curves and figures.

Reads the small metrics files alone, never a model. Writes metrics/summary.{json,md,csv}, metrics/claims.json,
plots/*.png, plots/pruning_curves.csv and plots/prune/<curve>.csv; and outside the graph reports/index.html, which shows
what small files of the models' folders and this machine's latencies say too.
"""

from pathlib import Path

from netpress.process.script import run_stage


def aggregate(root: Path) -> None:
    from netpress.params import reader
    from netpress.process import environment
    from netpress.report import environments
    from netpress.report.collect import collect, remove_stale
    from netpress.report.found import found
    from netpress.report.overview import brief
    from netpress.report.write import write_report

    params = reader.load(root / "params.yaml")
    for path in remove_stale(root, params.items(), params.final):
        print(f"removed {path.as_posix()}: params.yaml has no such model")
    environment.forget_others(root, environment.results_of(params.items(), params.final))
    study = collect(root, params.items(), params.final, params.claims, params.experiments)
    written = write_report(root, study)
    print(brief(study))
    print(environments.write_note(root, study), end="")
    print("wrote " + ", ".join(path.as_posix() for path in written))
    print(found(study))


if __name__ == "__main__":
    run_stage(__doc__, aggregate)
