"""Which merge method does most for the demo's checkpoints at the same number of evaluations.

    python benchmarks/method_comparison.py [FOLDER] [--pool specialists|generalists] [--budget 48] [--seeds 3] [--quick]

The zoo's four specialists, or its eight generalists, are merged by every method: once at usual settings, and once as
well as CMA-ES finds with `--budget` candidates. A search begins at the best of three points: the usual settings, the
middle of the method's space, and the point nearest to the uniform soup. It sees the search items alone; what it liked
best is scored on the holdout items once. Calibration text of a checkpoint is what it was trained on, without anything
that tasks may ask.

A margin is the difference between two merges on the same holdout items. Its standard error is that of the paired
differences, outcomes averaged over the searches' seeds first: it says what other items would change, and not what
other seeds would, which the range over the seeds shows. The best parent is the one that the search items favour.
Milliseconds are those of one merge into the live model on one thread: the best of five, after a first.

Scores are kept in FOLDER, one file for each recipe and split, so a run that was stopped goes on where it was. Recipes
do not know the code that merges them: take another folder after a change to it.
"""

import argparse
import hashlib
import json
import logging
import math
import multiprocessing
import os
import random
import statistics
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np
from pydantic import TypeAdapter

from campaigns.objectives import Objective, macro_average
from campaigns.pools import PoolSpec
from campaigns.spaces import LinearSpace, Space, TaskArithmeticSpace
from campaigns.spec import Evaluation
from campaigns.strategies import CmaEsSearch
from mergefront.demo import load_zoo_module
from merging.calibration import CalibrationSettings
from merging.calibration.calibrate import calibrate
from merging.checkpoint import CheckpointFiles
from merging.inspection import CACHE_NAME, inspect_checkpoint
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, EvaluationSetup
from optimizer.jobs import Faulted, Job, JobResult, Scored
from optimizer.strategies import Observation, SearchProblem, build_strategy
from search_spaces import MethodMap

SEED = 0
METRICS = {"sort": "exact_match", "reverse": "exact_match", "max": "exact_match", "most": "acc"}
POOLS = {
    "specialists": ("experts", {**METRICS, "add": "exact_match", "next": "exact_match"}),
    "generalists": ("generalists", METRICS),
}
"""Folder of the checkpoints in the zoo, and what is measured of them: the demo's accuracies, or all there are."""

CALIBRATION = CalibrationSettings(kinds=("gram", "fisher"), sequences=256, sequence_length=24, batch_size=32)
"""Sequences as long as the zoo's examples: it never saw later positions."""
BEST_PARENT, SOUP = "best parent", "uniform soup"
SEARCHED, USUAL = "searched", "usual settings"
RIVALS = (BEST_PARENT, SOUP, "ties", "dare_ties")
TIMED = 5


@dataclass(frozen=True)
class Entrant:
    """A method as it is compared: its space, and numbers to use without a search, by parameter.

    They are what papers and mergekit's documentation recommend. Papers that tune a number on held-out data recommend
    none: its stand-in is one that they use.
    """

    name: str
    space: dict
    usual: dict

    def map_over(self, pool):
        """Return the map from the cube to merges of the checkpoints of `pool`."""
        return MethodMap(TypeAdapter(Space).validate_python(self.space), pool)


def entrants(checkpoints, seed):
    """Return what is compared over so many checkpoints. Random masks are drawn by the search's seed, too."""
    trimmed = {"weight": 1.0, "density": 0.2, "scale": 1.0}
    dropped = {"weight": 0.3, "density": 0.1}
    claimed = {"weight": 1.0, "density": 1.0 / checkpoints}
    return [
        Entrant("linear", {"kind": "linear"}, {}),
        Entrant("karcher", {"kind": "karcher"}, {}),
        Entrant("task_arithmetic", {"kind": "task_arithmetic"}, {"weight": 0.3}),
        Entrant("ties", {"kind": "ties"}, trimmed),
        Entrant("dare_linear", {"kind": "dare_linear", "seed": seed}, dropped),
        Entrant("dare_ties", {"kind": "dare_ties", "seed": seed}, dropped),
        Entrant("della", {"kind": "della", "seed": seed}, {**trimmed, "density": 0.3, "epsilon": 0.15}),
        Entrant("breadcrumbs_ties", {"kind": "breadcrumbs_ties"}, {**trimmed, "density": 0.9, "gamma": 0.01}),
        Entrant("model_stock", {"kind": "model_stock"}, {}),
        Entrant("sce", {"kind": "sce"}, {"top_fraction": 0.1, "scale": 1.0}),
        Entrant("consensus", {"kind": "consensus"}, {"weight": 0.3, "agreeing": 2, "mask_threshold": 0.4}),
        Entrant("ties, saliency", {"kind": "ties", "trim_by": "saliency"}, trimmed),
        Entrant("obim", {"kind": "obim"}, claimed),
        Entrant("obim, 10 rounds", {"kind": "obim", "rounds": 10}, claimed),
        Entrant("fisher", {"kind": "fisher"}, {}),
        Entrant("regmean", {"kind": "regmean"}, {"alpha": 0.9}),
    ]


