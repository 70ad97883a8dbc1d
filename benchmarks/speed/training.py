"""Training: images a second of the loops on the same networks, on a quiet machine and beside a busy process."""

import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from speed.cases import LONGEST, Case
from speed.series import Series, markdown
from speed.workers import ENDLESS, Team, Work, Worker, interleaved

#: (rows, inner, columns) of the products whose best rate counts as the machine's, and of those of the busy process.
PRODUCTS = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (8192, 1152, 128), (8192, 512, 512))
BUSY = (1024, 1024, 1024)
QUIET, LOADED = "quiet", "busy"
#: Whose ratio to the others the tables give.
OURS = "netpress"
SPLIT = "netpress, one thread each"
TORCHDISTILL = "torchdistill"
ORDINARY = "ordinary loop"
LOADERS = " with loaders"
#: Matrix products on all threads of one process, and in processes of one thread: the machine's limit.
LIMITS = ("matrix product", "matrix product, one thread each")


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        threads: of each loop, and processes that load images or train side by side.
        rounds: of each candidate.
        seconds: of a round, about; at least one step.
        torchdistill: the folder into which it was installed, if it was.
    """

    threads: int
    rounds: int
    seconds: float
    torchdistill: Path | None = None


@dataclass(frozen=True)
class Measured:
    """A case on a machine that is `QUIET` or `LOADED`.

    Attributes:
        rates: images a second of each loop.
        product: the best rate of a matrix product in between, operations a second; 0 where it was not measured.
    """

    case: Case
    machine: str
    rates: Mapping[str, Series]
    product: float

    def ratio(self, other: str) -> Series:
        """Return how many times as fast as `other` netpress is."""
        return self.rates[OURS].over(self.rates[other])


def loops(effort: Effort) -> dict[str, list[Work]]:
    """Return the workers of each candidate."""
    n = effort.threads
    found = {
        ORDINARY: [Work("ordinary", n, passive=False)],
        ORDINARY + LOADERS: [Work("ordinary", n, n, passive=False)],
    }
    if effort.torchdistill:
        found |= {
            TORCHDISTILL + name: [Work("torchdistill", n, loaders, passive=False, packages=effort.torchdistill)]
            for name, loaders in (("", 0), (LOADERS, n))
        }
    return found | {OURS: [Work("netpress", n)], SPLIT: [Work("netpress", 1)] * n}


@contextmanager
def teams(works: Mapping[str, Sequence[Work]]) -> Iterator[dict[str, Team]]:
    """Start the workers of each candidate, and end them."""
    with ExitStack() as stack:
        yield {name: Team([stack.enter_context(Worker(work)) for work in crew]) for name, crew in works.items()}


@contextmanager
def noise() -> Iterator[Worker]:
    """Start a process that multiplies matrices on all cores, waiting as OpenMP does by itself, whenever it may."""
    with Worker(Work("product", os.cpu_count() or 1, passive=False)) as worker:
        worker.take(BUSY)
        worker.order(steps=ENDLESS)
        worker.pause()
        yield worker


def measure(cases: Sequence[Case], effort: Effort, longest: int = LONGEST) -> list[Measured]:
    """Measure every case with the same processes, first quiet, then beside one that multiplies matrices.

    torchdistill takes part where there is a teacher, the machine's limit where it is quiet; `longest` is the most steps
    of a round.
    """
    found = []
    n = effort.threads
    products = {LIMITS[0]: [Work("product", n)], LIMITS[1]: [Work("product", 1)] * n}
    with noise() as beside, teams(products) as limits, teams(loops(effort)) as all_crews:
        for crew in limits.values():
            choose_product(crew, effort)
        for case in cases:
            crews = {name: crew for name, crew in all_crews.items() if case.teacher or TORCHDISTILL not in name}
            print(f"{case.title}: {', '.join(crews)}", file=sys.stderr, flush=True)
            for crew in crews.values():
                crew.take(dataclasses.asdict(case))
            for machine in (QUIET, LOADED):
                with nullcontext() if machine == QUIET else beside.resumed():
                    for crew in crews.values():
                        crew.pace(effort.seconds, longest)
                    takes_part = crews | limits if machine == QUIET else crews
                    rates = interleaved({name: crew.round for name, crew in takes_part.items()}, effort.rounds)
                of_products = [value for name in takes_part.keys() - crews.keys() for value in rates[name].values]
                of_loops = {name: rates[name] for name in crews}
                found.append(Measured(case, machine, of_loops, max(of_products, default=0.0)))
    return found


def choose_product(crew: Team, effort: Effort) -> None:
    """Give `crew` the float32 matrix product with the highest rate here."""
    rates = {}
    for shape in PRODUCTS:
        crew.take(shape)
        crew.pace(effort.seconds / 2, 10_000)
        rates[max(crew.round() for _ in range(effort.rounds))] = shape
    crew.take(rates[max(rates)])
    crew.pace(effort.seconds, 10_000)


def training_table(found: Sequence[Measured], limits: Mapping[str, float]) -> str:
    """Return the table of networks trained on labels alone; `limits` are images a second by title of the case."""
    head = ["network", "machine", "ordinary loop", "with loaders", OURS, "one thread each"]
    head += [f"{OURS} / ordinary", "/ with loaders", "share of the limit"]
    rows = []
    for one in found:
        rates = [one.rates[name].cell() for name in (ORDINARY, ORDINARY + LOADERS, OURS, SPLIT)]
        ratios = [one.ratio(name).cell(".2f") for name in (ORDINARY, ORDINARY + LOADERS)]
        rows.append([one.case.title, one.machine, *rates, *ratios, share(one, OURS, limits)])
    return markdown(head, rows)


def pair_table(found: Sequence[Measured], limits: Mapping[str, float]) -> str:
    """Return the table of the pair of teacher and student, a line for each loop."""
    rows = [
        [one.machine, name, rate.cell(), one.ratio(name).cell(".2f") if name != OURS else "", share(one, name, limits)]
        for one in found
        for name, rate in one.rates.items()
    ]
    return markdown(["machine", "loop", "images a second", f"{OURS} / this", "share of the limit"], rows)


def share(one: Measured, name: str, limits: Mapping[str, float]) -> str:
    """Return how much of the limit a loop reaches on a quiet machine."""
    return f"{one.rates[name].median / limits[one.case.title]:.0%}" if one.machine == QUIET else ""


def sections(cases: Sequence[Case], effort: Effort, longest: int = LONGEST) -> str:
    """Measure the cases; return the tables of those without a teacher and with one, and what is needed to read them."""
    found = measure(cases, effort, longest)
    product = max(one.product for one in found)
    from speed.jobs import flops  # loads torch, which measuring is spared

    limits = {case.title: product / flops(case) for case in cases}
    alone, taught = ([one for one in found if bool(one.case.teacher) == wanted] for wanted in (False, True))
    text = f"## Training, images a second\n\n{training_table(alone, limits)}\n"
    text += f"The limit: the step's operations at the rate of the best matrix product, {product / 1e9:.0f} GFLOP/s.\n"
    if taught:
        text += f"\n## Distillation, images a second\n\n{taught[0].case.title}\n\n{pair_table(taught, limits)}"
    if not effort.torchdistill:
        text += f"\nLeft out: {TORCHDISTILL}, for want of --torchdistill.\n"
    return text
