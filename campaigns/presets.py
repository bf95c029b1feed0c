"""Presets: parts of a spec by name, that a launched document starts from and overrides."""

from collections.abc import Mapping
from typing import Any

from campaigns.errors import InvalidSpec, unknown_name

PRESETS: dict[str, dict[str, Any]] = {
    "recycle": {
        "space": {"kind": "linear", "normalize": "softmax"},
        "strategy": {"kind": "cma_es", "sigma": 0.25, "start": "center"},
        "baselines": {"parents": True, "uniform_soup": True, "greedy_soup": True},
    },
    "mm-mo": {
        "space": {"kind": "dare_ties", "bounds": [0.0, 1.0], "densities": [0.0, 1.0], "seed": "per_candidate"},
        "strategy": {"kind": "mm_mo", "initial_points": 10, "proposals": 10, "batch_size": 5},
        "budget": {"evaluations": 30},
        "objectives": [{"task": "weights", "metric": "delta_l1"}],
    },
    "evolve": {
        "space": {"kind": "linear", "normalize": "sum", "bounds": [0.0, 1.0]},
        "strategy": {"kind": "cma_es", "sigma": 1 / 6, "start": "uniform"},
        "budget": {"evaluations": 100},
    },
}
"""name -> the fields that it fills in:

- `recycle`: checkpoint recycling (arXiv 2412.04144), weights that sum to one, CMA-ES on the macro-average, from the
  uniform soup on; the paper's step size and budget are not known, so the step is ours and the budget the user's;
- `mm-mo`: MM-MO (arXiv 2407.00487), 30 evaluations, the L1 norm of the merged task vector as one more objective; masks
  are drawn anew for each candidate, so that the search does not overfit to one draw;
- `evolve`: mergekit-evolve's CMA-ES: start at 1/n, step 1/6, 100 evaluations.
"""


def expand_preset(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `document` with the fields of its `preset`, if it names one, filled in wherever it has none itself.

    Fields of a space, strategy and the like are filled in one by one, unless the document asks for another `kind`.
    Objectives of the preset come after the document's own, those that it lists itself left out.
    Raises `InvalidSpec` when there is no such preset.
    """
    if not isinstance(document, Mapping) or "preset" not in document:
        return document
    own = {key: value for key, value in document.items() if key != "preset"}
    name = document["preset"]
    if not isinstance(name, str) or name not in PRESETS:
        raise InvalidSpec([unknown_name("preset", str(name), PRESETS, "preset")])
    filled = _filled(own, PRESETS[name])
    listed = own.get("objectives")
    if isinstance(listed, list | tuple) and listed:
        filled["objectives"] = _with_objectives([*listed], PRESETS[name].get("objectives", []))
    elif "objectives" not in own:
        filled.pop("objectives", None)  # the preset's alone say nothing of how good a merge is
    return filled


def _filled(own: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    if own.get("kind", preset.get("kind")) != preset.get("kind"):
        return dict(own)
    filled = {**preset, **own}
    for key in own.keys() & preset.keys():
        if isinstance(own[key], Mapping) and isinstance(preset[key], Mapping):
            filled[key] = _filled(own[key], preset[key])
    return filled


def _with_objectives(own: list[Any], preset: list[dict[str, Any]]) -> list[Any]:
    listed = [(o.get("task"), o.get("metric")) for o in own if isinstance(o, Mapping)]
    return own + [objective for objective in preset if (objective["task"], objective["metric"]) not in listed]
