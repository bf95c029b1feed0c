"""How long a merge to disk takes: Mergefront beside mergekit and the floor of reading and writing the bytes once.

    python benchmarks/merge_speed.py FOLDER [--sources 16] [--json FILE]

FOLDER gets a random base and fine-tunes of it (Llama architecture, 150M parameters, bf16), made once and kept; it wants
the space of one more checkpoint per running merge. All inputs are in the page cache, all outputs go through it.

- *floor*: every input read once into a reused buffer (`os.preadv`), the output written once (`os.pwrite`), by one
  thread and by two; the faster of the two counts.
- *mergekit*: in process and warm, in its own environment (see mergekit_environment.py): the first merge of a method is
  not counted.
- *first*: Mergefront's first candidate of a pool, with an empty cache, order statistics included. What compiling takes
  at the very first use is told apart, and so is inspecting the pool (each checkpoint is digested once).
- *next*: Mergefront's later candidates, each with other weights and densities.

Figures are medians, with the least and the most in brackets. Every measured part waits for a quiet machine, until
`--patience` is used up. Peak memory is that of a fresh process per method, above an interpreter that has imported
torch: `VmHWM` counts mapped checkpoint files, `RssAnon` (sampled each millisecond) does not.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from llama_checkpoints import write_checkpoint
from mergekit_environment import WORKER, Mergekit, default_folder, mergekit_python
from transformers import LlamaConfig

from campaigns.methods import (
    BreadcrumbsMerge,
    DareLinearMerge,
    DareTiesMerge,
    DellaMerge,
    LinearMerge,
    Method,
    TaskArithmeticMerge,
    TiesMerge,
)
from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe
from merging.image import MergedModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool

CONFIG = LlamaConfig(
    vocab_size=32_000,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=20,
    num_attention_heads=12,
    num_key_value_heads=4,
    tie_word_embeddings=True,
)
INSPECTIONS = "inspections"
FLOOR_BLOCK_BYTES = 1 << 20
GAMMA, EPSILON = 0.01, 0.15
Makers = dict[str, Callable[[tuple[float, ...], tuple[float, ...]], Method]]
METHODS: Makers = {
    "linear": lambda weights, densities: LinearMerge(weights=weights),
    "task_arithmetic": lambda weights, densities: TaskArithmeticMerge(weights=weights),
    "ties": lambda weights, densities: TiesMerge(weights=weights, densities=densities),
    "breadcrumbs": lambda weights, densities: BreadcrumbsMerge(weights=weights, densities=densities, gamma=GAMMA),
    "della": lambda weights, densities: DellaMerge(weights=weights, densities=densities, epsilon=EPSILON),
    "dare_linear": lambda weights, densities: DareLinearMerge(weights=weights, densities=densities),
    "dare_ties": lambda weights, densities: DareTiesMerge(weights=weights, densities=densities),
}
MERGEKIT_PARAMETERS = {"linear": {"normalize": False}, "breadcrumbs": {"gamma": GAMMA}, "della": {"epsilon": EPSILON}}
QUIET_SHARE = 0.05


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    paths = checkpoints(arguments.folder, arguments.sources)
    if arguments.merge_once:
        merge_once(arguments, paths)
        return
    report = measure(arguments, paths)
    print_report(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where the checkpoints are, or go")
    parser.add_argument("--sources", type=int, default=4, help="how many fine-tunes are merged")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--candidates", type=int, default=7, help="later candidates per method")
    parser.add_argument("--seconds", type=float, default=10, help="repeat the other parts for so long, 5 times at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's threads, in both tools")
    parser.add_argument("--mergekit-dtype", choices=["bfloat16", "float32"], default="bfloat16", help="its arithmetic")
    parser.add_argument("--environment", type=Path, default=default_folder(), help="mergekit's, made if need be")
    parser.add_argument("--no-mergekit", action="store_true", help="leave mergekit out")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for a quiet machine, in all")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    parser.add_argument("--merge-once", metavar="METHOD", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def checkpoints(folder: Path, count: int) -> list[Path]:
    """Return the base and `count` fine-tunes, made where they are missing."""
    paths = [folder / "base", *(folder / f"source-{index}" for index in range(1, count + 1))]
    for seed, path in enumerate(paths):
        if not path.exists():
            show(f"making {path.name}")
            unfinished = path.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_checkpoint(unfinished, CONFIG, torch.bfloat16, seed)
            unfinished.rename(path)
    return paths


def measure(arguments: argparse.Namespace, paths: list[Path]) -> dict[str, Any]:
    quiet = Quiet(arguments.patience)
    os.sync()
    shutil.rmtree(arguments.folder / INSPECTIONS, ignore_errors=True)
    quiet.wait()
    started = time.perf_counter()
    pool = pool_of(arguments.folder, paths)
    inspection_seconds = time.perf_counter() - started
    python = None if arguments.no_mergekit else mergekit_python(arguments.environment)
    report: dict[str, Any] = {
        "parameters": pool.parameter_count,
        "sources": arguments.sources,
        "threads": arguments.threads,
        "mergekit_dtype": arguments.mergekit_dtype,
        "inspection_seconds": inspection_seconds,
        "floor": {"1 thread": [], "2 threads": []},
        "methods": {},
    }
    with contextlib.ExitStack() as stack:
        compiled = tempfile.TemporaryDirectory(dir=arguments.folder, prefix="out-")
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = stack.enter_context(compiled)
        mergekit = stack.enter_context(Mergekit(python)) if python else None
        for kind in arguments.methods:
            row = report["methods"][kind] = {}
            with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="out-") as scratch:
                measure_floor(paths, Path(scratch), quiet, report["floor"])
                if mergekit:
                    show(f"{kind} by mergekit")
                    job = mergekit_job(kind, paths, Path(scratch) / "mergekit", arguments)
                    row["mergekit"] = measure_mergekit(mergekit, job, quiet, arguments.seconds)
                show(f"{kind} by Mergefront")
                row |= attempt(lambda: measure_ours(kind, pool, Path(scratch), quiet, arguments))  # noqa: B023
            if not arguments.no_memory:
                show(f"memory of {kind}")
                row["memory"] = measure_memory(kind, paths, python, arguments)
    report["busy_before_parts"] = {"median": statistics.median(quiet.shares), "most": max(quiet.shares)}
    return report


def pool_of(folder: Path, paths: list[Path]) -> Pool:
    show("inspecting the pool")
    base, *sources = (CheckpointSpec(name=path.name, path=str(path)) for path in paths)
    cache = folder / INSPECTIONS
    cache.mkdir(exist_ok=True)
    return inspect_pool(PoolSpec(checkpoints=tuple(sources), base=base), [folder], [], cache)


class Quiet:
    """Waits until others leave the machine alone: at most `QUIET_SHARE` of all cores busy for a fifth of a second.

    `patience_seconds` is for all waits together. `shares` has what was found before each measured part: more than
    `QUIET_SHARE` where patience had ended.
    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self.shares: list[float] = []

    def wait(self) -> None:
        started = time.monotonic()
        while (share := busy_share(0.2)) > QUIET_SHARE and time.monotonic() - started < self._patience_seconds:
            pass
        self._patience_seconds -= max(0.0, time.monotonic() - started - 0.3)
        self.shares.append(share)


