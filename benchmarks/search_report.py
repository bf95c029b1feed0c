"""The report of the search benchmark: tables in Markdown and one figure per family.

Hypervolumes are shown as shares of what there is to be gained: 0 is what was known at the start (the parents and the
uniform soup, or nothing), 1 what a noise-free run of 50,000 evaluations reaches.
"""

import math
from collections import defaultdict

import numpy as np
from scipy.stats import wilcoxon
from search_problems import build_problem

SHOWN = (10, 30, 60, 120, 240)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
FEWEST = 3
"""Seeds below which no quartiles are given."""

CHANCE = 0.05
TARGET_AT, RIVAL, RIVAL_AT = 60, "nsga2_generational", 240


def shares_by_method(records, grid):
    """Return {problem: {method: seeds x grid}}; numbers of evaluations that a method's budget left out are NaN."""
    unit = units(records)
    rows = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record["part"] != "quality":
            continue
        volumes = record["found"]["hypervolumes"]
        first = volumes[0]
        most = unit[record["problem"]]
        scaled = [(volume - first) / (most - first) for volume in volumes]
        rows[record["problem"]][record["method"]].append(scaled + [math.nan] * (len(grid) - len(scaled)))
    return {problem: {m: np.array(found) for m, found in by_method.items()} for problem, by_method in rows.items()}


def units(records):
    """Return the hypervolume that counts as 1, by problem: the best of all runs where there is no noise-free one."""
    found = {}
    for record in records:
        if record["part"] == "quality":
            found[record["problem"]] = max(found.get(record["problem"], -math.inf), *record["found"]["hypervolumes"])
    noise_free = {
        record["problem"]: record["found"]["hypervolume"] for record in records if record["part"] == "attainable"
    }
    return found | noise_free


def quartiles(values):
    """Return the lower quartile, the median and the upper quartile."""
    return tuple(float(number) for number in np.percentile(values, [25, 50, 75]))


def shown(values):
    """Return "median (lower to upper quartile)", or the median alone of few seeds."""
    if np.isnan(values).any():
        return ""
    lower, middle, upper = quartiles(values)
    return f"{middle:.3f}" if len(values) < FEWEST else f"{middle:.3f} ({lower:.3f} to {upper:.3f})"


def table(head, rows):
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def quality_tables(records, grid):
    """Return a table for each problem: methods by their share at the end, best first."""
    lines = []
    cost = seconds_per_evaluation(records)
    columns = [count for count in SHOWN if count in grid]
    for problem, by_method in shares_by_method(records, grid).items():
        order = sorted(by_method, key=lambda method: -np.nanmax(np.median(by_method[method], axis=0)))
        rows = []
        for method in order:
            found = by_method[method]
            cells = [shown(found[:, grid.index(count)]) for count in columns]
            rows.append([method, str(len(found)), *cells, f"{1000 * cost[problem, method]:.1f}"])
        head = ["method", "seeds", *(f"at {count}" for count in columns), "ms per evaluation"]
        lines += ["", f"### {problem}", "", *table(head, rows)]
    return lines


def seconds_per_evaluation(records):
    """Return the seconds that a method itself takes for an ask and its tell, by problem and method: the median."""
    found = defaultdict(list)
    for record in records:
        if record["part"] == "quality":
            seconds = record["found"]["seconds"] / max(1, record["found"]["evaluations"])
            found[record["problem"], record["method"]].append(seconds)
    return {name: float(np.median(seconds)) for name, seconds in found.items()}


# Targets


def early_target(shares, default, grid):
    """Return rows: the default's share at 60 evaluations beside the generational baseline's at 240."""
    rows = []
    for problem, by_method in shares.items():
        if not {default, RIVAL} <= by_method.keys() or not {TARGET_AT, RIVAL_AT} <= set(grid):
            continue
        count = min(len(by_method[default]), len(by_method[RIVAL]))
        ours = by_method[default][:count, grid.index(TARGET_AT)]
        theirs = by_method[RIVAL][:count, grid.index(RIVAL_AT)]
        if np.isnan(ours).any() or np.isnan(theirs).any():
            continue
        met = "yes" if np.median(ours) >= np.median(theirs) else "**no**"
        rows.append([problem, str(count), shown(ours), shown(theirs), f"{(ours >= theirs).mean():.0%}", met])
    return rows


