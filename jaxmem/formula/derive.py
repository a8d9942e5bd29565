"""The formula of a program, from its layer table: what must exist, by role and layer, and when.

Training with B examples, a step donated, needs at its peak

    w + optimizer state + model state + inputs + Σ_l kept_l + working set + gradients alive + outputs

- State (parameters, moments, batch statistics) exists all the time and is updated in place where it is donated; where it is
  not, the new state stands beside the old one, among the outputs.
- kept_l is what autodiff lists for layer l: every array that a forward operation makes and a backward operation reads,
  followed back through reshapes to the operation that made it. Only this part grows with the depth of the network.
- The working set and the gradients are the arrays that exist at the peak besides, by the live ranges of
  `jaxmem.formula.live_ranges`. A gradient lives from its own operation to its update, which comes at once.
- Outputs: the results that are written over no donated argument (`jaxmem.formula.donation`), and an address for each entry
  of the table that points at the results, where there is more than one.

Inference needs w + inputs + outputs + the working set: where every layer reads one map and writes one, the two largest
successive maps.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jaxmem.formula.collectives import gathered_leaves, gathered_parameters, with_peak_of
from jaxmem.formula.donation import slots
from jaxmem.formula.equal import MOVEMENT
from jaxmem.formula.leaves import Formula, Leaf
from jaxmem.formula.live_ranges import find_live_ranges
from jaxmem.formula.loops import walk_back_through_loop
from jaxmem.formula.number_formats import as_computed
from jaxmem.formula.optimizers import RULES, follows_optimizer
from jaxmem.formula.padding import padding_leaves
from jaxmem.formula.ranges import LiveRanges
from jaxmem.formula.textbook import textbook_formulas
from jaxmem.layer_table import LayerTable
from jaxmem.lowering import Argument, Output, ProgramFacts
from jaxmem.roles import OPTIMIZER_ROLES, Phase, Role

POINTER_BYTES = {"cpu": 8, "cuda": 8, "tpu": 4}
"""One entry of the table of results, an address: XLA's pointer size on each platform.