def usual_point(space, usual):
    """Return the point of `space` with these numbers; coordinates that none is given for are in the middle."""
    low, high = (space.candidate((end,) * space.dimensions).parameters for end in (0.0, 1.0))
    point = []
    for name in space.names:
        wanted = usual.get(name.partition(".")[0])
        point.append(0.5 if wanted is None else (wanted - low[name]) / (high[name] - low[name]))
    return tuple(point)


def paired_margin(ours, theirs):
    """Return the difference of two macro-averages and its standard error.

    Both are lists of one array per task, of outcomes by item; the items of a task are the same, those of two tasks
    independent.
    """
    differences = [one - other for one, other in zip(ours, theirs, strict=True)]
    variances = [difference.var(ddof=1) / len(difference) for difference in differences]
    mean = math.fsum(difference.mean() for difference in differences) / len(differences)
    return float(mean), math.sqrt(math.fsum(variances)) / len(differences)


# The zoo, its pool and what it is measured on


def calibration_text(file, course, examples):
    """Write examples of a course in its proportions, as it was trained on them."""
    zoo_module = load_zoo_module()
    draw = random.Random(f"calibration/{course.name}")
    skills = draw.choices(list(course.mixture), list(course.mixture.values()), k=examples)
    drawn = {s: iter(zoo_module.problems(s, examples, f"calibration/{course.name}", False)) for s in set(skills)}
    problems = (next(drawn[skill]) for skill in skills)
    lines = [json.dumps({"text": f"{problem.prompt or '<bos>'}{problem.answer}"}) + "\n" for problem in problems]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines))


def calibrated(folder, zoo, course, sequences):
    """Return the checkpoint of a course, with statistics, as a pool names it."""
    name = Path(course.name).name
    text = folder / "texts" / f"{name}.jsonl"
    calibration_text(text, course, examples=4 * sequences)
    path = zoo / course.name
    found = inspect_checkpoint(path, name, "checkpoint", folder / CACHE_NAME)
    settings = CALIBRATION.replace(sequences=sequences)
    made = calibrate(CheckpointFiles(path, "checkpoint"), found.digest, text, folder / "calibration", settings)
    return {"name": name, "path": str(path), "statistics": str(made)}


def evaluation_setup(folder, arguments):
    """Make the zoo and the statistics unless they are there; return what an actor needs."""
    zoo_module = load_zoo_module()
    settings = zoo_module.Settings()
    sequences = CALIBRATION.sequences
    evaluation = Evaluation(search_items=200, holdout_items=600, batch_size=100)
    if arguments.quick:
        few = {"width": 32, "layers": 1, "base_steps": 60, "generalist_steps": (5, 10), "expert_steps": 10}
        settings = zoo_module.Settings(**few, examples=500, documents=100)
        sequences = 16
        evaluation = Evaluation(search_items=20, holdout_items=40, batch_size=40)
    print(f"the zoo is in {folder / 'zoo'}", flush=True)
    zoo = zoo_module.build_zoo(folder / "zoo", settings=settings)
    subfolder, metrics = POOLS[arguments.pool]
    courses = [course for course in settings.courses() if course.name.startswith(f"{subfolder}/")]
    members = [calibrated(folder, zoo, course, sequences) for course in courses]
    spec = PoolSpec(checkpoints=members, base={"name": "base", "path": str(zoo / "base")})
    objectives = [Objective(task=f"tiny_{task}", metric=name, direction="maximize") for task, name in metrics.items()]
    return EvaluationSetup(
        pool=inspect_pool(spec, [folder], [], folder),
        objectives=tuple(objectives),
        evaluation=evaluation,
        seed=SEED,
        task_folders=(str(zoo / "tasks"),),
    )


# Scores, each kept in a file


