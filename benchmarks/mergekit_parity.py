"""Whether Mergefront merges as mergekit does: both read the same YAML files, and their models are compared.

    python benchmarks/mergekit_parity.py [--json FILE]

Small Llama checkpoints (1.4M parameters, sides that are no powers of two; a base and fine-tunes of it) are made in four
kinds: bf16; float32; float32 with fine-tunes ten times further from the base ("far"); and bf16 with fine-tunes so near
to the base that task vectors have few distinct values ("ties"). Every case is one mergekit file with
`out_dtype: bfloat16`. Two results agree in an element when they are at most one bf16 step apart. Of those elements
that are further apart, `rounding` counts where terms cancel, and the difference is no more than float32 rounds off the
inputs (4 x 2^-24 of the largest); `ties` where a cut between kept and dropped goes through equal magnitudes, among
which mergekit's sort chooses in no order, and Mergefront takes the earlier. `left` is the fraction that neither
explains; `of reference`, the formulas in float64 (reference_merges.py), tells who is off. Two known departures from
the formulas (`DEVIATIONS`) count as such only in the comparison of the tools.

1. mergekit computes in float32 (`dtype: float32`), as Mergefront always does.
2. mergekit computes in bf16 (`dtype: bfloat16`): what that costs.
3. Methods that drop at random, over many seeds: how often an element is kept, how much what is kept is enlarged, and
   whether mean and variance of the merged task vector are those of all 2^K outcomes weighed by their probabilities.
   mergekit enlarges to the same L1 norm, Mergefront by 1 / probability.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import reference_merges as reference
import torch
from mergekit_cases import BF16_CASES, CASES, KINDS, RANDOM_CASES, Case, Tensors, Tools, load, make_checkpoints
from mergekit_environment import Mergekit, default_folder, mergekit_python
from random_parity import random_rows

DEVIATIONS = {("mergekit", "sce"): {"alike_below": 1e-6}, ("mergefront", "model_stock"): {"clamp": True}}
"""Where a tool departs from the formula and is judged by its own: mergekit's SCE weighs all sources alike where the
squares of their task vectors average to less than 1e-6 in sum, Mergefront's model stock stays at the base where the
mean cosine is negative and mergekit's goes beyond it."""
DEVIATING = {method for _, method in DEVIATIONS}
COLUMNS = (("apart", 9), ("rounding", 10), ("ties", 9), ("left", 9))


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(1)
    python = mergekit_python(arguments.environment)
    report: dict[str, Any] = {"float32": [], "bfloat16": [], "random": []}
    with tempfile.TemporaryDirectory() as temporary, Mergekit(python) as mergekit:
        folder = Path(temporary)
        make_checkpoints(folder)
        tools = Tools(folder, mergekit)
        chosen = [case for case in CASES if arguments.only in case.name]
        for kind, case in itertools.product(arguments.kinds, chosen):
            report["float32"].append(compare(tools, kind, case, "float32"))
        for case in chosen:
            if case.name in BF16_CASES and "bf16" in arguments.kinds:
                report["bfloat16"].append(compare(tools, "bf16", case, "bfloat16"))
        print_comparisons("mergekit in float32", report["float32"])
        print_summary(report["float32"])
        print_comparisons("mergekit in bfloat16", report["bfloat16"])
        for case in RANDOM_CASES:
            if arguments.only in case.name:
                show(case.name)
                report["random"] += random_rows(tools, case, arguments.seeds)
        print_random(report["random"], arguments.seeds)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--environment", type=Path, default=default_folder(), help="mergekit's, made if need be")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="kinds of checkpoints")
    parser.add_argument("--only", default="", help="only the cases that have this in their name")
    parser.add_argument("--seeds", type=int, default=16, help="how many seeds of the methods that drop at random")
    parser.add_argument("--json", type=Path, help="also write all figures to this file")
    return parser.parse_args()


@dataclass(frozen=True)
class Wanted:
    """What a tensor should be, and where it could as well be something else.

    `rounding`: what float32 rounds off sums of the inputs. `at_cut`: equal magnitudes on both sides of a cut.
    `at_zero`: elected signs of sums that cancel; it counts beside the reference only, as both tools add up in float32.
    """

    merged: torch.Tensor
    rounding: torch.Tensor
    at_cut: torch.Tensor
    at_zero: torch.Tensor


def compare(tools: Tools, kind: str, case: Case, dtype: str) -> dict[str, Any]:
    """Return one row: how far both tools are from each other and from the reference."""
    show(f"{kind}: {case.name}")
    document = case.document(tools.folder / kind, dtype)
    row: dict[str, Any] = {"checkpoints": kind, "method": case.method, "case": case.name}
    try:
        wanted = reference_merge(case, tools.folder / kind, "mergekit")
        theirs = tools.mergekit(document)
        row["mergekit_of_reference"] = differences(theirs, None, wanted)
        ours = tools.mergefront(document)
        own = reference_merge(case, tools.folder / kind, "mergefront") if case.method in DEVIATING else wanted
        row["mergefront_of_reference"] = differences(ours, None, own)
        row["mergefront_of_mergekit"] = differences(ours, theirs, wanted)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {error}"
    return row


def reference_merge(case: Case, folder: Path, tool: str) -> dict[str, Wanted]:
    sources = [load(folder / name) for name in case.sources]
    merge: Callable[..., Any] = getattr(reference, case.method)
    wanted = {}
    for name, tensor in load(folder / "base").items():
        inputs, base = [source[name].double().numpy() for source in sources], tensor.double().numpy()
        parameters = case.parameters(name)
        deviation = DEVIATIONS.get((tool, case.method), {})
        merged = merge(inputs, base if case.base else None, **parameters, **deviation)
        rounding = 4 * 2.0**-24 * np.max(np.abs([base, *inputs]), axis=0)
        masks = reference.undetermined(case.method, inputs, base, parameters)
        at_cut, at_zero = (torch.from_numpy(mask) for mask in masks)
        wanted[name] = Wanted(torch.from_numpy(merged).bfloat16(), torch.from_numpy(rounding), at_cut, at_zero)
    return wanted


