"""The model card of a merge: what it is made of, how good it is, and how to get the same numbers again."""

import json
from collections.abc import Iterator, Sequence

from api.markdown import code, plain, table
from api.recipe_section import merging_kinds, recipe_section
from campaigns.campaign import Campaign
from campaigns.objectives import Measurement, Objective, Split, macro_average, macro_standard_error
from campaigns.states import TrialState
from campaigns.trial import Trial

NAME = "README.md"
SPLITS: tuple[Split, ...] = ("search", "holdout")
RACED = (
    "A race has the search items answered in several runs, a part of them in each; in one run, other batches can move "
    "the last digits of log-likelihoods. "
)


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
        recipe_section(campaign, trial.candidate.recipe),
        _scores(campaign, trial),
        *_comparison(campaign, trial, baselines),
        _reproduction(campaign, trial),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(campaign: Campaign, trial: Trial) -> str:
    """YAML for the hub. Strings are written as JSON, which is YAML too, so that no name can break out of its line."""
    tags = ["mergefront", "merge", *(f"merge-{kind}" for kind in merging_kinds(trial.candidate.recipe))]
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags:"]
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    lines += [f"mergefront_trial: {json.dumps(trial.id)}"]
    lines += [f"mergefront_recipe: {json.dumps(trial.candidate.recipe.digest)}", "---"]
    return "\n".join(lines)


def _introduction(campaign: Campaign, trial: Trial) -> str:
    what = {
        "parent": f"It is the parent {code(trial.candidate.label or '')}, as a merge of weight one.",
        "soup": f"It is the baseline {code(trial.candidate.label or '')}: an average of parents with equal weights.",
        "task_arithmetic": f"It is the baseline {code(trial.candidate.label or '')}: base and all task vectors.",
        "point": f"It is {code(trial.candidate.label or '')} of those that the campaign was given.",
        "imported": f"Its scores are those of trial {code(trial.candidate.imported_from or '')} of another campaign.",
        "candidate": f"It was proposed by the {code(campaign.spec.strategy.kind)} strategy.",
    }[trial.candidate.kind]
    return f"# {plain(campaign.spec.name)}: merge {trial.id}\n\nMerged by Mergefront from {_count(campaign)}. {what}"


def _count(campaign: Campaign) -> str:
    base = " and a base" if campaign.pool.base else ""
    pool = campaign.pool
    return f"{len(pool.checkpoints)} checkpoints{base} ({pool.architecture}, {pool.parameter_count:,} parameters)"


def _scores(campaign: Campaign, trial: Trial) -> str:
    if not trial.measurements:
        return f"## Scores\n\nNone: the trial is {trial.state}."
    lead = "Value ± standard error (items). The search chose by the search items alone."
    if trial.state is TrialState.PRUNED:
        lead += (
            " A race stopped this trial after a part of them: values are of that part, and an estimate (≈) says what "
            "they would come to."
        )
    rows = [
        [
            code(objective.name),
            "lower" if objective.direction == "minimize" else "higher",
            *(_cell(trial, objective, split) for split in SPLITS),
        ]
        for objective in campaign.spec.objectives
    ]
    return "\n".join(["## Scores", "", lead, "", *table(["objective", "better", *SPLITS], rows)])


def _cell(trial: Trial, objective: Objective, split: Split) -> str:
    found = [m for m in trial.measurements if m.objective == objective.name and m.split == split]
    return _measured(found[0]) if found else "–"


def _measured(measurement: Measurement) -> str:
    error = "" if measurement.standard_error is None else f" ± {measurement.standard_error:.4f}"
    estimate = "" if measurement.estimate is None else f" ≈ {measurement.estimate:.4f}"
    return f"{measurement.value:.4f}{error} ({measurement.items}){estimate}"


def _comparison(campaign: Campaign, trial: Trial, baselines: Sequence[Trial]) -> Iterator[str]:
    """Yield the section that sets the trial against the best parent on the search items and the soups, if there are."""
    searched = [(macro_average(campaign.spec.objectives, b.measurements, "search"), b) for b in baselines]
    scored = [(value, baseline) for value, baseline in searched if value is not None]
    parents = [found for found in scored if found[1].candidate.kind == "parent"]
    rows = [("this merge", trial)]
    if parents:
        best = max(parents, key=lambda found: found[0])[1]
        rows.append((f"best parent, {code(best.candidate.label or '')}", best))
    rows += [(plain(soup.candidate.label or ""), soup) for soup in _soups(scored)]
    if len(rows) > 1:
        cells = [[name, *(_macro(campaign, row, split) for split in SPLITS)] for name, row in rows]
        lead = "Weighted mean over the objectives, higher is better."
        yield "\n".join(["## Baselines", "", lead, "", *table(["model", *SPLITS], cells)])


def _soups(scored: Sequence[tuple[float, Trial]]) -> list[Trial]:
    """Return the best soup of each recipe for soups, as labels name them before a colon; the last of equals."""
    best: dict[str, tuple[float, Trial]] = {}
    for value, trial in scored:
        recipe = (trial.candidate.label or "").partition(":")[0]
        if trial.candidate.kind == "soup" and (recipe not in best or value >= best[recipe][0]):
            best[recipe] = value, trial
    return [trial for _, trial in best.values()]


def _macro(campaign: Campaign, trial: Trial, split: Split) -> str:
    if trial.state is TrialState.PRUNED:
        return "–"  # a part of the items does not compare with all of them
    value = macro_average(campaign.spec.objectives, trial.measurements, split)
    error = macro_standard_error(campaign.spec.objectives, trial.measurements, split)
    return "–" if value is None else f"{value:.4f}" + ("" if error is None else f" ± {error:.4f}")


def _reproduction(campaign: Campaign, trial: Trial) -> str:
    commands = "\n".join(
        command for split in item_lists(campaign, trial) for command in _commands(campaign, trial, split)
    )
    if not commands:
        return "## Reproduce\n\nThere is nothing to reproduce: no item was scored."
    raced = campaign.spec.evaluation.racing is not None and trial.candidate.kind == "candidate"
    return (
        "## Reproduce\n\n"
        "Scores are lm-eval's own: in this directory these commands give the numbers above, to the last digit with the "
        f"same library versions. {RACED if raced else ''}"
        f"`--include_path` is needed for tasks that are not lm-eval's own.\n\n```sh\n{commands}\n```"
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
