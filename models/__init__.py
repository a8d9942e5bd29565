"""The zoo of jaxmem: plain Flax NNX networks, one architecture a file. Installed under the import name ``jaxmem_models``."""