On TPU measured: a table of 128 results takes 512 bytes, one of 129 takes 1,024, one of 300 takes 1,536.
"""

_ELEMENTWISE_TO_STATE = MOVEMENT | frozenset(
    """add add_any sub mul div neg max min pow integer_pow sqrt rsqrt square sign select_n convert_element_type clamp abs
    tanh exp log logistic reduce_precision broadcast_in_dim copysign and or not""".split()
)


def derive_formula(
    table: LayerTable,
    arguments: Sequence[Argument],
    outputs: Sequence[Output],
    program: ProgramFacts,
    *,
    platform: str,
    threads: int | None = None,
    features: Iterable[str] = (),
) -> Formula:
    """Derive the formula of a traced program on a platform. Nothing is compiled.

    Args:
        table, arguments, outputs, program: the traced program.
        platform: whose backend is to compile it.
        threads: of the pool that a CPU program runs on; without it, what its library allocates is left out.
        features: extensions of that CPU, as Linux names them; without them likewise, but for what does not depend on them.
    """
    used = _used_arguments(table)
    outputs = _as_divided(table, outputs)
    over = slots(arguments, outputs, used)
    ranges = find_live_ranges(
        table, platform=platform, replaced=_replaced(table, over), threads=threads, features=features
    )
    table = as_computed(table, ranges.in_float32)
    gathered = gathered_parameters(table, arguments, ranges, platform=platform)
    ranges = with_peak_of(table, ranges, gathered)
    gradients = gradient_values(table, outputs)
    leaves = [
        *_argument_leaves(table, arguments, used),
        *_output_leaves(arguments, outputs, over, POINTER_BYTES[platform]),
        *_value_leaves(table, ranges, gradients, outputs),
        *gathered_leaves(ranges, gathered),
        *_addition_leaves(ranges),
        *(padding_leaves(table, arguments, outputs, ranges, used=used) if platform == "tpu" else ()),
    ]
    training = any(operation.phase is Phase.BACKWARD for operation in table.operations)
    return Formula(
        leaves=tuple(leaves),
        peak=_peak_text(table, ranges),
        symbols=tuple(_symbols(leaves, program).items()),
        textbook=textbook_formulas(table, arguments, batch_size=program.batch_size, training=training),
        table=table,
    )


def _as_divided(table: LayerTable, outputs: Sequence[Output]) -> tuple[Output, ...]:
    """The results as one device has them: where nobody chose, a result is divided as the array that it is.

    What comes out of a program for one device (``shard_map``) is traced as the part that each device makes.
    """
    divided = []
    for index, output in zip(table.outputs, outputs, strict=True):
        value = table.values[index] if index is not None else None
        if value is not None and value.shape == output.shape and value.divided_over > 1:
            shape, over = output.shape, value.divided_over
            place = next((place for place, size in enumerate(shape) if size % over == 0), None)
            if place is not None:
                output = replace(output, shape=(*shape[:place], shape[place] // over, *shape[place + 1 :]))
        elif value is not None and len(value.shape) == len(output.shape) and value.elements < output.elements:
            output = replace(output, shape=value.shape)
        divided.append(output)
    return tuple(divided)


def _replaced(table: LayerTable, over: Mapping[int, int]) -> dict[int, int]:
    """Value of a donated argument → the value of the result that is written over it."""
    return {
        table.arguments[argument]: value
        for position, argument in over.items()
        if (value := table.outputs[position]) is not None
    }


def _used_arguments(table: LayerTable) -> frozenset[int]:
    """Indices of the arguments that an operation reads or that are results themselves; jit drops the others."""
    read = {operand for operation in table.operations for operand in operation.operands}
    read.update(value for value in table.outputs if value is not None)
    return frozenset(index for index, value in enumerate(table.arguments) if value in read)


def _argument_leaves(table: LayerTable, arguments: Sequence[Argument], used: frozenset[int]) -> list[Leaf]:
    return [
        Leaf(
            role=argument.role,
            layer=argument.layer,
            name=argument.path,
            elements=argument.elements,
            itemsize_bits=argument.itemsize_bits,
            bytes=argument.logical_bytes,
            counted=index in used,
            why="an argument exists all the time"
            if index in used
            else "the program does not use this argument and never receives it",
            path=argument.path,
            divided_over=table.values[value].divided_over,
            value=value,
        )
        for index, (argument, value) in enumerate(zip(arguments, table.arguments, strict=True))
    ]


def _output_leaves(
    arguments: Sequence[Argument], outputs: Sequence[Output], over: Mapping[int, int], pointer_bytes: int
) -> list[Leaf]:
    leaves = []
    for position, output in enumerate(outputs):
        in_place = position in over
        leaves.append(
            Leaf(
                role=output.role if in_place else Role.OUTPUTS,
                layer=output.layer,
                name=output.path if output.path.startswith("result") else f"result {output.path}",
                elements=0,
                bytes=output.logical_bytes,
                counted=not in_place,
                why=f"written over {arguments[over[position]].path}" if in_place else "a result has memory of its own",
                path=output.path,
                is_result=True,
            )
        )
    if len(outputs) != 1:
        leaves.append(
            Leaf(
                role=Role.OUTPUTS,
                layer="",
                name="table of results",
                elements=0,
                bytes=pointer_bytes * len(outputs),
                counted=True,
                why="one address for each result",
                is_result=True,
            )
        )
    return leaves


def _value_leaves(
    table: LayerTable, ranges: LiveRanges, gradients: dict[int, Output], outputs: Sequence[Output]
) -> list[Leaf]:
    is_output = {ranges.origin[value] for value in table.outputs if value is not None}
    gradient_origin = {ranges.origin[value]: output for value, output in gradients.items()}
    leaves = []
    for operation in table.operations:
        for result in operation.results:
            value = table.values[result]
            moved = ranges.origin[result] != result and result not in ranges.again
            if moved or ranges.constant[result] or not value.logical_bytes:
                continue
            counted = ranges.at_peak(result)
            role, name, path, layer = Role.TRANSIENT, operation.primitive, "", operation.layer
            if result in gradient_origin:
                output = gradient_origin[result]
                role, path, layer = Role.GRADIENTS, output.parameter_path, output.layer
                name = f"gradient of {output.parameter_path}"
                why = "from its own operation to its update" if counted else "made and used before or after the peak"
            elif ranges.residual[result]:
                role = Role.SAVED_ACTIVATIONS
                name = f"{'mask' if value.dtype == 'bool' else 'feature map'} ({operation.primitive})"
                why = "kept for the backward pass" if counted else "kept for the backward pass, but not at the peak"
            elif result in is_output and result not in ranges.in_float32:
                continue  # counted as output
            elif operation.phase is Phase.FORWARD and _read_last_backward(table, ranges, result):
                role, name = Role.SAVED_ACTIVATIONS, f"feature map ({operation.primitive})"
                why = "kept in place of what autodiff lists, which the backward pass computes again from it"
            elif result in ranges.again:
                why = "computed before, and once"
            elif ranges.exists[result]:
                why = "in use at the peak" if counted else "in use before or after the peak"
            else:
                why = "computed where it is needed"
            if ranges.on_chip:
                why = "in on-chip memory, where it exists"
            leaves.append(
                Leaf(
                    role=role,
                    layer=layer,
                    name=name,
                    primitive=operation.primitive,
                    phase=operation.phase,
                    elements=value.elements,
                    itemsize_bits=value.itemsize_bits,
                    bytes=value.logical_bytes,
                    counted=counted,
                    why=why,
                    path=path,
                    keeps=ranges.residual[result],
                    divided_over=value.divided_over,
                    value=result,
                )
            )
    return leaves


def _read_last_backward(table: LayerTable, ranges: LiveRanges, value: int) -> bool:
    """Whether a value exists until an operation of the backward pass or the update."""
    return ranges.exists[value] and table.operations[ranges.order[ranges.end[value]]].phase is not Phase.FORWARD


def _addition_leaves(ranges: LiveRanges) -> list[Leaf]:
    """What the backend makes for its own sake."""
    return (
        [
            Leaf(
                role=addition.role,
                layer=addition.layer,
                name=addition.name,
                phase=addition.phase,
                elements=addition.elements,
                itemsize_bits=addition.itemsize_bits,
                bytes=(addition.elements * addition.itemsize_bits + 7) // 8,
                counted=counted,
                why=addition.why,
                of_backend=True,
            )
            for addition, counted in ranges.additions
        ]
        + [
            Leaf(
                role=Role.HIDDEN,
                layer="",
                name="packed kernels and tiles of convolutions",
                elements=0,
                bytes=ranges.hidden_bytes,
                counted=True,
                why="the library allocates for itself while it runs",
            )
        ]
        * bool(ranges.hidden_bytes)
        + [
            Leaf(
                role=Role.FRAGMENTATION,
                layer="",
                name="gaps between temporaries",
                elements=0,
                bytes=ranges.gap_bytes,
                counted=True,
                why="where arrays of other sizes and live ranges leave room that none of them fits into",
                of_backend=True,
            )
        ]
        * bool(ranges.gap_bytes)
    )


def gradient_values(table: LayerTable, outputs: Sequence[Output]) -> dict[int, Output]:
    """Backward value → the new state it goes into.

    Walks back from each new parameter or moment as long as operations work element by element on arrays of its size; the
    first value that the backward pass made is the gradient, or the first that the user made of it otherwise: the mean of the
    gradients of single examples.
    """
    becomes: dict[int, Output] = {}
    for value, output in zip(table.outputs, outputs, strict=True):
        if value is not None and output.role in OPTIMIZER_ROLES | {Role.PARAMETERS} and output.parameter_path:
            becomes.setdefault(value, output)
    found: dict[int, Output] = {}
    late = follows_optimizer(table, outputs)
    for operation in reversed(table.operations):
        output = next((becomes[result] for result in operation.results if result in becomes), None)
        if output is None:
            continue
        if operation.hands_on:
            walk_back_through_loop(operation, table, becomes, found)
            continue
        if operation.phase is Phase.BACKWARD:
            for result in operation.results:
                if result in becomes:
                    found[result] = becomes[result]
            if operation.primitive == "convert_element_type":
                becomes.setdefault(operation.operands[0], output)  # the gradient in its own number format
            continue
        if operation.primitive in _ELEMENTWISE_TO_STATE:
            size = table.values[operation.results[0]].elements
            for operand in operation.operands:
                if table.values[operand].elements == size:
                    becomes.setdefault(operand, output)
        elif operation.phase is Phase.UPDATE and late.isdisjoint(operation.operands):
            found.update((result, becomes[result]) for result in operation.results if result in becomes)
    return found


def _peak_text(table: LayerTable, ranges: LiveRanges) -> str:
    if not ranges.order:
        return "the program computes nothing"
    operation = table.operations[ranges.order[ranges.peak]]
    place = f" of {operation.layer}" if operation.layer else ""
    return f"{operation.phase} pass, {operation.primitive}{place}"


def _symbols(leaves: Sequence[Leaf], program: ProgramFacts) -> dict[Role, str]:
    rule = RULES.get(program.optimizer or "")
    total = {
        role: sum(leaf.bytes for leaf in leaves if leaf.counted and leaf.role is role and leaf.elements)
        for role in Role
        if role in OPTIMIZER_ROLES
    }
    w = sum(leaf.bytes for leaf in leaves if leaf.counted and leaf.role is Role.PARAMETERS and leaf.elements)
    symbols = {
        Role.PARAMETERS: "w",
        Role.MODEL_STATE: "batch statistics",
        Role.INPUTS: "B·input",
        Role.GRADIENTS: "max g_l",
        Role.SAVED_ACTIVATIONS: "B·kept_l",
        Role.TRANSIENT: "B·working set",
        Role.OUTPUTS: "outputs",
        Role.OTHER_STATE: "other state",
        Role.COLLECTIVES: "gathered w_l",
    }
    for role in total:
        if rule is not None:
            extra = total[role] - rule.state_bytes(role, w)
            symbols[role] = rule.symbol(role) + (f" + {extra}" if extra > 0 else "")
        elif w and total[role] and total[role] % w == 0:
            symbols[role] = "w" if total[role] == w else f"{total[role] // w}w"
        else:
            symbols[role] = str(total[role])
    return symbols
