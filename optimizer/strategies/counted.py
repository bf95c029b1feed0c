"""The state of strategies that follow from their history but for two counters."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from optimizer.strategies.sobol import SobolSequence
from optimizer.strategies.strategy import Observation


class CountedStrategy(ABC):
    """A strategy whose ask k is a function of what was told, what is pending, and k; it begins with a Sobol design."""

    _design: SobolSequence
    _asked: int

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Take a result in."""

    def state(self) -> dict[str, Any]:
        """Return how many points were asked for, and how many of them came from the design."""
        return {"asked": self._asked, "design": self._design.drawn}

    def restore(self, state: dict[str, Any], history: Sequence[Observation]) -> None:
        """Tell the history again, in order, and go on after the asks already made."""
        for observation in history:
            self.tell(observation)
        self._asked = int(state["asked"])
        self._design.skip_to(int(state["design"]))