class Scorer:
    """Scores recipes on one live model, and remembers in `folder` what it found."""

    def __init__(self, setup, folder):
        self.setup = setup
        self._evaluator = CandidateEvaluator(setup)
        asked = "\n".join(part.model_dump_json() for part in (*setup.objectives, setup.evaluation))
        self._folder = folder / "scores" / hashlib.sha256(asked.encode()).hexdigest()[:16]
        self._folder.mkdir(parents=True, exist_ok=True)

    def score(self, candidate, split):
        """Return what was evaluated, or None for a merge that cannot be scored."""
        file = self._folder / f"{candidate.recipe.digest}-{split}.json"
        if file.exists():
            result = JobResult.model_validate_json(file.read_text())
        else:
            result = self._evaluator.evaluate(Job(trial_id="comparison", recipe=candidate.recipe, split=split))
            if isinstance(result.outcome, Faulted):
                raise RuntimeError(result.outcome.reason)
            with tempfile.NamedTemporaryFile("w", dir=self._folder, suffix=".part", delete=False) as written:
                written.write(result.model_dump_json())
            Path(written.name).replace(file)
        return result.outcome.evaluated if isinstance(result.outcome, Scored) else None

    def search_score(self, candidate):
        """Return the macro-average on the search items, in [0, 1]; 0 for a merge that cannot be scored."""
        evaluated = self.score(candidate, "search")
        return macro_average(self.setup.objectives, evaluated.measurements, "search") if evaluated else 0.0

    def outcomes(self, candidate):
        """Return the outcomes on the holdout items, one array per task; all 0 for a merge that cannot be scored."""
        evaluated = self.score(candidate, "holdout")
        if evaluated is None:
            return [np.zeros(self.setup.evaluation.holdout_items) for _ in self.setup.objectives]
        return [np.array(measurement.outcomes) for measurement in evaluated.measurements]

    def baselines(self):
        """Return the holdout outcomes of base, best parent and uniform soup, by name."""
        pool = self.setup.pool
        linear = MethodMap(LinearSpace(), pool)
        parents = [linear.parent(index) for index in range(len(pool.checkpoints))]
        zero = MethodMap(TaskArithmeticSpace(), pool)
        found = {
            "base": zero.candidate((0.0,) * zero.dimensions),
            BEST_PARENT: max(parents, key=self.search_score),
            SOUP: linear.uniform_soup(),
        }
        return {name: (self.search_score(candidate), self.outcomes(candidate)) for name, candidate in found.items()}

    def search(self, entrant, budget, seed):
        """Search one method's space; return what the usual settings and the best candidate found score."""
        space = entrant.map_over(self.setup.pool)
        usual = space.candidate(usual_point(space, entrant.usual))
        points = [usual.point, (0.5,) * space.dimensions, space.uniform_soup().point]
        starts = [space.candidate(point) for point in points]
        tried = list({candidate.recipe.digest: candidate for candidate in starts}.values())
        if space.dimensions:
            strategy = build_strategy(
                CmaEsSearch(), SearchProblem(space.dimensions, (1.0,) * len(self.setup.objectives), seed)
            )
            for candidate in tried:
                self._tell(strategy, candidate)
            while len(tried) < budget:
                tried.append(space.candidate(strategy.ask(())))
                self._tell(strategy, tried[-1])
        best = max(tried, key=self.search_score)
        return {
            "method": entrant.name,
            "seed": seed,
            "dimensions": space.dimensions,
            "parameters": best.parameters,
            SEARCHED: (self.search_score(best), self.outcomes(best)),
            USUAL: (self.search_score(usual), self.outcomes(usual)),
        }

    def _tell(self, strategy, candidate):
        evaluated = self.score(candidate, "search")
        losses = tuple(-measurement.value for measurement in evaluated.measurements) if evaluated else None
        strategy.tell(Observation(candidate.point, losses))


def run_one(name, budget, seed):
    """Run one search in a process that `start_process` prepared."""
    known = {entrant.name: entrant for entrant in entrants(len(SCORER.setup.pool.checkpoints), seed)}
    return SCORER.search(known[name], budget, seed)


def start_process(setup, folder):
    global SCORER  # noqa: PLW0603  a live model per process, built once
    logging.disable(logging.WARNING)
    SCORER = Scorer(setup, folder)


def merge_milliseconds(setup):
    """Return how long one merge takes by each method, by name: the best of `TIMED` random candidates, after a first."""
    live = LiveModel(PoolFiles(setup.pool), setup.pool.dtype, setup.device)
    draw = np.random.default_rng(SEED)
    best = {}
    for entrant in entrants(len(setup.pool.checkpoints), SEED):
        space = entrant.map_over(setup.pool)
        points = draw.random((1 + TIMED, space.dimensions)).tolist()
        seconds = [live.write(space.candidate(tuple(point)).recipe) for point in points]
        best[entrant.name] = 1000 * min(seconds[1:])
    return best


# The table


