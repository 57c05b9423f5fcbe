"""What a method keeps as it goes, so that a search or a training that was stopped goes on."""

from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from .value_search import Value


class Kept(Protocol):
    """Where values and trainings are kept; of one batch of requests, and forgotten with it."""

    def find(self, number: int) -> "list[Value]":
        """The values of the batch before which `number` were searched; none if it was not searched yet."""
        ...

    def keep(self, number: int, values: "list[Value]") -> None:
        """Note the values of the batch before which `number` were searched."""
        ...

    def training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The state of a training that was kept last, and what it says of itself."""
        ...

    def keep_training(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Note the state of a training, in place of the one before."""
        ...


class _NothingKept:
    def find(self, number: int) -> "list[Value]":
        return []

    def keep(self, number: int, values: "list[Value]") -> None:
        pass

    def training(self) -> None:
        return None

    def keep_training(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        pass


nothing_kept = _NothingKept()
