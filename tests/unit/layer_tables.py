"""Layer tables in the making, for tests of the formula."""

from jaxmem.layer_table import LayerTable, Operation, Value


class Table:
    """A layer table in the making; values by name."""

    def __init__(self):
        self.names = {}
        self.values = []
        self.operations = []
        self.arguments = []

    def _value(self, name, shape, dtype, **made_by):
        self.names[name] = len(self.values)
        bits = {"bool": 8, "token": 0}.get(dtype, 32)
        self.values.append(Value(shape=shape, dtype=dtype, itemsize_bits=bits, **made_by))

    def argument(self, name, *shape):
        self._value(name, shape, "float32", argument=len(self.arguments))
        self.arguments.append(self.names[name])

    def do(
        self,
        name,
        primitive,
        phase,
        shape,
        *operands,
        layer="dense",
        dtype="float32",
        scope=None,
        hands_on=0,
        continues=None,
    ):
        carried = None if continues is None else self.names[continues]
        self._value(name, shape, dtype, operation=len(self.operations), continues=carried)
        self.operations.append(
            Operation(
                primitive=primitive,
                scope=layer if scope is None else scope,
                layer=layer,
                phase=phase,
                operands=tuple(self.names[operand] for operand in operands),
                results=(self.names[name],),
                hands_on=hands_on,
            )
        )

    def table(self, *outputs):
        return LayerTable(
            values=tuple(self.values),
            operations=tuple(self.operations),
            arguments=tuple(self.arguments),
            outputs=tuple(self.names[name] for name in outputs),
        )
