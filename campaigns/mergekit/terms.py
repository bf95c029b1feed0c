"""The parameters of our method nouns in mergekit's terms, and what mergekit has no terms for."""

from collections.abc import Iterator
from dataclasses import dataclass

from campaigns.errors import FieldError, field_error
from campaigns.mergekit.methods import METHODS
from campaigns.mergekit.settings import Value
from campaigns.methods import DellaLinearMerge, DellaMerge, KarcherMerge, Method

PER_SOURCE = {"weights": "weight", "densities": "density"}
SHARED = {
    "t": "t",
    "scale": "lambda",
    "normalize": "normalize",
    "rescale": "rescale",
    "max_iterations": "max_iter",
    "tolerance": "tol",
    "top_fraction": "select_topk",
}
COMMON = {"gamma": "gamma", "epsilon": "epsilon"}
"""What mergekit has per source; set for the whole document it counts for all of them."""
ONLY = {("ties", "trim"): "tensor", ("ties", "trim_by"): "magnitude", ("sce", "scale"): 1.0}
"""The values without which mergekit has no such method."""
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@dataclass(frozen=True)
class Terms:
    """A method in mergekit's terms: parameters with one value per source, and parameters with one value."""

    per_source: dict[str, tuple[float, ...]]
    shared: dict[str, Value]


def terms_of(method: Method) -> Terms:
    """Return the parameters of `method`, which must be free of `inexpressible` ones."""
    if isinstance(method, KarcherMerge):
        return Terms({}, {"max_iter": method.max_iterations, "tol": method.tolerance})
    fields = {name: value for name, value in method if name != "kind" and (method.kind, name) not in ONLY}
    per_source = {PER_SOURCE[name]: value for name, value in fields.items() if name in PER_SOURCE}
    shared = {SHARED.get(name) or COMMON[name]: value for name, value in fields.items() if name not in PER_SOURCE}
    if method.kind == "linear":
        shared["normalize"] = False
    if method.kind == "multislerp":
        shared["normalize_weights"] = shared.pop("normalize")
    return Terms(per_source, shared)


def inexpressible(method: Method, field: str) -> Iterator[FieldError]:
    """Yield an error for everything in `method` that mergekit cannot do; `field` is the method's path."""
    if method.kind not in METHODS:
        allowed = ", ".join(kind for kind in METHODS if kind != "passthrough")
        yield field_error(f"{field}.kind", method.kind, "mergekit has no such method", allowed)
        return
    for (kind, name), only in ONLY.items():
        if kind == method.kind and getattr(method, name) != only:
            yield field_error(f"{field}.{name}", getattr(method, name), "mergekit cannot do this", str(only))
    if isinstance(method, KarcherMerge) and len(set(method.weights)) > 1:
        yield field_error(f"{field}.weights", method.weights, "mergekit's karcher has no weights", "equal weights")
    if isinstance(method, DellaMerge | DellaLinearMerge):
        ends = [(density - method.epsilon, density + method.epsilon) for density in method.densities if 0 < density < 1]
        if any(low <= 0 or high >= 1 for low, high in ends):
            message = "mergekit refuses it with a density so near to 0 or 1"
            allowed = "density - epsilon above 0 and density + epsilon below 1"
            yield field_error(f"{field}.epsilon", method.epsilon, message, allowed)
