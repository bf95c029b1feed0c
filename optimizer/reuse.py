"""What was measured before: the same recipe, under the same protocols, in another campaign of this database.

A recipe makes the same bytes wherever it is merged, and a protocol says all else that a score depends on, so that such
measurements are this campaign's too. Its protocols are known from the first trial that it scored itself.
"""

from collections.abc import Iterable

from campaigns.campaign import Campaign
from campaigns.objectives import Measurement, Split
from campaigns.trial import Evaluated, Trial
from storage import Store


class Reuse:
    """Finds measurements for one campaign; nothing where its spec forbids that."""

    def __init__(self, store: Store, campaign: Campaign) -> None:
        self._store = store
        self._campaign_id = campaign.id
        self._objectives = campaign.spec.objectives if campaign.spec.evaluation.reuse else ()
        self._protocols: dict[Split, dict[str, str]] = {}

    def note(self, trials: Iterable[Trial]) -> None:
        """Learn the protocols from complete trials of this campaign."""
        for trial in trials:
            for split in {measurement.split for measurement in trial.measurements}:
                self._protocols.setdefault(split, {m.objective: m.protocol for m in _of(trial, split)})

    def find(self, trial: Trial, split: Split) -> tuple[str, Evaluated] | None:
        """Return the id of a trial with the recipe of `trial`, and what was measured of it on `split`; None without."""
        protocols = self._protocols.get(split)
        if not self._objectives or protocols is None:
            return None
        for known in self._store.trials_of_recipe(trial.candidate.recipe.digest, self._campaign_id):
            by_name = {m.objective: m for m in _of(known, split)}
            if all(name in by_name and by_name[name].protocol == own for name, own in protocols.items()):
                measurements = tuple(by_name[o.name] for o in self._objectives if o.name in protocols)
                return known.id, Evaluated(measurements=measurements, timing=known.timings[split])
        return None


def _of(trial: Trial, split: Split) -> list[Measurement]:
    return [measurement for measurement in trial.measurements if measurement.split == split]
