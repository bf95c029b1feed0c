"""A campaign that is put into a real store as a worker would: merges of four parents that trade three skills off."""

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from pymoo.indicators.hv import Hypervolume
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from campaigns.campaign import Campaign, Recommendation, SearchSummary
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement, Objective, Split
from campaigns.pools import Checkpoint, Pool, PoolSpec
from campaigns.recipe import Recipe
from campaigns.spec import CampaignSpec, parse_spec
from campaigns.states import CampaignStep
from campaigns.trial import Candidate, Evaluated, Timing, Trial
from merging.pool_report import inspect_pool
from storage import Store

PARENTS = ("maths", "code", "chat", "law")
SKILLS = np.array([[0.71, 0.33, 0.30], [0.40, 0.68, 0.28], [0.35, 0.30, 0.74], [0.52, 0.50, 0.45]])
ITEMS: dict[Split, int] = {"search": 100, "holdout": 400}
REFERENCE_POINT = (-0.25, -0.25, -0.25)
NO_STATE: dict[str, object] = {}


def campaign_spec(name: str, races: bool) -> CampaignSpec:
    return parse_spec(
        {
            "name": name,
            "notes": "Four parents, three skills.",
            "pool": {"checkpoints": [{"name": parent, "path": f"zoo/{parent}"} for parent in PARENTS]},
            "objectives": [
                {"task": "arithmetic", "metric": "exact_match", "direction": "maximize"},
                {"task": "sorting", "metric": "exact_match", "direction": "maximize"},
                {"task": "facts", "metric": "acc", "direction": "maximize"},
            ],
            "evaluation": {"racing": {}} if races else {},
            "budget": {"evaluations": 40},
        }
    )


def described_pool() -> Pool:
    """A pool whose checkpoints are nowhere on disk: enough for all but their files."""
    checkpoints = [
        Checkpoint(name=name, path=f"zoo/{name}", digest=f"{i:064x}", stamp=f"{i}", size_bytes=2_400_000)
        for i, name in enumerate(PARENTS)
    ]
    return Pool(
        checkpoints=tuple(checkpoints),
        base=None,
        dtype="float32",
        architecture="LlamaForCausalLM",
        parameter_count=1_180_000,
    )


