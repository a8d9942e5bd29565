"""What one compiled program needs and what became of its donations: the answer without the ledger, for searches."""

from dataclasses import dataclass

from jaxmem.capture import Capture
from jaxmem.errors import InputError, InvariantError
from jaxmem.hidden import hidden_need
from jaxmem.lowering import Argument
from jaxmem.profile import MAIN_COLORS, profile_memory
from jaxmem.result import DonationLeaf, DonationOutcome, Verdict
from jaxmem.roles import STATE_ROLES
from jaxmem.verdict import judge
from jaxmem.xla import BufferAssignment, Module, read_hlo_proto


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """As in a `Report` of the same capture, byte for byte; ``donation`` has the largest arrays first."""

    required_bytes: int
    required_is_lower_bound: bool
    verdict: Verdict
    donation: tuple[DonationLeaf, ...]


def read_need(capture: Capture, *, origin: str = "the capture") -> Need:
    """The headline of a report, in a fraction of its time.

    Raises:
        InputError: the module in the capture is damaged, or has no buffer assignment.
    """
    module, assignment = read_hlo_proto(capture.hlo_proto, origin=origin)
    if assignment is None:
        raise InputError(f"The module in {origin} has no buffer assignment. Capture the program again.")
    platform = capture.device.platform
    profile = profile_memory(module, assignment, platform=platform)
    reserved_bytes = profile.reserved_bytes + code_bytes(capture, assignment)
    # A card's libraries and code are not known without it; a TPU's compiler plans all there is.
    hidden_bytes = None if platform == "cuda" else 0
    if platform == "cpu":
        hidden_bytes = hidden_need(module, capture.host).bytes
    required_bytes = reserved_bytes + (hidden_bytes or 0)
    return Need(
        required_bytes=required_bytes,
        required_is_lower_bound=hidden_bytes is None,
        verdict=judge(capture, required_bytes=required_bytes, reserved_bytes=reserved_bytes),
        donation=audit_donation(capture, module),
    )


def code_bytes(capture: Capture, assignment: BufferAssignment) -> int:
    """The program's code, where it takes main memory: on TPU. Not known, and 0 here, where the compiler refused it.

    What libtpu reports as code contains the constants, which are allocations too: they count there, once.
    """
    code = capture.statistics.generated_code_bytes
    if capture.device.platform != "tpu" or not isinstance(code, int):
        return 0
    main = MAIN_COLORS["tpu"]
    constants = sum(one.size for one in assignment.allocations if one.is_constant and one.color in main)
    if constants > code:
        raise InvariantError(f"the code of {code} B should contain the constants, but they are {constants} B.")
    return code - constants


def audit_donation(capture: Capture, module: Module) -> tuple[DonationLeaf, ...]:
    """Every array that was donated or could have been, and what the compiler made of it."""
    aliased = {alias.parameter_number for alias in module.input_output_alias}
    offered = {donor.parameter_number for donor in module.buffer_donors}
    replaced = {output.argument_index for output in capture.outputs if output.argument_index is not None}
    leaves = []
    for index, argument in enumerate(capture.arguments):
        said = _outcome(argument, capture, aliased, offered, is_replaced=index in replaced)
        if said is not None:
            outcome, reason = said
            leaves.append(
                DonationLeaf(
                    path=argument.path,
                    role=argument.role,
                    bytes=argument.logical_bytes,
                    outcome=outcome,
                    reason=reason,
                )
            )
    return tuple(sorted(leaves, key=lambda leaf: -leaf.bytes))


def _outcome(
    argument: Argument, capture: Capture, aliased: set[int], offered: set[int], *, is_replaced: bool
) -> tuple[DonationOutcome, str] | None:
    number = argument.parameter_number
    if not argument.donated:
        if is_replaced and argument.role in STATE_ROLES and number is not None:
            return "not requested", "a result replaces it, and stands beside it"
        return None
    if number is None:
        return "copied", "the program never reads it, so it never receives the memory"
    if number in aliased:
        return "aliased", "a result is written over it"
    kind = f"{argument.dtype}{list(argument.shape)}"
    matching = sum(
        (output.shape, output.itemsize_bits) == (argument.shape, argument.itemsize_bits) for output in capture.outputs
    )
    if number in offered:
        return "copied", f"offered to the compiler, which gave the memory of {kind} to no result"
    if not matching:
        return "copied", f"no result has its shape and width, {kind}"
    return "copied", f"all {matching} results of {kind} are written over other arguments, or JAX does not pair them"
