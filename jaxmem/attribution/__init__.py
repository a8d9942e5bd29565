"""Occupant → role and layer."""

from jaxmem.attribution.dataflow import Dataflow
from jaxmem.attribution.facts import Facts
from jaxmem.attribution.rules import RULES, Attribution, attribute

__all__ = ["RULES", "Attribution", "Dataflow", "Facts", "attribute"]
