"""The zoo of jaxmem: plain Flax NNX networks, one architecture a file, each a page of its paper.

Installed under the import name ``jaxmem_models``. `registry` is a literal table that is read without importing JAX;
`programs.build` turns one of its rows into the program that is analysed, and `steps` holds the training step and the
inference function, written as a user would write them. Nothing here imports jaxmem.
"""
