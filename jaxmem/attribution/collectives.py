"""Instructions with which devices exchange data, in one step or in two (``-start`` and ``-done``)."""

SUMS = frozenset({"all-reduce", "all-reduce-start", "reduce-scatter"})
"""Every device has a part of a sum: the result is the sum, whole on each of them or (reduce-scatter) divided among them."""

GATHERS = frozenset({"all-gather", "all-gather-start"})
"""Every device has a part of an array: the result is the array."""

EXCHANGES = frozenset(
    """all-to-all ragged-all-to-all collective-permute collective-permute-start collective-broadcast
    send recv""".split()
)

HANDED_OVER = GATHERS | EXCHANGES
"""The result is made of what some device had: nothing is computed."""

COLLECTIVES = SUMS | HANDED_OVER

PIECEWISE = frozenset({"all-reduce", "all-reduce-start", "reduce-scatter", "all-gather", "collective-permute"})
"""With several operands, each result is made from the operand in its own place."""

STARTS = frozenset({"all-gather-start", "collective-permute-start"})
"""The result is a tuple: the operands, handed on; the results; and what the backend keeps besides."""

DONES = {"all-reduce-done": None, "all-gather-done": 1, "collective-permute-done": 1}
"""Opcode → which element of its operand it hands on as its result; None for all of it."""
