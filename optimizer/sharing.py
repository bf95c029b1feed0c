"""How campaigns share a cluster: a pure function of its nodes and of what the campaigns claim.

Every worker on a cluster computes the same shares from the same database, so that they need not agree on anything.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from campaigns.errors import InvalidSpec, field_error
from campaigns.spec import Resources
from storage import Claim

GPU_UNITS = 10_000
"""Ray counts shares of a GPU in units of this size: whole numbers, which add up."""


class Node(NamedTuple):
    """A machine of the cluster."""

    cpus: float
    gpus: int = 0


class _Room:
    """What is free on one node. A share of a GPU lies on one device, and whole GPUs are free ones."""

    def __init__(self, node: Node) -> None:
        self.cpus = node.cpus
        self.gpus = [GPU_UNITS] * node.gpus

    def holds(self, resources: Resources) -> bool:
        """Whether one more actor fits."""
        return self.cpus >= resources.cpus_per_actor and self._devices(resources) is not None

    def take(self, resources: Resources) -> None:
        """Place an actor that fits."""
        self.cpus -= resources.cpus_per_actor
        for device in self._devices(resources) or ():
            self.gpus[device] -= min(_units(resources), GPU_UNITS)

    @property
    def tightness(self) -> tuple[int, float]:
        """Lower for nodes that are filled first: those without a free GPU, then the fullest.

        So nodes stay whole for large actors.
        """
        return sum(self.gpus), self.cpus

    def _devices(self, resources: Resources) -> list[int] | None:
        wanted = _units(resources)
        if wanted > GPU_UNITS:
            free = [device for device, units in enumerate(self.gpus) if units == GPU_UNITS]
            count = wanted // GPU_UNITS
            return free[:count] if len(free) >= count else None
        if wanted == 0:
            return []
        fitting = [device for device, units in enumerate(self.gpus) if units >= wanted]
        return [min(fitting, key=lambda device: self.gpus[device])] if fitting else None


def divide(nodes: Sequence[Node], claims: Iterable[Claim]) -> dict[str, int]:
    """Return how many actors each campaign gets, by its id: weighted max-min fairness by priority.

    First, each campaign gets one actor where one fits, the highest priority first, then the oldest; the others get
    none. Then each further actor goes to the campaign that has the least of the cluster for its priority, among those
    that want and can place another: what a campaign has of a cluster is its share of the CPUs or of the GPUs, whichever
    is larger (dominant resource fairness, Ghodsi et al. 2011). None gets more than `resources.actors`. Nothing is left
    over that another actor would fit into.
    """
    order = sorted(claims, key=lambda claim: (-claim.priority, claim.sequence))
    rooms = [_Room(node) for node in nodes]
    shares = {claim.campaign_id: int(_placed(rooms, claim.resources)) for claim in order}
    sizes = {claim.campaign_id: _dominant(nodes, claim.resources) for claim in order}
    wanting = [claim for claim in order if shares[claim.campaign_id]]
    while wanting:
        claim = min(wanting, key=lambda c: shares[c.campaign_id] * sizes[c.campaign_id] / c.priority)
        wants_more = shares[claim.campaign_id] < claim.resources.actors
        if wants_more and _placed(rooms, claim.resources):
            shares[claim.campaign_id] += 1
        else:
            wanting.remove(claim)
    return shares


def fits(nodes: Sequence[Node], claim: Claim, held: Iterable[Claim]) -> bool:
    """Whether one more campaign can run beside those that are held, each with one actor at least."""
    rooms = [_Room(node) for node in nodes]
    order = sorted([*held, claim], key=lambda claim: (-claim.priority, claim.sequence))
    return all(_placed(rooms, each.resources) for each in order)


def misfit(nodes: Sequence[Node], resources: Resources) -> InvalidSpec | None:
    """Return what is wrong when one actor fits on no node, though all of them were empty; None when one does."""
    if any(_Room(node).holds(resources) for node in nodes):
        return None
    errors = []
    for field, kind, each, largest in (
        (
            "resources.cpus_per_actor",
            "CPUs",
            float(resources.cpus_per_actor),
            max((n.cpus for n in nodes), default=0.0),
        ),
        ("resources.gpus_per_actor", "GPUs", resources.gpus_per_actor, max((n.gpus for n in nodes), default=0)),
    ):
        if each > largest:
            message = "no machine of the cluster is large enough for one actor"
            errors.append(field_error(field, each, message, f"up to {largest:g} {kind}"))
    if not errors:
        message = "no machine of the cluster has both the CPUs and the GPUs for one actor"
        errors.append(field_error("resources", resources.cpus_per_actor, message))
    return InvalidSpec(errors)


def _placed(rooms: Sequence[_Room], resources: Resources) -> bool:
    """Place an actor on the fullest node that holds it; return whether there is one."""
    fitting = [room for room in rooms if room.holds(resources)]
    if not fitting:
        return False
    min(fitting, key=lambda room: room.tightness).take(resources)
    return True


def _dominant(nodes: Sequence[Node], resources: Resources) -> float:
    """Return the share of the cluster that one actor takes, in [0, 1]."""
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    of_cpus = resources.cpus_per_actor / cpus if cpus else 0.0
    return max(of_cpus, resources.gpus_per_actor / gpus if gpus else 0.0)


def _units(resources: Resources) -> int:
    return round(resources.gpus_per_actor * GPU_UNITS)
