"""Record evaluations of the tiny zoo's merges, from which the search benchmark makes its surrogate.

    python benchmarks/record_zoo.py FOLDER [--zoo DIRECTORY] [--shard 0] [--points 1500] [--items 300]
    python benchmarks/record_zoo.py FOLDER --write benchmarks/data/zoo_evaluations.csv.gz
    python benchmarks/record_zoo.py FOLDER [--zoo DIRECTORY] --check-front 24

Each shard is a process with one live model that scores points of the demo's space, linear merges of eight generalists,
on one item set that is common to all. The points take turns: a Sobol sequence over the cube, mixtures of few
checkpoints, NSGA-II over all objectives, and short runs of CMA-ES on random weightings, so that good regions are dense.
A shard appends each result to its file and goes on from there when it is started again: the strategies are told what is
on record. `--write` puts the shards' records into one table. `--check-front` evaluates merges that the surrogate holds
for its best, and prints by how much it is wrong there.
"""

import argparse
import csv
import gzip
import io
import json
import logging
import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np

from campaigns.objectives import Objective
from campaigns.pools import PoolSpec
from campaigns.spaces import LinearSpace
from campaigns.spec import Evaluation
from campaigns.strategies import CmaEsSearch, Nsga2Search, SobolSearch
from mergefront.demo import load_zoo_module
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, EvaluationSetup
from optimizer.jobs import Job, Scored
from optimizer.strategies import Observation, SearchProblem, build_strategy
from search_spaces import MethodMap

METRICS = {
    "max": "exact_match",
    "most": "acc",
    "sort": "exact_match",
    "reverse": "exact_match",
    "text": "bits_per_byte",
}
KINDS = ("sobol", "mixture", "nsga2", "cma_es")
RUN_LENGTH = 60
"""Evaluations of one CMA-ES run, after which the next one begins with another weighting."""


def rounded(point):
    """Return the point with 4 decimals: what is on record is what was evaluated."""
    return tuple(round(float(unit), 4) for unit in point)


def evaluation_setup(zoo, folder, items):
    """Return what the live model needs: the eight generalists, five tasks, `items` items of each."""
    objectives = tuple(
        Objective(task=f"tiny_{task}", metric=metric, direction="minimize" if task == "text" else "maximize")
        for task, metric in METRICS.items()
    )
    members = [{"name": path.name, "path": str(path)} for path in sorted((zoo / "generalists").iterdir())]
    return EvaluationSetup(
        pool=inspect_pool(PoolSpec(checkpoints=members), [zoo], [], folder),
        objectives=objectives,
        evaluation=Evaluation(search_items=items, holdout_items=0, batch_size=items),
        seed=0,
        task_folders=(str(zoo / "tasks"),),
    )