def busy_share(seconds: float) -> float:
    before = cpu_times()
    time.sleep(seconds)
    spent = [after - start for start, after in zip(before, cpu_times(), strict=True)]
    return 1 - (spent[3] + spent[4]) / max(sum(spent), 1)


def cpu_times() -> list[int]:
    """Return the ticks that all cores spent in each state; the fourth is idle, the fifth waiting for disks."""
    return [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]


def repeated(run: Callable[[], float], quiet: Quiet, seconds: float) -> list[float]:
    """Return the seconds of 1 to 5 runs, as many as begin within `seconds`."""
    started = time.monotonic()
    taken: list[float] = []
    while not taken or (len(taken) < 5 and time.monotonic() - started < seconds):
        quiet.wait()
        taken.append(run())
    return taken


def measure_floor(paths: list[Path], scratch: Path, quiet: Quiet, floor: dict[str, list[float]]) -> None:
    for threads in (1, 2):
        read_and_write(paths, scratch / "floor", threads)
        for _ in range(3):
            quiet.wait()
            key = "1 thread" if threads == 1 else f"{threads} threads"
            floor[key].append(read_and_write(paths, scratch / "floor", threads))


def read_and_write(paths: list[Path], out: Path, threads: int) -> float:
    """Read all checkpoints and write as many bytes as one has; return the seconds."""
    sources = [os.open(path / "model.safetensors", os.O_RDONLY) for path in paths]
    size = os.fstat(sources[0]).st_size
    bounds = [size * index // threads for index in range(threads + 1)]
    started = time.perf_counter()
    target = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    workers = [
        threading.Thread(target=pass_range, args=(sources, target, bounds[index], bounds[index + 1]))
        for index in range(threads)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    os.close(target)
    taken = time.perf_counter() - started
    for source in sources:
        os.close(source)
    out.unlink()
    return taken


def pass_range(sources: list[int], target: int, start: int, stop: int) -> None:
    buffer = memoryview(bytearray(FLOOR_BLOCK_BYTES))
    for offset in range(start, stop, FLOOR_BLOCK_BYTES):
        block = buffer[: min(FLOOR_BLOCK_BYTES, stop - offset)]
        for source in sources:
            os.preadv(source, [block], offset)
        os.pwrite(target, block, offset)


def measure_mergekit(mergekit: Mergekit, job: dict[str, Any], quiet: Quiet, seconds: float) -> list[float]:
    def merge() -> float:
        taken = mergekit.merge(job)
        shutil.rmtree(job["out"])
        return taken

    merge()
    return repeated(merge, quiet, seconds)


def mergekit_job(kind: str, paths: list[Path], out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The candidate of number 0 as mergekit's configuration says it."""
    base, *sources = paths
    weights, densities = candidate_numbers(0, len(sources))
    own = {"weight": weights} if kind in ("linear", "task_arithmetic") else {"weight": weights, "density": densities}
    config = {
        "merge_method": kind,
        "dtype": arguments.mergekit_dtype,
        "out_dtype": "bfloat16",
        "parameters": MERGEKIT_PARAMETERS.get(kind, {}),
        "models": [
            {"model": str(path), "parameters": {name: values[index] for name, values in own.items()}}
            for index, path in enumerate(sources)
        ],
    } | ({} if kind == "linear" else {"base_model": str(base)})
    return {"config": config, "out": str(out), "seed": 0, "threads": arguments.threads}


def candidate_numbers(number: int, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return weights, which sum to one, and densities in [0.3, 0.7]; both change from candidate to candidate."""
    raw = [1 + (number * 7 + index * 3) % 11 for index in range(count)]
    densities = tuple(0.3 + 0.4 * ((number * 5 + index * 2) % 7) / 6 for index in range(count))
    return tuple(weight / sum(raw) for weight in raw), densities


def recipe(kind: str, number: int, pool: Pool) -> Recipe:
    assert pool.base is not None
    method = METHODS[kind](*candidate_numbers(number, len(pool.checkpoints)))
    return Recipe(
        method=method,
        sources=tuple(checkpoint.digest for checkpoint in pool.checkpoints),
        base=None if kind == "linear" else pool.base.digest,
        template=pool.template.digest,
        dtype="bfloat16",
        seed=number,
    )


def write(files: PoolFiles, candidate: Recipe, out: Path) -> float:
    """Merge to the new directory `out`, remove it, and return the seconds that the merge took."""
    started = time.perf_counter()
    MergedModel(files, candidate).write_directory(out)
    taken = time.perf_counter() - started
    shutil.rmtree(out)
    return taken


def measure_ours(
    kind: str, pool: Pool, scratch: Path, quiet: Quiet, arguments: argparse.Namespace
) -> dict[str, list[float]]:
    out = scratch / "ours"

    def first() -> float:
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            started = time.perf_counter()
            files = PoolFiles(pool, Path(cache))
            opened = time.perf_counter() - started
            return opened + write(files, recipe(kind, 0, pool), out)

    quiet.wait()
    very_first = first()
    firsts = repeated(first, quiet, arguments.seconds)
    later: list[float] = []
    with tempfile.TemporaryDirectory(dir=scratch) as cache:
        files = PoolFiles(pool, Path(cache))
        write(files, recipe(kind, 0, pool), out)
        for number in range(1, arguments.candidates + 1):
            quiet.wait()
            later.append(write(files, recipe(kind, number, pool), out))
    return {"very_first": [very_first], "first": firsts, "next": later}


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `run` does, or its error, so that one method that fails does not end the whole run."""
    try:
        return run()
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def merge_once(arguments: argparse.Namespace, paths: list[Path]) -> None:
    """Merge one candidate: what a fresh process does whose memory is measured."""
    pool = pool_of(arguments.folder, paths)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="out-") as scratch:
        write(PoolFiles(pool, arguments.cache), recipe(arguments.merge_once, 1, pool), Path(scratch) / "ours")
        print(json.dumps(memory_of(os.getpid())))


def measure_memory(kind: str, paths: list[Path], python: Path | None, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return peaks in bytes above an interpreter with torch: {tool: {"VmHWM": ..., "RssAnon": ...}}."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="out-") as scratch:
        cache = Path(scratch) / "cache"
        cache.mkdir()
        mine = [sys.executable, __file__, str(arguments.folder), "--sources", str(arguments.sources)]
        mine += ["--threads", str(arguments.threads), "--merge-once", kind, "--cache", str(cache)]
        for name in ("first", "next"):
            found[name] = attempt(lambda: peak_of(Path(sys.executable), mine, None))
        if python:
            job = mergekit_job(kind, paths, Path(scratch) / "mergekit", arguments)
            command = [str(python), str(WORKER)]
            found["mergekit"] = attempt(lambda: peak_of(python, command, json.dumps(job) + "\n"))
    return found


def peak_of(python: Path, command: list[str], text: str | None) -> dict[str, int]:
    """Run `command` with `text` as its standard input; return its peaks above an interpreter with torch, in bytes."""
    print_memory = "print(open('/proc/self/status').read())"
    idle = subprocess.run(
        [str(python), "-c", f"import torch; {print_memory}"], capture_output=True, text=True, check=True
    )
    before = parse_status(idle.stdout)
    peaks = dict.fromkeys(before, 0)
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile("w+") as stdout:
        stdin.write(text or "")
        stdin.seek(0)
        process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            now = memory_of(process.pid)
            peaks = {name: max(peak, now[name]) for name, peak in peaks.items()}
            time.sleep(0.001)
        stdout.seek(0)
        answers = stdout.read()
    if process.returncode or '"error"' in answers:
        raise RuntimeError(answers.strip() or f"ended with status {process.returncode}")
    return {name: peaks[name] - before[name] for name in before}


def memory_of(pid: int) -> dict[str, int]:
    try:
        return parse_status(Path(f"/proc/{pid}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return {"VmHWM": 0, "RssAnon": 0}


def parse_status(text: str) -> dict[str, int]:
    """Return VmHWM and RssAnon, in bytes, of a /proc/PID/status; 0 where a process that has ended no longer says."""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: 1024 * int(lines.get(name, "0 kB").split()[0]) for name in ("VmHWM", "RssAnon")}


def show(message: str) -> None:
    print(f"\r{message:<70}", end="", file=sys.stderr, flush=True)


def print_report(report: dict[str, Any]) -> None:
    show("")
    print(
        f"\r{report['sources']} x {report['parameters'] / 1e6:.0f}M bf16 and a base, {report['threads']} threads, "
        f"mergekit's arithmetic in {report['mergekit_dtype']}"
    )
    for threads, seconds in report["floor"].items():
        print(f"floor, {threads:<10} {spread(seconds)} s")
    floor = min(statistics.median(seconds) for seconds in report["floor"].values())
    print(f"inspecting the pool, once and not counted below: {report['inspection_seconds']:.2f} s")
    busy = report["busy_before_parts"]
    print(f"cores busy before a measured part: median {busy['median']:.0%}, most {busy['most']:.0%}\n")
    print(f"{'method':<16}{'who':<10}{'seconds':>24}{'x floor':>9}{'mergekit over it':>19}")
    for kind, row in report["methods"].items():
        theirs = statistics.median(row["mergekit"]) if "mergekit" in row else None
        for who in ("mergekit", "first", "next"):
            if who in row:
                middle = statistics.median(row[who])
                faster = f"{theirs / middle:.1f} x" if theirs else "-"
                print(f"{kind:<16}{who:<10}{spread(row[who]):>24}{middle / floor:>9.1f}{faster:>19}")
        if "very_first" in row:
            compiling = row["very_first"][0] - statistics.median(row["first"])
            print(f"{kind:<16}{'compiling at the very first use':<34}{compiling:>9.2f} s")
        if "error" in row:
            print(f"{kind:<16}{row['error'][:100]}")
    print_memory(report)


def print_memory(report: dict[str, Any]) -> None:
    print(f"\npeak MiB above torch: {'':<10}{'VmHWM':>10}{'RssAnon':>10}")
    for kind, row in report["methods"].items():
        for who, peaks in row.get("memory", {}).items():
            figures = (
                "".join(f"{peaks[name] / 2**20:>10.0f}" for name in ("VmHWM", "RssAnon")) if "VmHWM" in peaks else ""
            )
            print(f"{kind:<16}{who:<16}{figures or peaks['error'][:100]}")


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f}-{max(seconds):.3f})"


if __name__ == "__main__":
    main()
