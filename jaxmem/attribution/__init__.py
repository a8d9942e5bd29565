"""Occupant → role and layer, and the account that results."""

from jaxmem.attribution.account import Account, take_account
from jaxmem.attribution.dataflow import Dataflow
from jaxmem.attribution.facts import Facts
from jaxmem.attribution.rules import RULES, Attribution, attribute

__all__ = ["RULES", "Account", "Attribution", "Dataflow", "Facts", "attribute", "take_account"]
