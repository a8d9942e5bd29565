"""What the compiled side can testify: which values exist, in which buffers, and from what they are computed again."""

from jaxmem.reconcile.evidence.computed_again import ComputedAgain
from jaxmem.reconcile.evidence.exchanged import Exchanged
from jaxmem.reconcile.evidence.named import Kind, Name, Place
from jaxmem.reconcile.evidence.on_the_way import OnTheWay


class Evidence(OnTheWay, ComputedAgain, Exchanged):
    """Questions about one compiled program, each answered from its dataflow graph and live ranges."""


__all__ = ["Evidence", "Kind", "Name", "Place"]