class SearchedCampaign:
    """A campaign with the lease that a worker would hold, and the means to let trials arrive one by one."""

    def __init__(
        self, store: Store, name: str = "Four parents, three skills", pool: Pool | None = None, races: bool = False
    ) -> None:
        self.store = store
        self._random = random.Random(0)
        self._spec = campaign_spec(name, races)
        self._front: list[Trial] = []
        self._pool = pool or described_pool()
        self.id = store.create_campaign(self._spec, self._pool).id
        lease = store.lease_next("worker", 3600)
        assert lease is not None
        self.lease = lease
        store.step(self.id, CampaignStep.START)

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return self._spec.objectives

    def campaign(self) -> Campaign:
        return self.store.campaign(self.id)

    def tell_baselines(self) -> None:
        one_hot = np.eye(len(PARENTS))
        candidates = [self._candidate(one_hot[i], "parent", parent) for i, parent in enumerate(PARENTS)]
        candidates.append(self._candidate(np.full(len(PARENTS), 1 / len(PARENTS)), "soup", "uniform soup"))
        for trial in self.store.add_trials(self.lease, candidates):
            self._tell(trial)

    def tell_broken(self, reason: str) -> None:
        """Tell one trial, and that it breaks a constraint as all do."""
        trial = self.ask()
        self.store.start(self.lease, trial.id, "actor-0")
        nothing = SearchSummary(recommendation=Recommendation(trial_id=None, reason=reason))
        self.store.tell(self.lease, trial.id, self._evaluated(trial.candidate, "search"), NO_STATE, nothing)

    def tell_candidates(self, count: int) -> None:
        for _ in range(count):
            self._tell(self.ask())

    def ask(self) -> Trial:
        raw = np.array([self._random.expovariate(1.0) for _ in PARENTS])
        return self.store.ask(self.lease, self._candidate(raw / raw.sum()), NO_STATE)

    def fail_one(self, reason: str) -> None:
        trial = self.store.start(self.lease, self.ask().id, "actor-1")
        self.store.fail(self.lease, trial.id, reason, self.campaign().summary)

    def reject_one(self, reason: str) -> None:
        trial = self.store.start(self.lease, self.ask().id, "actor-0")
        self.store.reject(self.lease, trial.id, reason, NO_STATE, self.campaign().summary)

    def prune_one(self, reason: str) -> Trial:
        """Stop a trial after a tenth of the search items, all of them right, with low estimates."""
        trial = self.store.start(self.lease, self.ask().id, "actor-0")
        evaluated = self._evaluated(trial.candidate, "search")
        part = {"items": 10, "value": 1.0, "standard_error": 0.0, "estimate": 0.2}
        measurements = tuple(measurement.replace(**part) for measurement in evaluated.measurements)
        summary = self.campaign().summary
        pruned = evaluated.replace(measurements=measurements)
        return self.store.prune(self.lease, trial.id, pruned, reason, NO_STATE, summary)

    def finish(self) -> None:
        """Score the front and the baselines on the holdout items, then complete the campaign."""
        self.store.finish_search(self.lease)
        front = {trial.id for trial in self._front}
        for trial in self.store.trials(self.id):
            if trial.id in front or trial.candidate.kind != "candidate":
                self.store.add_holdout(self.lease, trial.id, self._evaluated(trial.candidate, "holdout"))
        self.store.step(self.id, CampaignStep.FINISH)

    def _candidate(self, weights: np.ndarray, kind: str = "candidate", label: str | None = None) -> Candidate:
        named = {f"weight.{name}": float(weight) for name, weight in zip(PARENTS, weights, strict=True)}
        method = LinearMerge(weights=tuple(named.values()))
        sources = tuple(checkpoint.digest for checkpoint in self._pool.checkpoints)
        recipe = Recipe(method=method, sources=sources, template=sources[0], dtype="float32")
        point = tuple(float(weight) for weight in weights)
        return Candidate.model_validate(
            {"kind": kind, "label": label, "point": point, "parameters": named, "recipe": recipe}
        )

    def _evaluated(self, candidate: Candidate, split: Split) -> Evaluated:
        """Merges beat the mean of their parents, the more so the more parents take part."""
        weights = np.array(candidate.point)
        skill = weights @ SKILLS + 0.35 * (1 - (weights**2).sum())
        measurements = []
        for objective, mean in zip(self.objectives, skill, strict=True):
            right = sum(self._random.random() < min(mean, 0.97) for _ in range(ITEMS[split]))
            value = right / ITEMS[split]
            error = (value * (1 - value) / (ITEMS[split] - 1)) ** 0.5
            found = {"value": value, "standard_error": error, "items": ITEMS[split], "protocol": "0" * 64}
            measurements.append(Measurement(objective=objective.name, split=split, **found))
        timing = Timing(merge_seconds=0.02, model_seconds=2.2, total_seconds=2.3)
        return Evaluated(measurements=tuple(measurements), timing=timing)

    def _tell(self, trial: Trial) -> None:
        self.store.start(self.lease, trial.id, f"actor-{trial.number % 2}")
        evaluated = self._evaluated(trial.candidate, "search")
        self._front = self._front_with(trial.replace(measurements=evaluated.measurements))
        losses = np.array([self._losses(member) for member in self._front])
        best = min(self._front, key=lambda member: sum(self._losses(member)))
        summary = SearchSummary(
            front=tuple(member.id for member in self._front),
            reference_point=REFERENCE_POINT,
            hypervolume=float(Hypervolume(ref_point=np.array(REFERENCE_POINT))(losses)),
            recommendation=Recommendation(
                trial_id=best.id, reason="It has the best macro-average on the search items."
            ),
        )
        self.store.tell(self.lease, trial.id, evaluated, NO_STATE, summary)

    def _front_with(self, newcomer: Trial) -> list[Trial]:
        def beats(a: Trial, b: Trial) -> bool:
            left, right = self._losses(a), self._losses(b)
            return all(x <= y for x, y in zip(left, right, strict=True)) and left != right

        members = [*self._front, newcomer]
        return [one for one in members if not any(beats(other, one) for other in members)]

    @staticmethod
    def _losses(trial: Trial) -> list[float]:
        return [-measurement.value for measurement in trial.measurements]


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'mergefront.db'}"


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    opened = Store.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def unsearched(store: Store) -> SearchedCampaign:
    """A running campaign without any trial."""
    return SearchedCampaign(store)


@pytest.fixture
def raced(store: Store) -> SearchedCampaign:
    """A campaign that races, with its baselines, 10 scored candidates and then 2 pruned ones."""
    campaign = SearchedCampaign(store, races=True)
    campaign.tell_baselines()
    campaign.tell_candidates(10)
    campaign.prune_one("its chance to be on the front is 0.03")
    campaign.prune_one("its chance to be on the front is 0.04")
    return campaign


@pytest.fixture
def on_disk(store: Store, tmp_path: Path) -> SearchedCampaign:
    """A campaign with its baselines told, over tiny checkpoints that can be merged."""
    torch.set_num_threads(1)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=32, num_hidden_layers=1, **sizes)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    for name in PARENTS:
        LlamaForCausalLM(config).save_pretrained(tmp_path / "zoo" / name)
        tokenizer.save_pretrained(tmp_path / "zoo" / name)
    checkpoints = [{"name": name, "path": str(tmp_path / "zoo" / name)} for name in PARENTS]
    spec = PoolSpec.model_validate({"checkpoints": checkpoints})
    campaign = SearchedCampaign(store, pool=inspect_pool(spec, [tmp_path], [], None))
    campaign.tell_baselines()
    return campaign


@pytest.fixture
def searched(store: Store) -> SearchedCampaign:
    """A running campaign with its baselines, 35 scored candidates, and one trial each infeasible, failed and open."""
    campaign = SearchedCampaign(store)
    campaign.tell_baselines()
    campaign.tell_candidates(35)
    campaign.reject_one("the logits are not finite")
    campaign.fail_one("the actor died: out of memory")
    campaign.store.start(campaign.lease, campaign.ask().id, "actor-0")
    return campaign
