"""JAX's equations share what describes them: 25,000 of a network may have 65 abstract values and 5,000 name stacks."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class Remembered(Generic[Answer]):
    """A function of one object, asked once for each object, not for each that equals it."""

    __slots__ = ("_answers", "_function")

    def __init__(self, function: Callable[[Any], Answer]) -> None:
        self._function = function
        self._answers: dict[int, tuple[Answer, Any]] = {}

    def __call__(self, asked: Any) -> Answer:
        known = self._answers.get(id(asked))
        if known is None:
            # Kept alive beside its answer, so that no other object can come to have its identity.
            known = self._answers[id(asked)] = (self._function(asked), asked)
        return known[0]
