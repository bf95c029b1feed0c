"""The model card of a merge: what it is made of, how good it is, and how to get the same numbers again."""

import json
from collections.abc import Iterator, Sequence

from campaigns.campaign import Campaign
from campaigns.objectives import Measurement, Objective, Split, macro_average, macro_standard_error
from campaigns.pools import Checkpoint
from campaigns.recipe import Recipe
from campaigns.trial import Trial

NAME = "README.md"
SPLITS: tuple[Split, ...] = ("search", "holdout")


def card_files(campaign: Campaign, trial: Trial, baselines: Sequence[Trial] = ()) -> dict[str, bytes]:
    """Return the model card and the lists of items that its commands name, by file name.

    `trial` comes with its outcomes, since the items do.
    """
    lists = {item_file(split): json.dumps(items).encode() for split, items in item_lists(campaign, trial).items()}
    return {NAME: model_card(campaign, trial, baselines).encode(), **lists}


def model_card(campaign: Campaign, trial: Trial, baselines: Sequence[Trial] = ()) -> str:
    """Return the text of README.md; equal arguments give equal text. Scored `baselines` are shown beside the trial."""
    sections = [
        _front_matter(campaign, trial),
        _introduction(campaign, trial),
        _recipe(campaign, trial.candidate.recipe),
        _scores(campaign, trial),
        *_comparison(campaign, trial, baselines),
        _reproduction(campaign, trial),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(campaign: Campaign, trial: Trial) -> str:
    """YAML for the hub. Strings are written as JSON, which is YAML too, so that no name can break out of its line."""
    tags = ["mergefront", "merge", f"merge-{trial.candidate.recipe.method.kind}"]
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    lines += [f"mergefront_trial: {json.dumps(trial.id)}"]
    lines += [f"mergefront_recipe: {json.dumps(trial.candidate.recipe.digest)}", "---"]
    return "\n".join(lines)


def _introduction(campaign: Campaign, trial: Trial) -> str:
    what = {
        "parent": f"It is the parent {_code(trial.candidate.label or '')}, as a merge of weight one.",
        "soup": "It is the uniform soup: every parent with the same weight.",
        "candidate": f"It was proposed by the {_code(campaign.spec.strategy.kind)} strategy.",
    }[trial.candidate.kind]
    return f"# {_plain(campaign.spec.name)}: merge {trial.id}\n\nMerged by Mergefront from {_count(campaign)}. {what}"


def _count(campaign: Campaign) -> str:
    base = " and a base" if campaign.pool.base else ""
    pool = campaign.pool
    return f"{len(pool.checkpoints)} checkpoints{base} ({pool.architecture}, {pool.parameter_count:,} parameters)"


def _recipe(campaign: Campaign, recipe: Recipe) -> str:
    method = recipe.method
    scale = f", scale {method.scale!r}" if method.kind == "task_arithmetic" else ""
    lines = [
        "## Recipe",
        "",
        f"Method {_code(method.kind)}{scale}, stored as {_code(recipe.dtype)}; recipe digest {_code(recipe.digest)}.",
        "",
        "| parent | weight | sha256 of its content |",
        "|---|---|---|",
    ]
    names = {checkpoint.digest: checkpoint.name for checkpoint in campaign.pool.checkpoints}
    for digest, weight in zip(recipe.sources, method.weights, strict=True):
        lines.append(f"| {_code(names.get(digest, '?'))} | {weight!r} | {_code(digest)} |")
    if recipe.base is not None and campaign.pool.base is not None:
        lines.append(_base_row(campaign.pool.base))
    return "\n".join(lines)


def _base_row(base: Checkpoint) -> str:
    return f"| {_code(base.name)} | base | {_code(base.digest)} |"


def _scores(campaign: Campaign, trial: Trial) -> str:
    if not trial.measurements:
        return f"## Scores\n\nNone: the trial is {trial.state}."
    lines = ["## Scores", "", "Value ± standard error (items). The search chose by the search items alone.", ""]
    lines += ["| objective | better | search | holdout |", "|---|---|---|---|"]
    for objective in campaign.spec.objectives:
        cells = " | ".join(_cell(trial, objective, split) for split in SPLITS)
        better = "lower" if objective.direction == "minimize" else "higher"
        lines.append(f"| {_code(objective.name)} | {better} | {cells} |")
    return "\n".join(lines)


def _cell(trial: Trial, objective: Objective, split: Split) -> str:
    found = [m for m in trial.measurements if m.objective == objective.name and m.split == split]
    return _measured(found[0]) if found else "–"


def _measured(measurement: Measurement) -> str:
    error = "" if measurement.standard_error is None else f" ± {measurement.standard_error:.4f}"
    return f"{measurement.value:.4f}{error} ({measurement.items})"


def _comparison(campaign: Campaign, trial: Trial, baselines: Sequence[Trial]) -> Iterator[str]:
    """Yield the section that sets the trial against the best parent on the search items and the soup, if there are."""
    searched = [(macro_average(campaign.spec.objectives, b.measurements, "search"), b) for b in baselines]
    scored = [(value, baseline) for value, baseline in searched if value is not None]
    parents = [found for found in scored if found[1].candidate.kind == "parent"]
    rows = [("this merge", trial)]
    if parents:
        best = max(parents, key=lambda found: found[0])[1]
        rows.append((f"best parent, {_code(best.candidate.label or '')}", best))
    rows += [("uniform soup", baseline) for _, baseline in scored if baseline.candidate.kind == "soup"]
    if len(rows) > 1:
        table = [f"| {name} | {' | '.join(_macro(campaign, row, split) for split in SPLITS)} |" for name, row in rows]
        lead = "Weighted mean over the objectives, higher is better."
        yield "\n".join(["## Baselines", "", lead, "", "| | search | holdout |", "|---|---|---|", *table])


def _macro(campaign: Campaign, trial: Trial, split: Split) -> str:
    value = macro_average(campaign.spec.objectives, trial.measurements, split)
    error = macro_standard_error(campaign.spec.objectives, trial.measurements, split)
    return "–" if value is None else f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _reproduction(campaign: Campaign, trial: Trial) -> str:
    commands = "\n".join(
        command for split in item_lists(campaign, trial) for command in _commands(campaign, trial, split)
    )
    if not commands:
        return "## Reproduce\n\nThere is nothing to reproduce: no item was scored."
    return (
        "## Reproduce\n\n"
        "Scores are lm-eval's own: in this directory these commands give the numbers above, to the last digit with the "
        "same library versions. `--include_path` is needed for tasks that are not lm-eval's own.\n\n"
        f"```sh\n{commands}\n```"
    )


def _commands(campaign: Campaign, trial: Trial, split: Split) -> Iterator[str]:
    """Yield one command per number of few-shot examples, since lm-eval takes one for all its tasks."""
    evaluation = campaign.spec.evaluation
    scored = item_lists(campaign, trial)[split]
    by_fewshot: dict[int | None, dict[str, None]] = {}
    for objective in campaign.spec.objectives:
        if objective.task in scored:
            by_fewshot.setdefault(objective.num_fewshot, {})[objective.task] = None
    for fewshot, tasks in by_fewshot.items():
        yield (
            f"lm_eval --model hf --model_args pretrained=.,dtype={trial.candidate.recipe.dtype} "
            f"--tasks {','.join(tasks)} --samples {item_file(split)} --batch_size {evaluation.batch_size}"
            + ("" if fewshot is None else f" --num_fewshot {fewshot}")
            + (" --apply_chat_template" if evaluation.apply_chat_template else "")
        )


def item_lists(campaign: Campaign, trial: Trial) -> dict[Split, dict[str, tuple[int, ...]]]:
    """Return which documents of each task the trial was scored on, by split; splits without items are left out."""
    tasks = {objective.name: objective.task for objective in campaign.spec.objectives}
    lists: dict[Split, dict[str, tuple[int, ...]]] = {}
    for measurement in trial.measurements:
        if measurement.item_ids:
            lists.setdefault(measurement.split, {})[tasks[measurement.objective]] = measurement.item_ids
    return lists


def item_file(split: Split) -> str:
    """Return the name of the file that `lm_eval --samples` takes for a split."""
    return f"items.{split}.json"


def _code(text: str) -> str:
    return f"`{_plain(text).replace('`', '')}`"


def _plain(text: str) -> str:
    """Return user text on one line that cannot end a table cell."""
    return " ".join(text.split()).replace("|", "\\|")
