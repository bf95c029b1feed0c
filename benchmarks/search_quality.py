"""How much front per evaluation each search strategy finds, beside the baselines that people use elsewhere.

    python benchmarks/search_quality.py [FOLDER] [--parts quality,clock,loop] [--report FILE] [--plots DIRECTORY]

Parts: `quality` runs every method on every problem from every seed; `clock` runs the default strategy and the
generational baseline on simulated workers; `loop` times the real loop at 10,000 trials; `live` runs a few methods on
the tiny zoo itself, which takes a quarter of an hour, and is left out unless asked for. Results are kept in FOLDER, one
line each, so a run that was stopped goes on where it was. They do not know the code that made them: take another folder
after a change to a strategy. docs/search_benchmark.md says what is compared, and how.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

from search_clock import lognormal_durations, simulate
from search_methods import DEFAULT, SLOW, build_method, fits, methods
from search_problems import PROBLEMS, attainable, build_problem
from search_report import report, write_plots

from mergefront.demo import load_zoo_module

GRID = (0, 1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 120, 150, 180, 210, 240)
"""Numbers of evaluations at which hypervolumes are taken."""

CLOCK_PROBLEM = "zoo3"
EVALUATION_SECONDS = 60.0
"""Median of the simulated evaluations: what an ask costs matters in proportion to it."""

SLOW_PROBLEMS = ("zoo3", "zoo2_constrained", "weights_sum")
"""Where slow methods take part unless asked for everywhere."""

LIVE = "zoo_live"
PARTS = ("quality", "clock", "loop", "live")


def run_quality(problem, method, seed, budget, folder):
    """Run one search; return hypervolumes on the grid and the seconds that the method itself took."""
    benchmark = build_problem(problem, folder)
    searcher = build_method(method, benchmark, seed)
    found = [benchmark.seen(point, seed)[1] for point in benchmark.first_points]
    volumes, seconds, evaluations = [], 0.0, 0
    for count in range(budget + 1):
        if count in GRID:
            volumes.append(volume(benchmark, found))
        if count == budget:
            break
        started = time.perf_counter()
        point = searcher.ask(())
        seconds += time.perf_counter() - started
        if point is None:
            continue
        seen, noise_free = benchmark.seen(point, seed)
        evaluations += 1
        found.append(noise_free)
        started = time.perf_counter()
        searcher.tell(point, seen[0].tolist(), seen[1].tolist())
        seconds += time.perf_counter() - started
    return {"evaluations": evaluations, "hypervolumes": volumes, "seconds": seconds}


def volume(benchmark, found):
    losses, constraints = zip(*found, strict=True) if found else ((), ())
    return benchmark.hypervolume(losses, constraints) if found else 0.0


def run_clock(problem, method, seed, budget, workers):
    """Run one search on simulated workers; return when it ended, how busy they were, and hypervolume by time."""
    benchmark = build_problem(problem)
    settings = {"population": max(workers, 25)} if method == "nsga2_generational" else {}
    searcher = build_method(method, benchmark, seed, **settings)
    known = [benchmark.seen(point, seed)[1] for point in benchmark.first_points]
    noise_free = []

    def evaluate(point):
        (losses, constraints), exact = benchmark.seen(point, seed)
        noise_free.append(exact)
        return losses.tolist(), constraints.tolist()

    duration = lognormal_durations(EVALUATION_SECONDS, seed)
    timeline = simulate(searcher, evaluate, budget, workers, duration, charged=True)
    counts = sorted({round(budget * share / 100) for share in range(1, 101)})
    return {
        "ends": [timeline.ends[count - 1] for count in counts],
        "hypervolumes": [volume(benchmark, known + noise_free[:count]) for count in counts],
        "busy": timeline.busy,
        "busy_while_asking": timeline.busy_while_asking,
        "asks": quantiles(timeline.ask_seconds),
        "tells": quantiles(timeline.tell_seconds),
    }


def quantiles(seconds):
    """Return the median and the 95th percentile."""
    ordered = sorted(seconds)
    return [ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.95)]


def run_loop(method, trials, timed):
    from search_loop_time import loop_times

    return loop_times(method, trials, timed)


def run_attainable(problem, generations):
    return {"hypervolume": attainable(build_problem(problem), generations)}


RUNS = {"quality": run_quality, "clock": run_clock, "loop": run_loop, "attainable": run_attainable}


def run(task):
    """Run one task, a dictionary of the run's kind and arguments, and return it with what was found, or the error."""
    arguments = {name: value for name, value in task.items() if name != "part"}
    try:
        return {**task, "found": RUNS[task["part"]](**arguments)}
    except Exception as error:  # of whatever method: the others' runs go on
        return {"task": task, "error": f"{type(error).__name__}: {error}"}


