"""The states of a campaign and of a trial, each moved by one pure function over allowed steps."""

from enum import StrEnum
from typing import TypeVar

from campaigns.errors import IllegalTransition

State = TypeVar("State", bound=StrEnum)
Step = TypeVar("Step", bound=StrEnum)


class CampaignState(StrEnum):
    """Where a campaign stands."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no step leads out of this state."""
        return not CAMPAIGN_STEPS[self]


class CampaignStep(StrEnum):
    """What can happen to a campaign."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    CANCEL = "cancel"
    FINISH = "finish"
    FAIL = "fail"


class TrialState(StrEnum):
    """Where a trial stands.

    `pruned` was stopped by a race, `infeasible` is a bad point, `failed` is a fault that outlived its retries.
    """

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether no step leads out of this state."""
        return not TRIAL_STEPS[self]


class TrialStep(StrEnum):
    """What can happen to a trial."""

    START = "start"
    COMPLETE = "complete"
    PRUNE = "prune"
    REJECT = "reject"
    FAIL = "fail"
    RETRY = "retry"
    CANCEL = "cancel"
    IMPORT = "import"


CAMPAIGN_STEPS: dict[CampaignState, dict[CampaignStep, CampaignState]] = {
    CampaignState.QUEUED: {
        CampaignStep.START: CampaignState.RUNNING,
        CampaignStep.PAUSE: CampaignState.PAUSED,
        CampaignStep.CANCEL: CampaignState.CANCELLED,
        CampaignStep.FAIL: CampaignState.FAILED,
    },
    CampaignState.RUNNING: {
        CampaignStep.PAUSE: CampaignState.PAUSED,
        CampaignStep.STOP: CampaignState.STOPPING,
        CampaignStep.CANCEL: CampaignState.CANCELLED,
        CampaignStep.FINISH: CampaignState.COMPLETE,
        CampaignStep.FAIL: CampaignState.FAILED,
    },
    CampaignState.PAUSED: {
        CampaignStep.RESUME: CampaignState.RUNNING,
        CampaignStep.STOP: CampaignState.STOPPING,
        CampaignStep.CANCEL: CampaignState.CANCELLED,
        CampaignStep.FAIL: CampaignState.FAILED,
    },
    CampaignState.STOPPING: {
        CampaignStep.CANCEL: CampaignState.CANCELLED,
        CampaignStep.FINISH: CampaignState.COMPLETE,
        CampaignStep.FAIL: CampaignState.FAILED,
    },
    CampaignState.COMPLETE: {},
    CampaignState.FAILED: {},
    CampaignState.CANCELLED: {},
}

TRIAL_STEPS: dict[TrialState, dict[TrialStep, TrialState]] = {
    TrialState.QUEUED: {
        TrialStep.START: TrialState.RUNNING,
        TrialStep.IMPORT: TrialState.COMPLETE,
        TrialStep.CANCEL: TrialState.CANCELLED,
    },
    TrialState.RUNNING: {
        TrialStep.COMPLETE: TrialState.COMPLETE,
        TrialStep.PRUNE: TrialState.PRUNED,
        TrialStep.REJECT: TrialState.INFEASIBLE,
        TrialStep.FAIL: TrialState.FAILED,
        TrialStep.RETRY: TrialState.QUEUED,
        TrialStep.CANCEL: TrialState.CANCELLED,
    },
    TrialState.COMPLETE: {},
    TrialState.PRUNED: {},
    TrialState.INFEASIBLE: {},
    TrialState.FAILED: {},
    TrialState.CANCELLED: {},
}


def move_campaign(state: CampaignState, step: CampaignStep) -> CampaignState:
    """Return the state after `step`; raise `IllegalTransition` when `state` does not allow it."""
    return _move("campaign", state, step, CAMPAIGN_STEPS[state])


def move_trial(state: TrialState, step: TrialStep) -> TrialState:
    """Return the state after `step`; raise `IllegalTransition` when `state` does not allow it."""
    return _move("trial", state, step, TRIAL_STEPS[state])


def _move(noun: str, state: State, step: Step, allowed: dict[Step, State]) -> State:
    if step not in allowed:
        steps = ", ".join(allowed) or "none: this state is final"
        raise IllegalTransition(f"a {state} {noun} cannot {step}; allowed: {steps}")
    return allowed[step]