def random_target(shares, default, grid):
    """Return rows: at which numbers of evaluations the default's median share lies below random search's.

    Beyond chance: a one-sided Wilcoxon signed-rank test of the paired seeds gives less than `CHANCE`.
    """
    rows = []
    for problem, by_method in shares.items():
        if not {default, "random"} <= by_method.keys():
            continue
        count = min(len(by_method[default]), len(by_method["random"]))
        ours, theirs = by_method[default][:count], by_method["random"][:count]
        lead = np.median(ours, axis=0) - np.median(theirs, axis=0)
        there = [index for index in range(len(grid)) if not math.isnan(lead[index])]
        behind = [index for index in there if lead[index] < 0.0]
        beyond = [index for index in behind if worse_than_chance(ours[:, index], theirs[:, index])]
        cells = [", ".join(f"{grid[index]} ({lead[index]:+.3f})" for index in found) for found in (behind, beyond)]
        met = "yes" if not behind else "**no**" if beyond else "within chance"
        rows.append([problem, str(count), *(cell or "never" for cell in cells), met])
    return rows


def worse_than_chance(ours, theirs):
    """Return whether paired values are below the others' by more than chance explains."""
    difference = ours - theirs
    if not difference.any():
        return False
    return bool(wilcoxon(difference, alternative="less").pvalue < CHANCE)


def targets(records, default, grid):
    """Return the tables that check what the default strategy must reach."""
    shares = shares_by_method(records, grid)
    lines = []
    if rows := early_target(shares, default, grid):
        head = ["problem", "seeds", f"`{default}` at {TARGET_AT}", f"`{RIVAL}` at {RIVAL_AT}", "seeds ahead", "met"]
        lines += ["", f"### `{default}` at {TARGET_AT} and the baseline at {RIVAL_AT}", "", *table(head, rows)]
    if rows := random_target(shares, default, grid):
        head = ["problem", "seeds", "median behind at", "of these beyond chance", "met"]
        lines += ["", f"### `{default}` and random search at every number of evaluations", "", *table(head, rows)]
    return lines


# The clock and the loop


def reached_at(found, volume):
    """Return the simulated second at which a run's hypervolume first was at least `volume`; infinity if never."""
    pairs = zip(found["ends"], found["hypervolumes"], strict=True)
    return next((end for end, reached in pairs if reached >= volume), math.inf)


def clock_tables(records):
    """Return the busy shares, and the wall-clock to the baseline's final hypervolume over the baseline's."""
    runs = defaultdict(dict)
    for record in records:
        if record["part"] == "clock":
            runs[record["workers"], record["method"]][record["seed"]] = record
    rows = []
    for (workers, method), by_seed in sorted(runs.items()):
        found = [record["found"] for record in by_seed.values()]
        rival = {seed: record["found"] for seed, record in runs[workers, RIVAL].items()}
        final = {seed: ours["hypervolumes"][-1] for seed, ours in rival.items()}
        ratios = [
            reached_at(record["found"], final[seed]) / reached_at(rival[seed], final[seed])
            for seed, record in by_seed.items()
        ]
        rows.append(
            [
                str(workers),
                method,
                str(next(iter(by_seed.values()))["budget"]),
                str(len(found)),
                f"{np.median([run['busy_while_asking'] for run in found]):.1%}",
                f"{np.median([run['busy'] for run in found]):.1%}",
                ratio_text(ratios),
                milliseconds([run["asks"] for run in found]),
                milliseconds([run["tells"] for run in found]),
            ]
        )
    head = ["workers", "method", "evaluations", "seeds", "busy until the last start", "busy until the last end"]
    head += ["wall-clock to equal hypervolume", "ask, ms (p50, p95)", "tell, ms (p50, p95)"]
    return ["", "### On simulated workers", "", *table(head, rows)] if rows else []


