"""jaxmem: how many bytes a JAX program needs, where every one of them goes, and whether it fits."""

__version__ = "0.1.0"
