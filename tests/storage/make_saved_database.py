"""Write saved/revision_NNNN.sqlite with today's code: `python tests/storage/make_saved_database.py`.

Run it once, when a revision is new; tests then upgrade the file for ever. It never overwrites one.
"""

from base64 import b32decode
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

from sqlalchemy import create_engine, text

from campaigns.campaign import Recommendation, SearchSummary
from campaigns.methods import LinearMerge
from campaigns.objectives import Measurement
from campaigns.pools import Checkpoint, Pool
from campaigns.recipe import Recipe
from campaigns.spec import parse_spec
from campaigns.states import CampaignStep
from campaigns.tokens import Token, TokenScope, secret_digest
from campaigns.trial import Candidate, Evaluated, Timing
from storage import Store

FOLDER = Path(__file__).parent / "saved"
CAMPAIGN_ID = "savedaaa"
SPEC = {
    "name": "saved",
    "pool": {"checkpoints": [{"name": "a", "path": "/models/a"}, {"name": "b", "path": "/models/b"}]},
    "objectives": [{"task": "sums", "metric": "acc", "direction": "maximize"}],
    "budget": {"evaluations": 4},
}


def main() -> None:
    """Make the database under a temporary name, close it and move it into place."""
    draft = FOLDER / "draft.sqlite"
    FOLDER.mkdir(exist_ok=True)
    draft.unlink(missing_ok=True)
    store = Store.open(f"sqlite:///{draft}")
    fill(store)
    store.close()
    target = FOLDER / f"revision_{revision(draft)}.sqlite"
    if target.exists():
        draft.unlink()
        raise SystemExit(f"{target} exists; a saved database is never written again")
    draft.rename(target)


def fill(store: Store) -> None:
    """One running campaign with a told, a running, a queued and a pruned trial, and a token."""
    checkpoints = tuple(
        Checkpoint(name=name, path=f"/models/{name}", digest=name * 64, stamp=name * 64, size_bytes=10) for name in "ab"
    )
    pool = Pool(checkpoints=checkpoints, base=None, dtype="float32", architecture="LlamaForCausalLM", parameter_count=5)
    with patch("secrets.token_bytes", lambda size: b32decode(CAMPAIGN_ID.upper())):
        campaign = store.create_campaign(parse_spec(SPEC), pool, idempotency_key="saved")
    lease = store.lease_next("saver", seconds=0)
    assert lease is not None
    store.step(campaign.id, CampaignStep.START, lease=lease)
    trials = store.add_trials(lease, [candidate(1.0, "parent"), candidate(0.0, "parent")])
    store.start(lease, trials[0].id, "actor-0")
    store.start(lease, trials[1].id, "actor-1")
    found = Recommendation(trial_id=trials[0].id, reason="the best so far")
    summary = SearchSummary(front=(trials[0].id,), reference_point=(0.0,), hypervolume=0.25, recommendation=found)
    store.tell(lease, trials[0].id, evaluated(), {"generator": 1}, summary)
    store.ask(lease, candidate(0.5, "candidate"), {"generator": 2**100})
    pruned = store.ask(lease, candidate(0.25, "candidate"), {"generator": 2**100})
    store.start(lease, pruned.id, "actor-0")
    store.prune(lease, pruned.id, evaluated(estimate=0.1), "chance 0.02", {"generator": 2**100}, summary)
    token = Token(name="saved", scope=TokenScope.LAUNCH, created_at=datetime.now(UTC))
    store.add_token(token, secret_digest("mf_saved"))


def candidate(weight: float, kind: str) -> Candidate:
    method, sources = LinearMerge(weights=(weight, 1 - weight)), ("a" * 64, "b" * 64)
    recipe = Recipe(method=method, sources=sources, template=sources[0], dtype="float32")
    return Candidate(kind=kind, point=(weight, 1 - weight), parameters={"weight.a": weight}, recipe=recipe)


def evaluated(estimate: float | None = None) -> Evaluated:
    measurement = Measurement(
        objective="sums/acc",
        split="search",
        value=0.1 + 0.2,
        estimate=estimate,
        standard_error=0.05,
        items=3,
        item_ids=(4, 7, 9),
        outcomes=(1, 0, 1),
        protocol="p" * 64,
    )
    timing = Timing(merge_seconds=0.5, model_seconds=1.5, total_seconds=2.25)
    return Evaluated(measurements=(measurement,), timing=timing)


def revision(path: Path) -> str:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        # One file, without a log beside it, is what goes into version control.
        connection.execute(text("PRAGMA journal_mode = DELETE"))
        found: str = connection.scalar(text("SELECT version_num FROM alembic_version"))
    engine.dispose()
    return found


if __name__ == "__main__":
    main()
