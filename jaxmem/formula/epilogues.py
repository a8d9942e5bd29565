"""What a library of convolutions or matrix products does besides: an epilogue, written in place of the product itself."""

from jaxmem.formula.equal import Equals
from jaxmem.formula.fusion import find_readers
from jaxmem.layer_table import LayerTable, Operation
from jaxmem.roles import Phase


class _Chains:
    """Products and what follows them, one reader after the other."""

    def __init__(self, table: LayerTable, equals: Equals) -> None:
        self.table, self.equals = table, equals
        self.readers = find_readers(table, equals)
        self.results = {equals.of[value] for value in table.outputs if value is not None}

    def only_reader(self, value: int, primitive: str) -> Operation | None:
        """The one operation that reads a value, where it is of that kind and the value is no result of the program."""
        found = self.readers.get(value, ())
        if len(found) != 1 or value in self.results:
            return None
        operation = self.table.operations[found[0]]
        return operation if operation.primitive == primitive else None

    def adds_a_vector(self, added: Operation, product: int) -> bool:
        """Whether what an addition adds to a product is one number for each channel."""
        channels = self.table.values[product].shape[-1]
        return all(self.table.values[value].elements <= channels for value in self._added(added, product))

    def added_matrix(self, added: Operation, product: int) -> int | None:
        """What an addition adds to a product, where that is an array of the product's size."""
        elements = self.table.values[product].elements
        found = [value for value in self._added(added, product) if self.table.values[value].elements == elements]
        return found[0] if found else None

    def shared_table(self, added: Operation, product: int) -> int | None:
        """What an addition adds to a product, where that is less than an array of its size and more than a vector."""
        whole = self.table.values[product]
        for operand in added.operands:
            value = self.equals.of[operand]
            if value != product and whole.shape[-1] < self.table.values[value].elements < whole.elements:
                return value
        return None

    def rectifies(self, maximum: Operation) -> bool:
        """Whether a maximum is that of an array and a constant."""
        return sum(not self.equals.constant[value] for value in maximum.operands) == 1

    def _added(self, added: Operation, product: int) -> list[int]:
        found = []
        for operand in added.operands:
            value = self.equals.of[operand]
            if value == product:
                continue
            made = self.table.values[value].operation
            if made is not None and self.table.operations[made].primitive == "broadcast_in_dim":
                value = (
                    self.equals.of[self.table.operations[made].operands[0]]
                    if self.table.operations[made].operands
                    else value
                )
            found.append(value)
        return found


def convolution_epilogues(table: LayerTable, equals: Equals) -> dict[int, int]:
    """What a convolution of cuDNN writes in place of its own result: with the bias added, and the ReLU done.

    Only in the forward pass, and only where nothing else reads what is between (`cudnn_fused_conv_rewriter.cc` of XLA).
    """
    chains = _Chains(table, equals)
    swallowed: dict[int, int] = {}
    for index in equals.operations:
        convolution = table.operations[index]
        if convolution.primitive != "conv_general_dilated" or convolution.phase is Phase.BACKWARD:
            continue
        inside = [convolution.results[0]]
        added = chains.only_reader(inside[-1], "add")
        if added is not None and chains.adds_a_vector(added, inside[-1]):
            inside.append(added.results[0])
        rectified = chains.only_reader(inside[-1], "max")
        if rectified is not None and chains.rectifies(rectified):
            inside.append(rectified.results[0])
        swallowed.update((value, inside[-1]) for value in inside[:-1])
    return swallowed


def product_epilogues(table: LayerTable, equals: Equals) -> tuple[dict[int, int], dict[int, int]]:
    """What a matrix product of cuBLAS writes in place of its own result: with a bias added, then a matrix, or rectified.

    The matrix is most often what a residual connection adds. Only where nothing else reads what is between, and not where
    batches of products are made (`FuseVectorBiasAdd`, `FuseMatrixBiasAdd`, `FuseReluActivation` of XLA's
    `gemm_rewriter.cc`). The library adds to the matrix where it lies, if nobody reads it afterwards.

    Returns:
        What is swallowed → what is written in its place; and of that, what is written → the matrix it is written over.
    """
    chains = _Chains(table, equals)
    swallowed: dict[int, int] = {}
    over: dict[int, int] = {}
    for index in equals.operations:
        product = table.operations[index]
        if product.primitive != "dot_general" or product.size("lhs_batch"):
            continue
        inside = [product.results[0]]
        added = chains.only_reader(inside[-1], "add")
        if added is not None and chains.adds_a_vector(added, inside[-1]):
            inside.append(added.results[0])
        summed = chains.only_reader(inside[-1], "add")
        rectified = chains.only_reader(inside[-1], "max")
        matrix = chains.added_matrix(summed, inside[-1]) if summed is not None else None
        if summed is not None and matrix is not None:
            inside.append(summed.results[0])
            over[inside[-1]] = matrix
        elif rectified is not None and chains.rectifies(rectified):
            inside.append(rectified.results[0])
        swallowed.update((value, inside[-1]) for value in inside[:-1])
    return swallowed, over


def batch_epilogues(
    table: LayerTable, equals: Equals, *, most: int
) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
    """What a batch of products writes in place of its own result: with tables added that the batch shares.

    Positions and masks are added to the scores of an attention within the product (`gemm_fusion.cc` of XLA). A vector is read
    as it is; a table that repeats itself over the batch is written out at the size of the product first, for the fusion takes
    no such broadcast in. cuBLAS adds one matrix, and reads it at full size as well.

    Args:
        table, equals: the program.
        most: tables that one product adds.

    Returns:
        What is swallowed → what is written in its place; and of that, what is written → the tables.
    """
    chains = _Chains(table, equals)
    swallowed: dict[int, int] = {}
    added: dict[int, tuple[int, ...]] = {}
    for index in equals.operations:
        product = table.operations[index]
        if product.primitive != "dot_general" or not product.size("lhs_batch"):
            continue
        inside, tables = [product.results[0]], list[int]()
        while len(tables) < most and (summed := chains.only_reader(inside[-1], "add")) is not None:
            shared = chains.shared_table(summed, inside[-1])
            if shared is None:
                break
            tables.append(shared)
            inside.append(summed.results[0])
        swallowed.update((value, inside[-1]) for value in inside[:-1])
        if tables:
            added[inside[-1]] = tuple(tables)
    return swallowed, added