# What there is to do


def tasks(arguments):
    """Return all tasks, seeds outermost: what is there of a run that was stopped is balanced."""
    found = []
    if "quality" in arguments.parts:
        common = {"part": "attainable", "generations": arguments.generations}
        found += [{**common, "problem": problem} for problem in arguments.problems]
        for seed in range(arguments.seeds):
            for problem in arguments.problems:
                found += quality_tasks(problem, seed, arguments)
    if "clock" in arguments.parts:
        found += clock_tasks(arguments)
    if "loop" in arguments.parts:
        kinds = dict.fromkeys(("random", arguments.default))
        found += [{"part": "loop", "method": kind, **arguments.loop_size} for kind in kinds]
    if "live" in arguments.parts:
        budget, seeds = arguments.live_size
        common = {"part": "quality", "problem": LIVE, "budget": budget, "folder": str(arguments.folder)}
        kinds = dict.fromkeys((arguments.default, "nsga2_generational", "random"))
        found += [{**common, "method": kind, "seed": seed} for seed in range(seeds) for kind in kinds]
    return found


def quality_tasks(problem, seed, arguments):
    found = []
    for method in arguments.methods:
        slow = method in SLOW and method != arguments.default
        if slow and (seed >= arguments.slow_seeds or problem not in arguments.slow_problems):
            continue
        if not fits(method, build_problem(problem)):
            continue
        budget = min(arguments.budget, arguments.slow_budget) if slow else arguments.budget
        common = {"part": "quality", "problem": problem, "method": method}
        found.append({**common, "seed": seed, "budget": budget, "folder": None})
    return found


def clock_tasks(arguments):
    kinds = dict.fromkeys((arguments.default, "nsga2_generational", "nsga2"))
    return [
        {"part": "clock", "problem": CLOCK_PROBLEM, "method": kind, "seed": seed, "budget": budget, "workers": workers}
        for workers, budget, seeds in arguments.clock
        for seed in range(seeds)
        for kind in kinds
    ]


def key(task):
    return json.dumps({name: value for name, value in task.items() if name != "found"}, sort_keys=True)


def run_all(wanted, file, processes):
    """Run what is not on record, and return all records in the order of `wanted`.

    A run that fails holds up no other; in the end SystemExit says how many there were, and what happened to the first.
    """
    lines = file.read_text().splitlines() if file.exists() else []
    done = {key(record): record for record in map(json.loads, lines)}
    missing = [task for task in wanted if key(task) not in done]
    failed = []
    for count, record in enumerate(results(missing, processes), start=1):
        if "error" in record:
            failed.append(f"{key(record['task'])}: {record['error']}")
        else:
            done[key(record)] = record
            with file.open("a") as opened:
                opened.write(json.dumps(record) + "\n")
        if count % 50 == 0 or count == len(missing):
            print(f"{count} of {len(missing)}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(missing)} runs failed, first {failed[0]}")
    return [done[key(task)] for task in wanted]


def results(wanted, processes):
    """Yield records as they come, from so many processes; with none, one after the other from this one."""
    if processes == 0:
        yield from map(run, wanted)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for ended in as_completed([pool.submit(run, task) for task in wanted]):
            yield ended.result()


