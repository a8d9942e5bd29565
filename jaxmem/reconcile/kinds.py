"""The closed list of what an item of the ledger may say. Each is a predicate that was true of the capture when it was said."""

KINDS: dict[str, str] = {
    "alive at the peak": "XLA's peak is another moment than the formula's: the buffer named is live there, the leaf is not "
    "in the formula's sum",
    "freed before the peak": "the buffer named holds the leaf, and its live range ends before the peak",
    "made after the peak": "the buffer named holds the leaf, and its live range begins after the peak, or with the instruction "
    "of the peak where that one writes it into memory that an operand still holds",
    "fused away": "no buffer ever holds the leaf: every instruction that computes it is inside the fusions named",
    "held in another memory": "the buffer named holds the leaf in on-chip or host memory, which is an account of its own",
    "inside a library call": "the library call named does the leaf's operation together with its neighbours and writes only "
    "their result",
    "step of an operation": "the compiler does the operation named in several steps; the buffer is between two of them",
    "done after the sum": "the program changes each element of the leaf named and adds up the results, which are another leaf; "
    "the compiler adds up first, and changes the sum, which the buffer named holds",
    "another number format": "the buffer named holds the leaf, cast by the compiler to another number format",
    "another shape": "a compiler that tiles its layouts does the operation on arrays of another shape (tiles with borders, "
    "split dimensions); the instruction named is one of them",
    "padded for a kernel": "the buffer named holds the leaf, or the argument, between borders that a kernel wants, or a "
    "division into equal parts",
    "kept twice": "both buffers named are live at the peak and hold the same value",
    "kept instead": "no buffer holds the leaf named; the backward pass computes it again from this buffer, or reads this "
    "buffer, made from it, in its place; the fusion named does that",
    "kept beside": "the backward pass computes the leaf named again from this buffer, in the fusion named, although the leaf "
    "is held in another buffer or need not be kept",
    "counted under another role": "the leaf is live at the peak in the buffer named, which has the other role",
    "counted in another layer": "the leaf is live at the peak in the buffer named, which has the other layer: no scope names a "
    "layer there, and what the compiler has moved or fused stands beside other neighbours",
    "divided otherwise": "the buffer named holds the leaf, of which each device has another part than the formula says: nobody "
    "chose how it is divided, and the two numbers of parts both go into the number of devices",
    "part of one device": "the buffer named holds this device's part of the leaf named, cut by the number of the device from "
    "what the instruction named has made: the program has not asked for that, and nothing else flows in",
    "prepared for the backward pass": "a function of the forward pass alone that only the backward pass reads, made before "
    "the first gradient: an index map, a mask",
    "operand at full size": "a smaller array, broadcast or cast and written to memory as an operand of the operation named",
    "inside an operation": "an intermediate of the operation named, which JAX lowers to a function of several instructions, "
    "none of them under the operation's own name",
    "depends on no argument": "no argument of the program flows into the buffer: zeros, index ramps, literals",
    "awaits the sum over devices": "the part of the gradient, of the result or of the sum named that one device made, or what "
    "it alone gives; the collective named, of which it is an operand, adds up the parts of all",
    "whole before it is divided": "the gradient named, as the collective named leaves it on every device before each takes its "
    "part",
    "gathered from the devices": "the result of an all-gather of the argument or instruction named, or of a sum in which each "
    "device has its part between zeros: the leaf named or cut from it, as many elements as the parts of the devices have "
    "together; or what each device has found of the leaf's operation in its own part",
    "used in parts": "no instruction of the program gathers the argument named: each device computes with the part that it has",
    "added up over the devices": "the result of an all-reduce or reduce-scatter of the instructions named, each of which is a "
    "leaf named, and as many elements as they have together; of a reduce-scatter, this device's part of them",
    "packed for the devices": "the instructions named, each of which is a leaf named, side by side in one array that only a "
    "collective reads, and as many elements as they have together",
    "asked for by the program": "the result of a collective that the program itself calls: the leaf named, under its own "
    "name and of its size",
    "exchanged between the devices": "the result of another collective, as many elements as the instruction named has sent: "
    "numbers of the leaf named and constants, moved, cut, spread out and put side by side, and nothing else; or of a sum to "
    "which one device gives them and all the others zeros",
    "simplified away": "the leaf is an array of the traced program, in size and number format, and no instruction of the "
    "compiled program is its operation: whatever has its size, under the operation's name and where that stands in the "
    "program, is spoken of by another leaf; of a gradient, nothing that becomes the new parameter is made backward either",
    "not made by the compiler": "the formula expects the backend to make the array named for its own sake, and no buffer of "
    "its role, layer and size is live at the peak besides those that stand for others",
    "copy of an argument": "the numbers of the argument named, or part of them, copied or transposed, while its own slot still "
    "holds them",
    "result nobody reads": "one of several results of one instruction, without a reader",
    "table of pointers": "addresses of a tuple's elements",
    "scratch of a library call": "memory that a custom call works in",
    "idle slot of a donated argument": "the argument's memory between the last use of the old value and the new one",
    "gap between buffers": "bytes of an allocation that nothing holds at the peak",
    "slot lent out": "the result is not written yet, and the buffer named uses its memory",
    "result in another order": "the result named, complete, in the order or the number format that it is computed in; another "
    "buffer holds the same numbers as the caller wants them, and is the result",
    "written over an argument": "the result named lies in the memory of the donated argument named: it is there at the "
    "peak in its place, or the formula has memory of its own for it and the compiler has not",
    "grows into a result": "the leaf lies in the memory of the result named, which the buffer named becomes when the next "
    "operation has written into it: the formula has memory of its own for each",
    "donation refused": "the argument was donated, but XLA gave the result memory of its own",
    "layout padding": "the layout of the buffer named is tiled",
    "code of the program": "the compiled program itself, which this backend keeps in main memory; as the compiler reports it",
    "not in the formula": "the compiled program has the array named, in no buffer at the peak, and the formula does not speak "
    "of it: a defect of the formula, which leaves its row open",
    "damaged assignment": "the instruction's value has no memory in the buffer assignment, or a buffer of another size: no "
    "compiler writes that, and the row stays open",
    "hidden by opaque fusions": "the library or runtime behind what is named allocates while it runs",
}
"""Kind → the predicate, in words."""
