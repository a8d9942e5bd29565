"""Memory that XLA's buffer assignment does not see: what opaque library fusions allocate while they run."""

from jaxmem.hidden.fusions import (
    OPAQUE_FUSION_KINDS,
    Hidden,
    OpaqueFusion,
    hidden_need,
    opaque_fusions,
)

__all__ = ["OPAQUE_FUSION_KINDS", "Hidden", "OpaqueFusion", "hidden_need", "opaque_fusions"]
