"""The states: every step from every state is either allowed by the table or refused by name."""

import pytest

from campaigns.errors import IllegalTransition
from campaigns.states import (
    CAMPAIGN_STEPS,
    TRIAL_STEPS,
    CampaignState,
    CampaignStep,
    TrialState,
    TrialStep,
    move_campaign,
    move_trial,
)


@pytest.mark.parametrize("state", CampaignState)
@pytest.mark.parametrize("step", CampaignStep)
def test_campaign_steps(state, step):
    if step in CAMPAIGN_STEPS[state]:
        assert move_campaign(state, step) is CAMPAIGN_STEPS[state][step]
    else:
        with pytest.raises(IllegalTransition, match=f"a {state} campaign cannot {step}"):
            move_campaign(state, step)


@pytest.mark.parametrize("state", TrialState)
@pytest.mark.parametrize("step", TrialStep)
def test_trial_steps(state, step):
    if step in TRIAL_STEPS[state]:
        assert move_trial(state, step) is TRIAL_STEPS[state][step]
    else:
        with pytest.raises(IllegalTransition, match=f"a {state} trial cannot {step}"):
            move_trial(state, step)


def test_final_states_are_final():
    assert {s for s in CampaignState if s.is_final} == {"complete", "failed", "cancelled"}
    assert {s for s in TrialState if s.is_final} == {"complete", "pruned", "infeasible", "failed", "cancelled"}


def test_every_state_can_be_reached():
    for start, steps in ((CampaignState.QUEUED, CAMPAIGN_STEPS), (TrialState.QUEUED, TRIAL_STEPS)):
        reached, frontier = {start}, [start]
        while frontier:
            following = set(steps[frontier.pop()].values()) - reached
            reached |= following
            frontier += following
        assert reached == set(steps)


def test_only_a_running_trial_is_pruned_and_then_it_is_over():
    assert move_trial(TrialState.RUNNING, TrialStep.PRUNE) is TrialState.PRUNED
    with pytest.raises(IllegalTransition, match="a queued trial cannot prune"):
        move_trial(TrialState.QUEUED, TrialStep.PRUNE)
    with pytest.raises(IllegalTransition, match="this state is final"):
        move_trial(TrialState.PRUNED, TrialStep.COMPLETE)


def test_a_fault_is_retried_and_a_bad_point_is_not():
    assert move_trial(TrialState.RUNNING, TrialStep.RETRY) is TrialState.QUEUED
    with pytest.raises(IllegalTransition, match="this state is final"):
        move_trial(TrialState.INFEASIBLE, TrialStep.RETRY)
