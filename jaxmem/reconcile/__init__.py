"""Formula against profile → Ledger."""

from jaxmem.reconcile.kinds import KINDS
from jaxmem.reconcile.ledger import compiled_rows, reconcile

__all__ = ["KINDS", "compiled_rows", "reconcile"]
