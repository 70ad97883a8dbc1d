"""Plant one fault after another in a copy of the code, and tell which of the named tests notices it.

The faults stand in tests/mutants/*.toml. Ends with 1 if one goes unnoticed, if the tests fail without a fault, or if
the text that a fault replaces does not stand exactly once in its file.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LISTS = ROOT / "tests/mutants"
#: Seconds after which the tests of one fault are ended; a fault that hangs them is noticed too.
LIMIT = 300
#: Loaded once, before the processes that run the tests part from this one.
LIBRARIES = ("pytest", "hypothesis", "torch._dynamo", "onnx", "onnxruntime.quantization", "onnxscript", "scipy.special")
LIBRARIES += ("tensorly", "torch_pruning", "torchvision", "safetensors.torch", "pydantic", "ruamel.yaml")
PASSED, FAILED, BROKEN = 0, 1, 2  # pytest's own exit codes; broken: a file of tests could not be imported


@dataclass(frozen=True)
class Mutant:
    """A fault: in `file`, below src/netpress, `old` becomes `new`; `tests`, below tests/, are to notice it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def plant(self, copy: Path) -> None:
        """Make the edit in a copy of the project."""
        path = copy / "src/netpress" / self.file
        path.write_text(path.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")

    def fault(self) -> str | None:
        """Say what is wrong with the entry itself, if anything."""
        path = ROOT / "src/netpress" / self.file
        count = path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0
        if count != 1:
            return f"{self.name}: its text to replace stands {count} times in {self.file}, not once: {self.old!r}"
        return f"{self.name}: it changes nothing" if self.old == self.new else None


def read_lists() -> dict[str, Mutant]:
    """Read every fault, by name."""
    found: dict[str, Mutant] = {}
    for path in sorted(LISTS.glob("*.toml")):
        for name, entry in tomllib.loads(path.read_text(encoding="utf-8")).items():
            if name in found:
                raise SystemExit(f"{path.name}: two faults are called {name}")
            found[name] = Mutant(name, entry["file"], entry["old"], entry["new"], tuple(entry["tests"]))
    return found


def copy_project(folder: Path) -> None:
    """Copy what the tests need of the working tree."""
    sys.path.insert(0, str(ROOT / "tests"))
    from project import project_files

    for name in project_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def run_tests(copy: Path, tests: tuple[str, ...], log: Path) -> None:
    """In a process of its own: run the tests in the copy, with the copy's code, up to the first that fails."""
    os.setsid()
    with log.open("wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    os.chdir(copy)
    os.environ["PYTHONPATH"] = str(copy / "src")
    sys.path[:0] = [str(copy / "src"), str(copy / "tests")]
    import pytest

    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)])
    sys.stdout.flush()
    os._exit(int(code))


