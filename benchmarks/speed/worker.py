"""One worker: a process that does rounds of a job as it is told to, one line of JSON each way.

`python -m speed.worker KIND THREADS LOADERS` reads {"case": ...}, which makes the job, or {"steps": N}, which does a
round, from standard input, and answers with {"done": amount, "seconds": time}. Nothing else comes on standard output.
"""

import json
import os
import sys
import time


def main() -> None:
    """Answer until there are no more orders."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    kind, threads, loaders = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    from speed.jobs import JOBS, Job

    def nothing(_: int) -> float:
        raise ValueError("steps came before a case")

    job: Job = nothing
    for line in sys.stdin:
        order = json.loads(line)
        done: float | list[float] = 0.0
        start = time.perf_counter()
        if "case" in order:
            job = nothing  # first let go of what the last one holds
            job = JOBS[kind](order["case"], threads, loaders)
        else:
            done = job(order["steps"])
        print(json.dumps({"done": done, "seconds": time.perf_counter() - start}), file=answers, flush=True)


if __name__ == "__main__":
    main()
