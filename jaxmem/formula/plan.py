"""The formula's own program: arrays and the kernels that write them, as a compiler would leave them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from jaxmem.formula.cpu_fusion import fuse_for_cpu
from jaxmem.formula.epilogues import batch_epilogues, convolution_epilogues, product_epilogues
from jaxmem.formula.equal import Equals, find_equals, recomputed_regions
from jaxmem.formula.fusion import (
    CONTRACTIONS,
    REDUCTIONS,
    SCATTERS,
    WHOLE,
    WINDOWS,
    Fusion,
    fuse,
)
from jaxmem.formula.kernels import Addition, Array, Kernel, Slot
from jaxmem.formula.loop_invariants import IN_ANOTHER_ORDER
from jaxmem.formula.loop_state import gather_state, loop_state, updated_in_place
from jaxmem.formula.schedule import Donated
from jaxmem.formula.siblings import join_reductions
from jaxmem.formula.tiles import has_no_tiles
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.roles import Phase

_OWN_PLACE = CONTRACTIONS | REDUCTIONS | WINDOWS | SCATTERS | WHOLE | {IN_ANOTHER_ORDER}
"""Operations whose result is never written over an operand: they read each element more than once."""


class Plan:
    """The program while it is laid out. Backends add arrays and kernels to it.

    Attributes:
        table: the traced program.
        equals: what is computed twice.
        calls_cublas: matrix products are calls of a library, as convolutions are; else the compiler's own kernels.
        fusion: what exists.
        arrays, kernels: the plan itself.
        array_of: existing value → its array.
        swallowed: value → the one that a library writes in its place.
        shared_tables: what a batch of products writes → the tables that it adds.
        results: the arrays that are results of the program, in its order.
        replaced: argument → the result that is written over it, both as values.
        slots: memory that stands idle for a while.
    """

    def __init__(self, table: LayerTable, *, platform: str, replaced: Mapping[int, int]) -> None:
        self.table = table
        self.replaced = replaced
        self.equals: Equals = find_equals(table, merges_remat=platform == "cpu", scatters_pools=platform == "cuda")
        self.calls_cublas = platform == "cuda" and has_no_tiles(table, self.equals)
        self.swallowed = convolution_epilogues(table, self.equals) if platform == "cuda" else {}
        over: Mapping[int, int] = {}
        if self.calls_cublas:
            swallowed, over = product_epilogues(table, self.equals)
            self.swallowed |= swallowed
        self.shared_tables: Mapping[int, tuple[int, ...]] = {}
        if platform == "cuda":
            swallowed, self.shared_tables = batch_epilogues(
                table, self.equals, most=1 if self.calls_cublas else len(table.operations)
            )
            self.swallowed |= swallowed
        self.fusion: Fusion = (
            fuse_for_cpu(table, self.equals)
            if platform == "cpu"
            else fuse(
                table, self.equals, self.swallowed, by_priority=platform == "cuda", into_contractions=platform == "tpu"
            )
        )
        self.table = table = self.fusion.table
        self.arrays: list[Array] = []
        self.kernels: list[Kernel] = []
        self.array_of: dict[int, int] = {}
        outputs = [self.equals.of[value] for value in table.outputs if value is not None]
        self.loops = loop_state(table, self.equals)
        self._lay_out(frozenset(outputs), frozenset(self.swallowed.values()), over)
        self.kernels, self.arrays = gather_state(self.kernels, self.arrays, self.array_of, self.loops)
        self.results = [self.array_of[value] for value in outputs if value in self.array_of]
        if platform == "cuda":
            self.kernels = join_reductions(self.kernels, self.arrays, table, computes=self._computes)
            for kernel in self.kernels:
                if len(kernel.writes) > 1:
                    for array in kernel.writes:
                        self.arrays[array] = replace(self.arrays[array], lends=False)
        if platform != "cpu":
            self._wait_at_barriers()
            self._join_updates()
        self.kernel_of: dict[int, int] = {
            array: index for index, kernel in enumerate(self.kernels) for array in kernel.writes
        }
        over_arguments = {self.equals.of[result] for result in replaced.values()}
        self.slots = [
            Slot(size_bytes=self.fusion.size_bytes(value), before=self.kernel_of[self.array_of[value]])
            for value in dict.fromkeys(outputs)
            if value in self.array_of and value not in over_arguments
        ]

    def _lay_out(self, outputs: frozenset[int], of_a_library: frozenset[int], over: Mapping[int, int]) -> None:
        libraries = {"conv_general_dilated", "dot_general"} if self.calls_cublas else {"conv_general_dilated"}
        for index in self.equals.operations:
            operation = self.table.operations[index]
            for result in operation.results:
                if result not in self.fusion.exists:
                    continue
                by_library = operation.primitive in libraries or result in of_a_library
                own_place = operation.primitive in _OWN_PLACE and result not in self.loops.result_of
                same_as = self._place_in_loop(result, operation, outputs)
                is_output = result in outputs or self.loops.result_of.get(result) in outputs
                self.array_of[result] = self.add_array(
                    Array(
                        size_bytes=0 if is_output else self.fusion.size_bytes(result),
                        result_bytes=self.fusion.size_bytes(result) if result in outputs else 0,
                        value=result,
                        stays=result in outputs,
                        takes_over=not own_place
                        and not by_library
                        and same_as is None
                        and result not in self.fusion.ends,
                        lends=not by_library,
                        of_library=by_library,
                        is_number=self.table.values[result].elements == 1,
                        over=self.array_of.get(over[result]) if result in over else None,
                        same_as=same_as,
                    )
                )
            writes = [self.array_of[result] for result in operation.results if result in self.array_of]
            if writes:
                read = self.fusion.read_by(operation)
                arguments = [value for value in read if self.is_argument(value)]
                self.add_kernel(index, self.arrays_of(read), writes, arguments=arguments)

    def _place_in_loop(self, value: int, operation: Operation, outputs: frozenset[int]) -> int | None:
        """The array whose place a value takes as part of a loop's state; -1 where that is an argument's."""
        state = self.table.values[value].continues
        if state is not None:
            return self.array_of.get(state)
        if value in self.loops.result_of and operation.operands:
            source = self.equals.of[operation.operands[0]]
            in_place = self.replaced.get(source)
            return -1 if in_place is not None and self.equals.of[in_place] == self.loops.result_of[value] else None
        state = self.loops.version_of.get(value)
        if state is None or value in outputs:
            return None
        elsewhere = operation.primitive in _OWN_PLACE and state in self.fusion.read_by(operation)
        if elsewhere and updated_in_place(self.table, self.equals, value) != state:
            return None
        return self.array_of.get(state)

    def add_array(self, array: Array) -> int:
        """A new array; its index."""
        self.arrays.append(array)
        return len(self.arrays) - 1

    def add(
        self, addition: Addition, *, copies: int = 1, same_as: int | None = None, copy_of: int | None = None
    ) -> tuple[int, ...]:
        """New arrays of the backend's own, all alike; their indices."""
        size_bytes = (addition.elements * addition.itemsize_bits + 7) // 8
        array = Array(size_bytes=size_bytes, addition=addition, same_as=same_as, copy_of=copy_of)
        return tuple(self.add_array(array) for _ in range(copies))

    def add_kernel(
        self,
        operation: int,
        reads: Iterable[int],
        writes: Iterable[int],
        *,
        arguments: Iterable[int] = (),
    ) -> int:
        """A new kernel; its index."""
        self.kernels.append(
            Kernel(
                operation=operation,
                reads=tuple(dict.fromkeys(reads)),
                writes=tuple(writes),
                arguments=tuple(arguments),
            )
        )
        return len(self.kernels) - 1

    def extend(
        self, kernel: int, *, reads: Sequence[int] = (), writes: Sequence[int] = (), first: bool = False
    ) -> None:
        """Let a kernel read or write more arrays; ``first`` puts what it writes before what it wrote already."""
        old = self.kernels[kernel]
        self.kernels[kernel] = replace(
            old,
            reads=tuple(dict.fromkeys((*old.reads, *reads))),
            writes=(*writes, *old.writes) if first else (*old.writes, *writes),
        )

    def replace_read(self, kernel: int, array: int, by: int) -> None:
        """Let a kernel read another array in place of one."""
        old = self.kernels[kernel]
        self.kernels[kernel] = replace(old, reads=tuple(by if read == array else read for read in old.reads))

    def read_instead(self, kernel: int, argument: int, array: int) -> None:
        """Let a kernel read an array in place of an argument."""
        old = self.kernels[kernel]
        self.kernels[kernel] = replace(
            old,
            reads=tuple(dict.fromkeys((array, *old.reads))),
            arguments=tuple(one for one in old.arguments if one != argument),
        )

    def replace_write(self, kernel: int, array: int, by: int) -> None:
        """Let a kernel write another array in place of one."""
        old = self.kernels[kernel]
        self.kernels[kernel] = replace(old, writes=tuple(by if written == array else written for written in old.writes))

    def arrays_of(self, values: Iterable[int]) -> tuple[int, ...]:
        """The arrays of those values that are no arguments."""
        return tuple(self.array_of[value] for value in values if value in self.array_of)

    def operand(self, operation: Operation, number: int) -> int:
        """An operand, as the first value that holds its numbers."""
        return self.equals.of[operation.operands[number]]

    def kernel_writing(self, array: int) -> int | None:
        """The kernel that writes an array; None for one that a backend has added and not yet written."""
        if array not in self.kernel_of:
            self.kernel_of = {written: index for index, kernel in enumerate(self.kernels) for written in kernel.writes}
        return self.kernel_of.get(array)

    def kernels_reading(self) -> dict[int, list[int]]:
        """Array → the kernels that read it, as they are now."""
        reading: dict[int, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            for array in kernel.reads:
                reading.setdefault(array, []).append(index)
        return reading

    def phase_of(self, value: int) -> Phase:
        """The pass that makes a value; an argument is there for the forward pass."""
        made = self.table.values[value].operation
        return self.table.operations[made].phase if made is not None else Phase.FORWARD

    def is_argument(self, value: int) -> bool:
        """Whether a value is an argument of the program."""
        return self.table.values[value].argument is not None

    def kernels_computing(self, values: Iterable[int]) -> set[int]:
        """The kernels in which values are computed: their own, or those of their readers where they are virtual.

        One walk for all of them: what they have in common, the whole program below a step count, is visited once.
        """
        found: set[int] = set()
        waiting, seen = [self.swallowed.get(value, value) for value in values], set[int]()
        while waiting:
            one = waiting.pop()
            if one in seen:
                continue
            seen.add(one)
            if one in self.array_of:
                found.add(self.kernel_of[self.array_of[one]])
            else:
                for reader in self.fusion.readers.get(one, ()):
                    waiting.extend(self.swallowed.get(r, r) for r in self.table.operations[reader].results)
        return found

    def donated(self) -> dict[int, Donated]:
        """Donated argument → its size and the array that is written over it."""
        return {
            argument: Donated(size_bytes=self.fusion.size_bytes(argument), result=self.array_of[result])
            for argument, value in self.replaced.items()
            if (result := self.equals.of[value]) in self.array_of
        }

    def updates_of(self) -> dict[int, list[int]]:
        """Argument → the kernels that compute results of the program from it."""
        found: dict[int, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            if not kernel.writes or not all(self.arrays[array].stays for array in kernel.writes):
                continue
            for array in kernel.writes:
                value = self.arrays[array].value
                made = self.table.values[value].operation if value is not None else None
                if made is not None:
                    for source in self.fusion.read_by(self.table.operations[made]):
                        if self.is_argument(source):
                            found.setdefault(source, []).append(index)
        return found

    def _computes(self, kernel: Kernel) -> bool:
        """Whether a kernel computes element by element."""
        return all(self.arrays[array].takes_over for array in kernel.writes)

    def _wait_at_barriers(self) -> None:
        """What ``jax.checkpoint`` computes again waits for the gradient that comes in.

        JAX hands all that goes into the region, the gradient included, through one barrier, and XLA takes that out only when
        the kernels have their order (`OptimizationBarrierExpander`).
        """
        kernels_of: dict[int, list[int]] = {}
        for index, kernel in enumerate(self.kernels):
            kernels_of.setdefault(kernel.operation, []).append(index)
        left = set(self.equals.operations)
        for region in recomputed_regions(self.table):
            operations = left.intersection(region)
            kernels = [index for operation in sorted(operations) for index in kernels_of.get(operation, ())]
            inside = {array for index in kernels for array in self.kernels[index].writes}
            gradients = dict.fromkeys(
                source
                for index in sorted(operations)
                for operand in self.fusion.operands(self.table.operations[index])
                if self._comes_in(operand, region[0])
                for source in self.fusion.sources(operand)
            )
            incoming = [array for array in self.arrays_of(gradients) if array not in inside]
            for index in kernels:
                if inside.isdisjoint(self.kernels[index].reads):
                    self.extend(index, reads=incoming)

    def _comes_in(self, value: int, first: int) -> bool:
        """Whether a value that a region reads is a gradient made before its first operation."""
        made = self.table.values[value].operation
        return made is not None and made < first and self.table.operations[made].phase is Phase.BACKWARD

    def _join_updates(self) -> None:
        """One kernel writes all new state of a parameter: they read the same gradient (XLA's multi-output fusion)."""
        parent = list(range(len(self.kernels)))

        def find(index: int) -> int:
            while parent[index] != index:
                parent[index] = parent[parent[index]]
                index = parent[index]
            return index

        writer = {array: index for index, kernel in enumerate(self.kernels) for array in kernel.writes}
        updates = {
            index
            for index, kernel in enumerate(self.kernels)
            if self.table.operations[kernel.operation].phase is Phase.UPDATE
            and all(self.arrays[array].stays for array in kernel.writes)
        }
        first_reader: dict[int, int] = {}
        for index in sorted(updates):
            kernel = self.kernels[index]
            elements = self._elements(kernel.writes[0])
            for array in kernel.reads:
                if elements == 1 or self._elements(array) != elements:
                    continue  # a step count or a norm, which all parameters share
                other = writer[array] if writer[array] in updates else first_reader.setdefault(array, index)
                parent[find(index)] = find(other)
        together = [find(index) for index in range(len(self.kernels))]
        late = self._late_updates(together, writer)
        joined: dict[int, list[Kernel]] = {}
        for index, kernel in enumerate(self.kernels):
            joined.setdefault(~index if index in late else together[index], []).append(kernel)  # late: by itself
        self.kernels = []
        for kernels in joined.values():
            writes = tuple(array for kernel in kernels for array in kernel.writes)
            reads = dict.fromkeys(array for kernel in kernels for array in kernel.reads if array not in writes)
            arguments = dict.fromkeys(value for kernel in kernels for value in kernel.arguments)
            self.kernels.append(
                Kernel(operation=kernels[-1].operation, reads=tuple(reads), writes=writes, arguments=tuple(arguments))
            )

    def _late_updates(self, together: Sequence[int], writer: Mapping[int, int]) -> set[int]:
        """The kernels that wait, through others, for one that they were to be joined with: a norm of the new moment, say.

        Args:
            together: for each kernel the first of those it is joined with.
            writer: array → its kernel.
        """
        several = [first for first, count in Counter(together).items() if count > 1]
        bit = {first: 1 << place for place, first in enumerate(several)}
        late: set[int] = set()
        through_others: list[int] = []
        """For each kernel the joined ones that it waits for, other than by reading what they write as one of them."""
        for index, kernel in enumerate(self.kernels):
            waits = own = 0
            for array in kernel.reads:
                before = writer.get(array, index)
                if before >= index:
                    continue
                if together[before] == together[index] and before not in late:
                    own |= through_others[before]
                else:
                    waits |= through_others[before] | bit.get(together[before], 0)
            if waits & bit.get(together[index], 0):
                late.add(index)
            through_others.append(waits | own)
        return late

    def _elements(self, array: int) -> int:
        value = self.arrays[array].value
        return self.table.values[value].elements if value is not None else -1