def differences(found: Tensors, other: Tensors | None, wanted: dict[str, Wanted]) -> dict[str, Any]:
    """Return how many elements are unequal and how many more than a step apart from `other`, by default the reference.

    Of those apart, `by_rounding` and `by_ties` are explained; `tensors` says where the others are. `largest` is the
    largest difference of elements that are apart.
    """
    of_reference = other is None
    other = other or {name: tensor.merged for name, tensor in wanted.items()}
    if found.keys() != other.keys():
        raise ValueError(f"tensors differ: {sorted(found.keys() ^ other.keys())}")
    row: dict[str, Any] = {"elements": 0, "unequal": 0, "apart": 0, "by_rounding": 0, "by_ties": 0, "largest": 0.0}
    row["tensors"] = {}
    for name, tensor in wanted.items():
        steps = steps_apart(found[name], other[name])
        difference = (found[name].double() - other[name].double()).abs()
        apart = steps > 1
        rounded = apart & (difference <= tensor.rounding)
        tied = apart & ~rounded & (tensor.at_cut | (tensor.at_zero & of_reference))
        row["elements"] += steps.numel()
        row["unequal"] += int((steps > 0).sum())
        row["apart"] += int(apart.sum())
        row["by_rounding"] += int(rounded.sum())
        row["by_ties"] += int(tied.sum())
        row["largest"] = max(row["largest"], float((difference * apart).max()))
        if left := int((apart & ~rounded & ~tied).sum()):
            row["tensors"][name] = left
    return row | {"fraction": sum(row["tensors"].values()) / row["elements"]}


def steps_apart(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return how many bf16 numbers lie between the elements, plus one; 0 where they are equal (0 and -0 are)."""
    return (bf16_rank(found) - bf16_rank(wanted)).abs()


def bf16_rank(tensor: torch.Tensor) -> torch.Tensor:
    bits = tensor.view(torch.int16).int()
    return torch.where(bits < 0, -(bits & 0x7FFF), bits)


def show(message: str) -> None:
    print(f"\r{message:<70}", end="", file=sys.stderr, flush=True)


def print_comparisons(title: str, rows: list[dict[str, Any]]) -> None:
    show("")
    print(f"\r{title}: elements more than one bf16 step apart")
    print(f"{'':<41}{'Mergefront of mergekit':>55}{'mergekit of reference':>37}{'Mergefront of reference':>37}")
    columns = "".join(f"{name:>{width}}" for name, width in COLUMNS)
    print(f"{'checkpoints':<12}{'case':<29}{'elements':>9}{'largest':>9}{columns}{columns}{columns}")
    for row in rows:
        pairs = [row.get(key) for key in ("mergefront_of_mergekit", "mergekit_of_reference", "mergefront_of_reference")]
        line = f"{row['checkpoints']:<12}{row['case']:<29}"
        line += f"{pairs[0]['elements']:>9}{pairs[0]['largest']:>9.0e}" if pairs[0] else f"{'':>18}"
        for found in pairs:
            figures = [found[key] for key in ("apart", "by_rounding", "by_ties")] if found else [""] * 3
            figures.append(f"{found['fraction']:.1e}" if found else "")
            line += "".join(f"{figure:>{width}}" for figure, (_, width) in zip(figures, COLUMNS, strict=True))
        print(line + (f"  {row['error'][:90]}" if "error" in row else ""))


def print_summary(rows: list[dict[str, Any]]) -> None:
    """Print, by method, the largest fraction left of all its cases."""
    print("\nlargest fraction left, by method")
    print(f"{'':<20}{'cases':>6}{'Mergefront of mergekit':>24}{'mergekit of reference':>24}{'Mergefront of':>16}")
    for method in dict.fromkeys(row["method"] for row in rows):
        cases = [row for row in rows if row["method"] == method]
        line = f"{method:<20}{len(cases):>6}"
        for key, width in (
            ("mergefront_of_mergekit", 24),
            ("mergekit_of_reference", 24),
            ("mergefront_of_reference", 16),
        ):
            found = [row[key]["fraction"] for row in cases if key in row]
            line += f"{max(found):>{width}.1e}" if len(found) == len(cases) else f"{'failed':>{width}}"
        print(line)
    print()


def print_random(rows: list[dict[str, Any]], seeds: int) -> None:
    show("")
    print(f"\rrandom methods over {seeds} seeds; the first source has density 0.3")
    print(
        f"{'case':<26}{'tool':<12}{'kept':>17}{'lowest':>8}{'highest':>8}{'by two':>8}{'enlarged':>9}"
        f"{'slope':>17}{'scatter':>9}"
    )
    for row in rows:
        line = f"{row['case']:<26}{row['tool']:<12}"
        if "error" in row:
            print(line + row["error"][:90])
            continue
        line += f"{row['kept']:>8.4f} ±{row['kept_error']:.4f}"
        line += f"{row['kept_of_smallest_tenth']:>8.3f}{row['kept_of_largest_tenth']:>8.3f}"
        line += f"{row['kept_by_two_seeds']:>8.4f}{row['enlarged']:>9.4f}"
        print(line + f"{row['slope']:>9.4f} ±{row['slope_error']:.4f}{row['scatter']:>9.3f}")


if __name__ == "__main__":
    main()