@dataclass(frozen=True)
class Row:
    """What is shown of a merge, or of the merges that a method's searches chose: one score for each search."""

    name: str
    search: list
    outcomes: list
    holdout: list
    dimensions: str = ""
    milliseconds: str = ""

    def cells(self, rivals):
        """Return the row as texts. `rivals` are rows by what they are called."""
        score, error = paired_margin(self.outcomes, [np.zeros_like(task) for task in self.outcomes])
        span = f"{100 * min(self.holdout):.1f} to {100 * max(self.holdout):.1f}" if self.dimensions else ""
        found = [self.name, self.dimensions, f"{100 * statistics.fmean(self.search):.1f}"]
        found += [f"{100 * score:.1f} ± {100 * error:.1f}", span]
        for rival in rivals:
            found.append("" if rival.name == self.name else shown(paired_margin(self.outcomes, rival.outcomes)))
        return [*found, self.milliseconds]


def shown(margin):
    """Return a margin with its standard error in points of the macro-average, bold beyond two standard errors."""
    difference, error = (100 * number for number in margin)
    text = f"{difference:+.1f} ± {error:.1f}"
    return f"**{text}**" if abs(difference) > 2 * error else text


def row_of(found, kind, milliseconds):
    """Return the row of one method's results; outcomes are averaged over seeds, item by item."""
    outcomes = [result[kind][1] for result in found]
    return Row(
        name=found[0]["method"],
        search=[result[kind][0] for result in found],
        outcomes=[np.mean(of_task, axis=0) for of_task in zip(*outcomes, strict=True)],
        holdout=[statistics.fmean(task.mean() for task in tasks) for tasks in outcomes],
        dimensions=str(found[0]["dimensions"]),
        milliseconds=f"{milliseconds[found[0]['method']]:.0f}",
    )


def table(results, baselines, kind, milliseconds):
    """Return the lines of a Markdown table, best on the holdout items first."""
    by_method = {}
    for result in results:
        by_method.setdefault(result["method"], []).append(result)
    rows = [row_of(found, kind, milliseconds) for found in by_method.values()]
    rows += [
        Row(name, [search], outcomes, [statistics.fmean(task.mean() for task in outcomes)])
        for name, (search, outcomes) in baselines.items()
    ]
    named = {row.name: row for row in rows}
    rivals = [named[name] for name in RIVALS]
    head = ["method", "dimensions", "search", "holdout", "seeds", *(f"over {name}" for name in RIVALS), "ms"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    rows.sort(key=lambda row: -statistics.fmean(row.holdout))
    return lines + [f"| {' | '.join(row.cells(rivals))} |" for row in rows]


def report(results, baselines, milliseconds, arguments):
    """Return the report as Markdown."""
    lines = [f"## {arguments.pool}: {arguments.budget} evaluations, seeds 0 to {arguments.seeds - 1}"]
    for kind in (SEARCHED, USUAL):
        lines += ["", f"### {kind}", "", *table(results, baselines, kind, milliseconds)]
    return "\n".join(lines) + "\n"


def parsed():
    parser = argparse.ArgumentParser(description="Merge methods on the demo's checkpoints at equal budget.")
    default = Path(tempfile.gettempdir()) / "mergefront-method-comparison"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--pool", choices=POOLS, default="specialists")
    parser.add_argument("--budget", type=int, default=48)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="see whether it runs: a zoo that learned nothing, 4 evaluations"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.budget, arguments.seeds = 4, 1
        arguments.folder /= "quick"
    return arguments


def main():
    arguments = parsed()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    setup = evaluation_setup(folder, arguments)
    start_process(setup, folder)
    baselines = SCORER.baselines()
    names = [entrant.name for entrant in entrants(len(setup.pool.checkpoints), 0)]
    spawn = multiprocessing.get_context("spawn")
    results = []
    with ProcessPoolExecutor(arguments.processes, spawn, start_process, (setup, folder)) as processes:
        running = [
            processes.submit(run_one, name, arguments.budget, seed) for seed in range(arguments.seeds) for name in names
        ]
        for count, done in enumerate(as_completed(running), start=1):
            results.append(done.result())
            print(f"{count} of {len(running)}: {results[-1]['method']}, seed {results[-1]['seed']}", flush=True)
    results.sort(key=lambda result: (names.index(result["method"]), result["seed"]))
    text = report(results, baselines, merge_milliseconds(setup), arguments)
    (folder / f"{arguments.pool}.md").write_text(text)
    chosen = [{key: result[key] for key in ("method", "seed", "parameters")} for result in results]
    (folder / f"{arguments.pool}.json").write_text(json.dumps(chosen, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
