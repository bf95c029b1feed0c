"""Runs merges by mergekit inside its own environment, for the other benchmarks: import once, merge many times.

Reads one JSON object a line from standard input, `{"config": ..., "out": DIRECTORY, "seed": NUMBER, "threads": NUMBER}`
with the config as mergekit's YAML has it, and answers each with `{"seconds": ...}` or `{"error": ...}` on standard
output, which mergekit itself gets no hold of.
"""

import json
import os
import sys
import time

import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions

ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)


def main() -> None:
    answer({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer({"seconds": merge(job)})
        except Exception as error:
            answer({"error": f"{type(error).__name__}: {error}"})


def merge(job: dict) -> float:
    torch.set_num_threads(job["threads"])
    options = MergeOptions(quiet=True, write_model_card=False, random_seed=job["seed"])
    started = time.perf_counter()
    run_merge(MergeConfiguration.model_validate(job["config"]), job["out"], options)
    return time.perf_counter() - started


def answer(content: dict) -> None:
    print(json.dumps(content), file=ANSWERS, flush=True)


if __name__ == "__main__":
    main()
