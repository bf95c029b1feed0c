"""What racing over items saves and costs: whole campaigns on the tiny zoo, with and without it, under equal seeds.

    python benchmarks/racing.py FOLDER [--zoo DIRECTORY] [--strategies gp_hypervolume,nsga2] [--seeds 0 1 2 3 4]

Each campaign is the real loop with the real evaluator in this process: eight generalists, three accuracies, SQLite. The
front that it ends with, and the parents, are scored on holdout items as always. Compared are the item evaluations of
the search (candidates alone: baselines are scored on all items either way) and the hypervolume of the front's holdout
scores. Every campaign's result is kept in FOLDER, and not run again. `--table` prints the results so far as a table.
"""

import argparse
import json
import logging
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import numpy as np

from campaigns.spec import parse_spec
from campaigns.states import TrialState
from fronts.pareto import frozen_reference_point, hypervolume
from mergefront.demo import load_zoo_module
from merging.pool_report import inspect_pool
from optimizer.candidate_evaluator import CandidateEvaluator, evaluation_setup
from optimizer.executors.local import LocalExecutor
from optimizer.loop import SearchLoop
from optimizer.strategies import SearchProblem, build_strategy
from search_spaces import build_space
from storage import Store

LEASE_SECONDS = 86_400.0
TASKS = {"max": "exact_match", "most": "acc", "sort": "exact_match"}
RACES = {"full": None, "race": {}, "strict": {"tolerance": 0.1}, "anchors": {"anchors": True}}


def campaign_spec(zoo, strategy, seed, race, items, evaluations):  # noqa: PLR0913  what campaigns differ in
    return parse_spec(
        {
            "name": f"{strategy} {race}",
            "pool": {
                "checkpoints": [{"name": p.name, "path": str(p)} for p in sorted((zoo / "generalists").iterdir())]
            },
            "objectives": [
                {"task": f"tiny_{task}", "metric": metric, "direction": "maximize"} for task, metric in TASKS.items()
            ],
            "evaluation": {"search_items": items, "holdout_items": 400, "batch_size": 100, "racing": RACES[race]},
            "strategy": {"kind": strategy},
            "budget": {"evaluations": evaluations},
            "resources": {"actors": 1},
            "seed": seed,
        }
    )


def run_campaign(spec, zoo, folder):
    """Run the campaign to its end; return its trials."""
    pool = inspect_pool(spec.pool, [zoo], [], folder)
    evaluator = CandidateEvaluator(evaluation_setup(spec, pool, (str(zoo / "tasks"),)))
    space = build_space(spec, pool)
    problem = SearchProblem(space.dimensions, tuple(o.weight for o in spec.objectives), spec.seed)
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(f"sqlite:///{directory}/racing.db")
        campaign = store.create_campaign(spec, pool)
        lease = store.lease_next("benchmark", LEASE_SECONDS)
        executor = LocalExecutor(evaluator.evaluate, slots=1)
        final = SearchLoop(store, lease, executor, build_strategy(spec.strategy, problem), space).run()
        trials = store.trials(campaign.id)
        store.close()
    return final, trials


def result_of(spec, final, trials):
    """Return what is compared of a campaign: costs, sizes, and the front's scores on holdout items."""
    candidates = [trial for trial in trials if trial.candidate.kind == "candidate"]

    def losses(trial, split):
        return [objective.loss(trial.value(objective.name, split)) for objective in spec.objectives]

    front = [trial for trial in trials if trial.id in final.summary.front]
    return {
        "item_evaluations": sum(m.items for t in candidates for m in t.measurements if m.split == "search"),
        "candidates": len(candidates),
        "pruned": sum(trial.state is TrialState.PRUNED for trial in candidates),
        "search_seconds": sum(trial.timings["search"].total_seconds for trial in candidates if trial.timings),
        "search_hypervolume": final.summary.hypervolume,
        "parents": [losses(trial, "holdout") for trial in trials if trial.candidate.is_baseline],
        "front": [losses(trial, "holdout") for trial in front],
    }


def compare(full, raced):
    """Return (share of the item evaluations, ratio of the holdout hypervolumes, seconds) of a raced campaign."""
    reference = frozen_reference_point([tuple(point) for point in full["parents"]])
    volumes = [hypervolume([tuple(point) for point in each["front"]], reference) for each in (full, raced)]
    return (
        raced["item_evaluations"] / full["item_evaluations"],
        volumes[1] / volumes[0],
        raced["search_seconds"] / full["search_seconds"],
    )


def table(folder, strategies, seeds, items):
    print("| strategy | race | seeds | item evaluations | search time | holdout hypervolume | front, full and raced |")
    print("|---|---|---|---|---|---|---|")
    for strategy in strategies:
        for race in list(RACES)[1:]:
            files = [[folder / name_of(strategy, each, seed, items) for each in ("full", race)] for seed in seeds]
            pairs = [[json.loads(file.read_text()) for file in pair] for pair in files if all(f.exists() for f in pair)]
            if not pairs:
                continue
            rows = np.array([compare(*pair) for pair in pairs])
            cost, volume, seconds = (f"{m:.3f} ({a:.3f} to {b:.3f})" for m, a, b in spread(rows))
            sizes = [np.mean([len(pair[index]["front"]) for pair in pairs]) for index in (0, 1)]
            sizes = f"{sizes[0]:.0f}, {sizes[1]:.0f}"
            print(f"| {strategy} | {race} | {len(pairs)} | {cost} | {seconds} | {volume} | {sizes} |")


def spread(rows):
    return zip(rows.mean(axis=0), rows.min(axis=0), rows.max(axis=0), strict=True)


def name_of(strategy, race, seed, items):
    return f"{strategy}-{race}-{seed}-{items}.json"


def main():
    parser = argparse.ArgumentParser(description="Compare campaigns with and without racing.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--zoo", type=Path, help="a zoo that was made before; default: made in FOLDER")
    parser.add_argument("--strategies", default="gp_hypervolume,nsga2", help="by name, separated by commas")
    parser.add_argument("--races", default="full,race", help=f"of {', '.join(RACES)}, separated by commas")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--items", type=int, default=200, help="search items of each task")
    parser.add_argument("--evaluations", type=int, default=96)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, and stop")
    arguments = parser.parse_args()
    folder, strategies = arguments.folder.resolve(), arguments.strategies.split(",")
    if arguments.table:
        return table(folder, strategies, arguments.seeds, arguments.items)
    logging.disable(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    zoo = load_zoo_module().build_zoo((arguments.zoo or folder / "zoo").resolve())
    for seed in arguments.seeds:
        for strategy in strategies:
            for race in arguments.races.split(","):
                file = folder / name_of(strategy, race, seed, arguments.items)
                if not file.exists():
                    spec = campaign_spec(zoo, strategy, seed, race, arguments.items, arguments.evaluations)
                    file.write_text(json.dumps(result_of(spec, *run_campaign(spec, zoo, folder))))
                    print(file.stem, flush=True)
    return table(folder, strategies, arguments.seeds, arguments.items)


if __name__ == "__main__":
    main()