class PointSource:
    """Chooses what to evaluate next from what is on record: parents and soup first, then the kinds in turn."""

    def __init__(self, space, checkpoints, shard):
        self._seed = 1000 * (shard + 1)
        self._first = [space.parent(index).point for index in range(checkpoints)] + [space.uniform_soup().point]
        self._dimensions = space.dimensions
        problem = SearchProblem(space.dimensions, (1.0,) * len(METRICS), self._seed)
        self._sobol = build_strategy(SobolSearch(), problem)
        self._nsga2 = build_strategy(Nsga2Search(population_size=100, initial_points=1), problem)
        self._cma_es = None
        self._told = []
        self._counts = dict.fromkeys(KINDS, 0)

    def next(self):
        """Return the kind of the next point, and the point."""
        if len(self._told) < len(self._first):
            return "baseline", rounded(self._first[len(self._told)])
        kind = KINDS[(len(self._told) - len(self._first)) % len(KINDS)]
        count = self._counts[kind]
        self._counts[kind] += 1
        if kind == "mixture":
            return kind, self._mixture(count)
        if kind == "cma_es" and count % RUN_LENGTH == 0:
            self._start_run(count // RUN_LENGTH)
        strategy = {"sobol": self._sobol, "nsga2": self._nsga2, "cma_es": self._cma_es}[kind]
        self._asked = strategy.ask(())
        return kind, rounded(self._asked)

    def tell(self, kind, point, losses):
        """Tell the result of the point that `next` returned."""
        self._told.append((point, losses))
        self._nsga2.tell(Observation(point, losses))
        if kind == "cma_es":
            self._cma_es.tell(Observation(self._asked, self._scaled(losses)))

    def _mixture(self, count):
        """Draw weights of two to four checkpoints, uniform on their simplex, and a little of all others."""
        draw = np.random.default_rng([self._seed, count])
        members = draw.choice(self._dimensions, draw.integers(2, 5), replace=False)
        weights = draw.uniform(0.0, 0.1) * draw.random(self._dimensions)
        weights[members] += draw.dirichlet(np.ones(len(members)))
        return rounded(weights / weights.max())

    def _start_run(self, run):
        draw = np.random.default_rng([self._seed, 1, run])
        weights = tuple(draw.dirichlet(np.ones(len(METRICS))).tolist())
        problem = SearchProblem(self._dimensions, weights, self._seed + run)
        self._cma_es = build_strategy(CmaEsSearch(), problem)
        for point, losses in self._told:
            self._cma_es.tell(Observation(point, self._scaled(losses)))

    def _scaled(self, losses):
        """Return losses in units of their range over the baselines: bits and accuracies do not add up."""
        baselines = np.array([losses for _, losses in self._told[: len(self._first)]])
        return tuple((np.array(losses) / np.ptp(baselines, axis=0)).tolist())


def record(arguments):
    """Evaluate points until the shard's file has as many as were asked for."""
    logging.disable(logging.WARNING)
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    zoo = load_zoo_module().build_zoo((arguments.zoo or folder / "zoo").resolve())
    setup = evaluation_setup(zoo, folder, arguments.items)
    space = MethodMap(LinearSpace(), setup.pool)
    source = PointSource(space, len(setup.pool.checkpoints), arguments.shard)
    file = folder / f"shard{arguments.shard}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    for line in map(json.loads, lines):
        kind, point = source.next()
        if list(point) != line["point"] or line["items"] != arguments.items:
            raise SystemExit(f"{file} was recorded otherwise: take another folder")
        source.tell(kind, point, tuple(line["losses"]))
    evaluator = CandidateEvaluator(setup)
    for _ in range(len(lines), arguments.points):
        kind, point = source.next()
        recipe = space.candidate(point).recipe
        result = evaluator.evaluate(Job(trial_id="record", recipe=recipe, split="search"))
        if not isinstance(result.outcome, Scored):
            raise SystemExit(result.outcome.reason)
        evaluated = result.outcome.evaluated
        losses = tuple(o.loss(m.value) for o, m in zip(setup.objectives, evaluated.measurements, strict=True))
        line = {
            "kind": kind,
            "point": point,
            "losses": losses,
            "standard_errors": [measurement.standard_error for measurement in evaluated.measurements],
            "items": arguments.items,
            "seconds": evaluated.timing.total_seconds,
        }
        with file.open("a") as opened:
            opened.write(json.dumps(line) + "\n")
        source.tell(kind, point, losses)


def check_front(arguments):
    """Evaluate points of the front that a long search of the surrogate ends with; print the surrogate's errors."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize
    from search_problems import Minimised, build_problem, merge_weights, zoo_surrogate

    logging.disable(logging.WARNING)
    zoo = load_zoo_module().build_zoo((arguments.zoo or arguments.folder / "zoo").resolve())
    setup = evaluation_setup(zoo, arguments.folder.resolve(), arguments.items)
    space = MethodMap(LinearSpace(), setup.pool)
    front = minimize(Minimised(build_problem("zoo3")), NSGA2(pop_size=100), ("n_gen", 100), seed=2).X
    points = np.random.default_rng(0).permutation(front)[: arguments.check_front].round(4)
    evaluator = CandidateEvaluator(setup)
    errors = []
    for point, predicted in zip(points.tolist(), zoo_surrogate().losses(merge_weights(points)), strict=True):
        job = Job(trial_id="check", recipe=space.candidate(tuple(point)).recipe, split="search")
        measured = evaluator.evaluate(job).outcome.evaluated.measurements
        errors.append([p - o.loss(m.value) for p, o, m in zip(predicted, setup.objectives, measured, strict=True)])
    for name, column in zip(METRICS, np.array(errors).T, strict=True):
        print(f"{name:8} mean {column.mean():+.4f}, root mean square {np.sqrt((column**2).mean()):.4f}")


def write_table(folder, target):
    """Put every shard's records into one compressed CSV; points on record twice are kept once."""
    shards = sorted(folder.glob("shard*.jsonl"))
    lines = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    rows = {tuple(line["point"]): line for line in lines}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    dimensions = len(lines[0]["point"])
    writer.writerow(
        [
            "kind",
            "items",
            *(f"w{index}" for index in range(dimensions)),
            *METRICS,
            *(f"{name}_error" for name in METRICS),
        ]
    )
    for point, line in rows.items():
        losses = [f"{loss:.6g}" for loss in line["losses"]]
        errors = [f"{error:.4g}" for error in line["standard_errors"]]
        writer.writerow([line["kind"], line["items"], *(f"{unit:g}" for unit in point), *losses, *errors])
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
    print(f"{len(rows)} evaluations, {target.stat().st_size / 1024:.0f} KiB")


def main():
    parser = argparse.ArgumentParser(description="Record evaluations of the tiny zoo's merges.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zoo", type=Path, help="a zoo that was made before; default: made in FOLDER")
    parser.add_argument("--shard", type=int, default=0, help="each shard has points, and a file, of its own")
    parser.add_argument("--points", type=int, default=1500)
    parser.add_argument("--items", type=int, default=300, help="items of each task")
    parser.add_argument("--write", type=Path, help="write the table of what is on record, and stop")
    parser.add_argument("--check-front", type=int, help="evaluate so many points of the surrogate's front, and stop")
    arguments = parser.parse_args()
    if arguments.write:
        write_table(arguments.folder, arguments.write)
    elif arguments.check_front:
        check_front(arguments)
    else:
        record(arguments)


if __name__ == "__main__":
    main()