def machine():
    """Return what the numbers were taken on, in words."""
    model = next(
        (line.partition(":")[2].strip() for line in cpu_lines() if line.startswith("model name")), platform.machine()
    )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "pymoo", "cma", "optuna", "botorch"))
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, {libraries}"


def cpu_lines():
    file = Path("/proc/cpuinfo")
    return file.read_text().splitlines() if file.exists() else []


def parsed(words=None):
    parser = argparse.ArgumentParser(description="Search strategies beside baselines, at equal budgets.")
    default = Path(tempfile.gettempdir()) / "mergefront-search-quality"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=["quality", "clock", "loop"])
    parser.add_argument("--problems", type=lambda text: text.split(","), default=list(PROBLEMS))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=methods())
    parser.add_argument("--default", default=DEFAULT, help="the strategy that targets are checked for")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=240)
    parser.add_argument("--slow-seeds", type=int, default=5, help=f"seeds of {', '.join(sorted(SLOW))}")
    parser.add_argument("--slow-budget", type=int, default=60)
    parser.add_argument("--slow-problems", type=lambda text: text.split(","), default=list(SLOW_PROBLEMS))
    parser.add_argument("--clock-seeds", type=int, nargs=2, default=(20, 3), help="with 8 and with 1,000 workers")
    parser.add_argument(
        "--live-size", type=int, nargs=2, default=(60, 3), metavar=("EVALUATIONS", "SEEDS"), help="of the part `live`"
    )
    parser.add_argument("--processes", type=int, default=2, help="0: everything in this process")
    parser.add_argument("--report", type=Path, help="where to write the report; default: FOLDER/report.md")
    parser.add_argument("--plots", type=Path, help="folder to write one figure for each family into")
    parser.add_argument("--quick", action="store_true", help="see whether everything runs, in seconds")
    arguments = parser.parse_args(words)
    few, many = arguments.clock_seeds
    arguments.clock = ((8, 240, few), (1000, 10_000, many))
    arguments.loop_size = {"trials": 10_000, "timed": 200}
    arguments.generations = 250
    if arguments.quick:
        arguments.folder /= "quick"
        arguments.problems = ["zoo3", "zoo2_constrained", "weights_sum", "zdt1"]
        fast = ["random", "nsga2", "greedy_soup", "nsga2_generational", "mergekit_evolve"]
        arguments.methods = list(dict.fromkeys([arguments.default, *fast]))
        arguments.seeds, arguments.budget = 2, 30
        arguments.clock = ((8, 40, 1), (30, 90, 1))
        arguments.loop_size = {"trials": 30, "timed": 10}
        arguments.generations = 20
    if wrong := set(arguments.methods) - set(methods()) or set(arguments.problems) - set(PROBLEMS):
        parser.error(f"unknown: {', '.join(sorted(wrong))}")
    if wrong := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(wrong))}; there are {', '.join(PARTS)}")
    return arguments


def main(words=None):
    arguments = parsed(words)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    if "live" in arguments.parts:
        load_zoo_module().build_zoo(arguments.folder.resolve() / "zoo")  # once, for all processes
    wanted = tasks(arguments)
    file = arguments.folder / "results.jsonl"
    alone = [task for task in wanted if task["part"] == "loop"]  # its timings are to be disturbed by nobody
    others = [task for task in wanted if task["part"] != "loop"]
    records = run_all(others, file, arguments.processes) + run_all(alone, file, min(arguments.processes, 1))
    text = report(records, arguments.default, GRID, machine())
    (arguments.report or arguments.folder / "report.md").write_text(text)
    if arguments.plots:
        write_plots(records, arguments.plots, arguments.default, GRID)
    print(text)
    print(f"{len(records)} runs; {time.perf_counter() - started:.0f} s for those that were not on record")


if __name__ == "__main__":
    main()
