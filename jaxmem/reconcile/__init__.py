"""Formula against profile → Ledger."""

from jaxmem.reconcile.kinds import KINDS
from jaxmem.reconcile.ledger import reconcile

__all__ = ["KINDS", "reconcile"]