class Runner:
    """Runs tests in copies of the project, a process each, of which all have the libraries already."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.base = place / "base"
        copy_project(self.base)

    def start(self, tests: tuple[str, ...], mutant: Mutant | None) -> Any:
        """Start the tests of a fault, or (None) of the code as it is; returns the process."""
        copy = self.base
        if mutant is not None:
            copy = self.place / mutant.name
            shutil.copytree(self.base, copy, symlinks=True)
            mutant.plant(copy)
        log = self.log_of(mutant)
        process: Any = multiprocessing.get_context("fork").Process(target=run_tests, args=(copy, tests, log))
        process.start()
        return process

    def log_of(self, mutant: Mutant | None) -> Path:
        """Return the file that gets what the tests print."""
        return self.place / f"{mutant.name if mutant else 'base'}.log"

    def clear(self, mutant: Mutant) -> None:
        """Remove the copy and the log of a fault."""
        shutil.rmtree(self.place / mutant.name)
        self.log_of(mutant).unlink()


def noticed_by(log: Path) -> str:
    """Return the test that failed first."""
    text = log.read_text(encoding="utf-8", errors="replace")
    found = re.search(r"^(?:FAILED|ERROR) (?:tests/)?(.+?)(?: - |$)", text, re.M)
    return found.group(1) if found else "no test, the run itself"


def verdict(process: Any, mutant: Mutant, runner: Runner, late: bool) -> tuple[bool, str]:
    """Return whether the fault was noticed, and the words for it."""
    if late:
        return True, f"killed    {mutant.name} by a hang of more than {LIMIT} s"
    if process.exitcode == PASSED:
        return False, f"SURVIVED  {mutant.name} ({mutant.file}), though {', '.join(mutant.tests)} ran"
    if process.exitcode in (FAILED, BROKEN) or process.exitcode < 0:
        return True, f"killed    {mutant.name} by {noticed_by(runner.log_of(mutant))}"
    return False, f"SURVIVED  {mutant.name}: pytest ended with {process.exitcode}, not with a failed test"


def check_base(runner: Runner, chosen: list[Mutant]) -> None:
    """Run all tests that are named, once, without a fault; raise if they fail."""
    tests = tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    print(f"{len(tests)} tests without a fault", flush=True)
    start = time.monotonic()
    process = runner.start(tests, None)
    process.join()
    if process.exitcode != PASSED:
        log = runner.log_of(None)
        print(log.read_text(encoding="utf-8", errors="replace")[-3000:])
        raise SystemExit(f"{noticed_by(log)} fails without a fault; fix the tests or the code first")
    print(f"passed in {time.monotonic() - start:.0f} s", flush=True)


def run(runner: Runner, chosen: list[Mutant], jobs: int) -> list[Mutant]:
    """Plant the faults, `jobs` at a time; returns those that nothing noticed."""
    waiting, working, survivors, start, done = list(chosen), dict[int, tuple[Any, Mutant, float]](), [], 0.0, 0
    start = time.monotonic()
    while waiting or working:
        while waiting and len(working) < jobs:
            mutant = waiting.pop(0)
            process = runner.start(mutant.tests, mutant)
            working[process.sentinel] = process, mutant, time.monotonic()
        wait(list(working), timeout=1)
        for sentinel, (process, mutant, began) in list(working.items()):
            late = time.monotonic() - began > LIMIT
            if process.is_alive() and not late:
                continue
            if late:
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            del working[sentinel]
            done += 1
            noticed, words = verdict(process, mutant, runner, late)
            left = (time.monotonic() - start) / done * (len(chosen) - done)
            took = time.monotonic() - began
            print(f"{done}/{len(chosen)}  {words}  ({took:.0f} s; about {left / 60:.1f} min left)", flush=True)
            if not noticed:
                survivors.append(mutant)
            runner.clear(mutant)
    return survivors


def main() -> int:
    """Run the faults that were chosen, or list them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="faults to plant; without names, all")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="faults at a time (default: 1)")
    parser.add_argument("--list", action="store_true", help="list the faults and end")
    arguments = parser.parse_args()
    known = read_lists()
    if unknown := [name for name in arguments.names if name not in known]:
        parser.error(f"no fault {', '.join(unknown)}; --list shows them")
    chosen = [known[name] for name in arguments.names or known]
    if arguments.list:
        for mutant in chosen:
            print(f"{mutant.name:44} {mutant.file:28} {' '.join(mutant.tests)}")
        return 0
    if faults := [fault for mutant in chosen if (fault := mutant.fault())]:
        print("\n".join(faults))
        return 1
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as netpress says, of which each copy is to load its own
    for library in LIBRARIES:
        __import__(library)
    with tempfile.TemporaryDirectory(prefix="netpress-mutants-") as place:
        runner = Runner(Path(place))
        check_base(runner, chosen)
        survivors = run(runner, chosen, max(1, arguments.jobs))
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults noticed")
    for mutant in survivors:
        print(f"  not noticed: {mutant.name}")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main())
