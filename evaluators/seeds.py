"""The random state that `lm_eval` starts each run from, so that sampled generations are its own."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED

FEWSHOT_SEED: int = DEFAULT_OTHER_SEED


@contextmanager
def lm_eval_seeds() -> Iterator[None]:
    """Seed python, numpy and torch as the `lm_eval` command does by default, and put their states back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