def ratio_text(ratios):
    """Return the median and, of more than two seeds, the quartiles; a run that never arrived counts as infinity."""
    middle = float(np.median(ratios))
    text = f"{middle:.2f}" if math.isfinite(middle) else "not reached"
    missed = sum(not math.isfinite(ratio) for ratio in ratios)
    if len(ratios) >= FEWEST and not missed:
        lower, _, upper = quartiles(ratios)
        text += f" ({lower:.2f} to {upper:.2f})"
    return text + (f", {missed} not reached" if missed and math.isfinite(middle) else "")


def milliseconds(pairs):
    """Return "p50, p95" in milliseconds, each the median over the seeds."""
    return ", ".join(f"{1000 * float(np.median(column)):.1f}" for column in zip(*pairs, strict=True))


def loop_table(records):
    """Return the real loop's own times."""
    rows = [
        [
            record["method"],
            str(record["found"]["trials"]),
            milliseconds([record["found"]["asks"]]),
            milliseconds([record["found"]["tells"]]),
        ]
        for record in records
        if record["part"] == "loop"
    ]
    head = ["strategy", "trials", "ask, ms (p50, p95)", "tell, ms (p50, p95)"]
    return ["", "### The loop's own time, store included", "", *table(head, rows)] if rows else []


def report(records, default, grid, machine):
    """Return the whole report as Markdown."""
    lines = [
        "# Results of the search benchmark",
        "",
        "Written by `benchmarks/search_quality.py`; [search_benchmark.md](search_benchmark.md) says what was compared.",
        f"Taken on {machine}. The default strategy is `{default}`.",
        "",
        "## Targets",
    ]
    lines += [*targets(records, default, grid), *clock_tables(records), *loop_table(records)]
    return "\n".join([*lines, "", "## Shares of the attainable gain", *quality_tables(records, grid)]) + "\n"


# Figures


def write_plots(records, folder, default, grid):
    """Write `search_<family>.png` for every family: medians and quartiles of the share against evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    families = defaultdict(dict)
    for problem, by_method in shares_by_method(records, grid).items():
        if problem != "zoo_live":
            families[build_problem(problem).family][problem] = by_method
    for family, problems in families.items():
        methods = drawn({method for by_method in problems.values() for method in by_method}, default)
        figure, axes = pyplot.subplots(1, len(problems), figsize=(3.6 * len(problems) + 1.6, 3.2), squeeze=False)
        for axis, (problem, by_method) in zip(axes[0], problems.items(), strict=True):
            draw_panel(axis, problem, by_method, methods, grid)
        axes[0][0].set_ylabel("share of the attainable gain")
        labels = {line.get_label(): line for axis in axes[0] for line in axis.get_lines()}
        figure.legend(labels.values(), labels.keys(), loc="center right", fontsize=8, frameon=False)
        figure.tight_layout(rect=(0, 0, 1 - 1.7 / figure.get_figwidth(), 1))
        figure.savefig(folder / f"search_{family}.png", dpi=80)
        pyplot.close(figure)


def drawn(there, default):
    """Return at most as many methods as there are colours, those that matter most first, with their colours."""
    wanted = [default, RIVAL, "random", "mergekit_evolve", "mm_mo_public", "nsga2", "qnehvi", "cma_es", "tpe"]
    chosen = [method for method in dict.fromkeys(wanted) if method in there][: len(COLOURS)]
    return dict(zip(chosen, COLOURS, strict=False))


def draw_panel(axis, problem, by_method, methods, grid):
    counts = np.array(grid)
    for method, colour in methods.items():
        if method not in by_method:
            continue
        lower, middle, upper = np.percentile(by_method[method], [25, 50, 75], axis=0)
        there = ~np.isnan(middle) & (counts > 0)
        axis.plot(counts[there], middle[there], color=colour, label=method, linewidth=1.4)
        axis.fill_between(counts[there], lower[there], upper[there], color=colour, alpha=0.15, linewidth=0)
    axis.set_xscale("log")
    axis.set_title(problem, fontsize=10)
    axis.set_xlabel("evaluations")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)
