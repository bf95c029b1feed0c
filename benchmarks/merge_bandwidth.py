"""How fast a linear merge runs in place, beside the machine's memory bandwidth, and whether memory stays flat.

    python benchmarks/merge_bandwidth.py --json merge_bandwidth.json

Method: Llama checkpoints with random bf16 weights are saved by transformers to a temporary directory and opened as a
pool. Bandwidth is bytes read plus bytes written per second. The reference is `torch.Tensor.copy_` between two buffers
that are larger than the caches, the merge is `LiveModel.write` with weights that change from candidate to candidate;
the two alternate, and each line gives the median and the best. Resident memory (which counts the mapped checkpoints)
is read after the first candidate and after the last.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.methods import LinearMerge
from campaigns.pools import CheckpointSpec, Pool, PoolSpec
from campaigns.recipe import Recipe
from merging.live import LiveModel
from merging.pool_files import PoolFiles
from merging.pool_report import inspect_pool

COPY_BYTES = 512 << 20
ROUNDS = 15


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
        report = measure(Path(folder), arguments)
    print_table(report)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--layers", type=int, default=12, help="12 layers of width 768 make about 100M parameters")
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--candidates", type=int, default=500, help="how many to write while watching memory")
    parser.add_argument("--directory", type=Path, help="where the temporary checkpoints go")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser.parse_args()


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    show("making checkpoints")
    pool = make_pool(folder, arguments)
    pool_files = PoolFiles(pool)
    moved_bytes = 2 * pool.parameter_count * (len(pool.checkpoints) + 1)
    source, target = torch.ones(COPY_BYTES, dtype=torch.uint8), torch.zeros(COPY_BYTES, dtype=torch.uint8)
    compiled, plain = (LiveModel(pool_files, "bfloat16", compiled=choice) for choice in (True, False))
    show("compiling")
    first_seconds = compiled.write(recipe(pool, 0))
    rows = measure_in_turns(
        {
            "copy_ of a large buffer": (2 * COPY_BYTES, lambda number: target.copy_(source)),
            "linear merge, compiled": (moved_bytes, lambda number: compiled.write(recipe(pool, number))),
            "linear merge, plain": (moved_bytes, lambda number: plain.write(recipe(pool, number))),
        }
    )
    memory = measure_memory(compiled, pool, arguments.candidates)
    return {
        "parameters": pool.parameter_count,
        "checkpoints": len(pool.checkpoints),
        "threads": arguments.threads,
        "first_merge_seconds": first_seconds,
        "rows": rows,
        "memory": memory,
    }


def make_pool(folder: Path, arguments: argparse.Namespace) -> Pool:
    config = LlamaConfig(
        vocab_size=16_384,
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 8 // 3,
        num_hidden_layers=arguments.layers,
        num_attention_heads=12,
        num_key_value_heads=12,
        tie_word_embeddings=True,
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>")))
    for index in range(arguments.checkpoints):
        torch.manual_seed(index)
        path = folder / f"c{index}"
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
        tokenizer.save_pretrained(path)
    specs = tuple(CheckpointSpec(name=f"c{i}", path=str(folder / f"c{i}")) for i in range(arguments.checkpoints))
    return inspect_pool(PoolSpec(checkpoints=specs), [folder], [], None)


def recipe(pool: Pool, number: int) -> Recipe:
    """The candidate of that number: all weights differ from zero and from those of the one before."""
    raw = [1 + (number * 7 + index * 3) % 11 for index in range(len(pool.checkpoints))]
    weights = tuple(weight / sum(raw) for weight in raw)
    sources = tuple(c.digest for c in pool.checkpoints)
    return Recipe(method=LinearMerge(weights=weights), sources=sources, template=sources[0], dtype="bfloat16")


def measure_in_turns(tasks: dict[str, tuple[int, Callable[[int], Any]]]) -> list[dict[str, Any]]:
    """Run the tasks in turns, after one round to warm up, so that a noisy neighbour disturbs all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for number in range(ROUNDS + 1):
        for name, (_, run) in tasks.items():
            started = time.perf_counter()
            run(number)
            if number:
                seconds[name].append(time.perf_counter() - started)
        show(f"round {number} of {ROUNDS}")
    return [
        {
            "name": name,
            "median_gb_per_second": size / statistics.median(seconds[name]) / 1e9,
            "best_gb_per_second": size / min(seconds[name]) / 1e9,
            "median_milliseconds": statistics.median(seconds[name]) * 1e3,
        }
        for name, (size, _) in tasks.items()
    ]


def measure_memory(live: LiveModel, pool: Pool, candidates: int) -> dict[str, Any]:
    process = psutil.Process()
    before = process.memory_info().rss
    for number in range(candidates):
        live.write(recipe(pool, number))
        if number % 50 == 0:
            show(f"candidate {number} of {candidates}")
    after = process.memory_info().rss
    return {"candidates": candidates, "rss_before_mib": before / 2**20, "rss_after_mib": after / 2**20}


def show(message: str) -> None:
    print(f"\r{message:<60}", end="", file=sys.stderr, flush=True)


def print_table(report: dict[str, Any]) -> None:
    copy = report["rows"][0]
    print(f"\r{report['checkpoints']} x {report['parameters'] / 1e6:.0f}M bf16, {report['threads']} threads" + " " * 30)
    print(f"{'':<26}{'median GB/s':>12}{'best GB/s':>11}{'median ms':>11}{'of copy_':>10}")
    for row in report["rows"]:
        share = row["median_gb_per_second"] / copy["median_gb_per_second"]
        print(
            f"{row['name']:<26}{row['median_gb_per_second']:>12.1f}{row['best_gb_per_second']:>11.1f}"
            f"{row['median_milliseconds']:>11.1f}{share:>10.0%}"
        )
    memory = report["memory"]
    print(f"first merge, with compiling: {report['first_merge_seconds']:.1f} s")
    print(
        f"resident memory over {memory['candidates']} candidates: "
        f"{memory['rss_before_mib']:.1f} -> {memory['rss_after_mib']:.1f} MiB"
    )


if __name__ == "__main__":
    main()
