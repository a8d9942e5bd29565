"""What a random program is made of, as data: drawn from a seed, and made smaller while something is wrong with it."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

BLOCKS = (
    "dense", "dense", "mlp", "conv", "conv", "depthwise", "max_pool", "average_pool", "layer_norm", "batch_norm", "attention",
    "relu", "gelu", "silu", "softmax", "dropout", "embedding", "gather", "scatter", "sort", "top_k", "cumsum",
    "dynamic_slice", "dynamic_update", "one_hot", "einsum", "concatenate", "zero_sized", "scalar", "fourier", "transpose",
    "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int8", "int4", "straight_through", "custom_vjp", "recurrence",
)  # fmt: skip
"""Names of blocks; one that stands twice is drawn twice as often."""

WRAPS = ("remat", "scan", "cond", "switch", "fori", "while", "jit", "residual", "vmap", "checkpointed_scan")
COLLECTIVES = ("psum", "all_gather", "permute", "all_to_all", "reduce_scatter", "constraint")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw", "rmsprop", "lion", "adafactor", "by_hand")
EXTRAS = (
    "unused", "scalar", "zero_sized", "int4", "uint4", "float8_e4m3fn", "float8_e5m2", "bool", "key", "nested", "complex",
    "integer_scalar",
)  # fmt: skip
"""Further arguments: of odd types, or never read."""
DTYPES = ("float32", "float32", "float32", "bfloat16", "float16")
WIDTHS = (1, 3, 4, 5, 8, 12, 16, 24, 32)
BATCHES = (1, 2, 3, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One step of the network: what it is, how wide, and what is wrapped around it, the innermost first."""

    name: str
    width: int = 8
    wraps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole program.

    Attributes:
        seed: what it was drawn from.
        mode: ``train``, ``infer``, or ``gradient`` (gradients are the result).
        blocks: of the network, in order.
        extras: further arguments.
        donated: which of parameters, state and inputs are given up.
        micro_batches: gradients are added up over so many; 1 for a plain step.
        steps: training steps that one call loops over; 1 for a plain step.
        tree: how parameters are nested: ``dict``, ``list`` or ``tuple``.
        devices, sharded_parameters: the batch is divided over so many devices, the parameters too if told.
    """

    seed: int
    mode: str
    batch: int
    width: int
    dtype: str
    blocks: tuple[Block, ...]
    optimizer: str = "sgd"
    extras: tuple[str, ...] = ()
    donated: tuple[str, ...] = ()
    micro_batches: int = 1
    steps: int = 1
    tree: str = "dict"
    devices: int = 1
    sharded_parameters: bool = False

    def features(self) -> tuple[str, ...]:
        """What the program has, by name, each once."""
        found = [f"mode {self.mode}", f"dtype {self.dtype}", f"tree {self.tree}"]
        found += [f"block {block.name}" for block in self.blocks]
        found += [f"wrap {wrap}" for block in self.blocks for wrap in block.wraps]
        found += [f"argument {extra}" for extra in self.extras] + [f"donated {name}" for name in self.donated]
        found += [f"optimizer {self.optimizer}"] if self.mode == "train" else []
        found += ["micro-batches"] if self.micro_batches > 1 else []
        found += ["loop over steps"] if self.steps > 1 else []
        found += [f"{self.devices} devices"] if self.devices > 1 else []
        found += ["sharded parameters"] if self.sharded_parameters else []
        return tuple(dict.fromkeys(found))


def draw(seed: int, *, devices: int | None = None) -> Plan:
    """The program of a seed. ``devices`` fixes their number; None draws it too."""
    random_ = random.Random(seed)
    number = random_.choice((1, 1, 1, 1, 2, 4))
    number = number if devices is None else devices
    mode = random_.choice(("train", "train", "train", "infer", "infer", "gradient"))
    names = BLOCKS + (COLLECTIVES * 2 if number > 1 else ())
    blocks = tuple(
        Block(
            name=random_.choice(names),
            width=random_.choice(WIDTHS),
            wraps=tuple(random_.choice(WRAPS) for _ in range(random_.choice((0, 0, 0, 1, 1, 2)))),
        )
        for _ in range(random_.randint(1, 6))
    )
    micro_batches = random_.choice((1, 1, 1, 1, 2)) if mode == "train" else 1
    return Plan(
        seed=seed,
        mode=mode,
        batch=random_.choice(BATCHES) * number * micro_batches,
        width=random_.choice(WIDTHS),
        dtype=random_.choice(DTYPES),
        blocks=blocks,
        optimizer=random_.choice(OPTIMIZERS),
        extras=tuple(random_.choice(EXTRAS) for _ in range(random_.choice((0, 0, 1, 2)))),
        donated=tuple(name for name in ("parameters", "state", "inputs") if random_.random() < 0.5),
        micro_batches=micro_batches,
        steps=random_.choice((1, 1, 1, 1, 1, 3)) if mode == "train" else 1,
        tree=random_.choice(("dict", "list", "tuple")),
        devices=number,
        sharded_parameters=number > 1 and random_.random() < 0.5,
    )


def smaller(plan: Plan) -> Iterator[Plan]:
    """Programs with one thing less each, those that lose most first."""
    for place in range(len(plan.blocks)):
        if len(plan.blocks) > 1:
            yield replace(plan, blocks=plan.blocks[:place] + plan.blocks[place + 1 :])
    for place, block in enumerate(plan.blocks):
        for wrap in range(len(block.wraps)):
            without = replace(block, wraps=block.wraps[:wrap] + block.wraps[wrap + 1 :])
            yield replace(plan, blocks=(*plan.blocks[:place], without, *plan.blocks[place + 1 :]))
    for field in ("extras", "donated"):
        named = getattr(plan, field)
        for place in range(len(named)):
            yield replace(plan, **{field: named[:place] + named[place + 1 :]})
    plain = {
        "micro_batches": 1, "steps": 1, "devices": 1, "sharded_parameters": False, "dtype": "float32", "tree": "dict",
        "optimizer": "sgd",
    }  # fmt: skip
    for field, value in plain.items():
        if getattr(plan, field) != value:
            alone = {"sharded_parameters": False} if field == "devices" else {}
            yield replace(plan, **{field: value}, **alone)


def shrink(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """The smallest program found, one thing less at a time, that still fails."""
    while (found := next((each for each in smaller(plan) if fails(each)), None)) is not None:
        plan = found
    return plan
