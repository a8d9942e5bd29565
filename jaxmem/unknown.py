"""Unknown: the value of a number that nobody could tell, with the reason why."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unknown:
    """Stands where a number would stand and says why there is none: ``Unknown("not reported by this backend")``.

    It is neither zero nor a missing entry. In JSON it is ``{"unknown": reason}``.
    """

    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("Unknown needs a reason: a sentence that says why the number is not there.")
