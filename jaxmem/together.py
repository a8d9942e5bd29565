"""What lives on a device at once: the state once, and beside it one program at a time.

The programs of a run are compiled apart, and each counts its own arguments. An array that several of them take is one array;
one that a program does not take lives beside it all the same. Arrays of several programs are taken for one where role, path
of the parameter, shape and number format agree.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from jaxmem.capture import Capture
from jaxmem.errors import InputError
from jaxmem.lowering import Argument
from jaxmem.need import Need, code_bytes, read_need
from jaxmem.profile import MAIN_COLORS
from jaxmem.result import DeviceFacts, Moment, NamedSize, Together, Verdict
from jaxmem.roles import STATE_ROLES, Role
from jaxmem.unknown import Unknown
from jaxmem.xla import read_hlo_proto

INIT = "init"
"""The program that makes the state: while it runs there is none beside it."""
TRAIN = "train"

_Key = tuple[Role, str, tuple[int, ...], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Program:
    """One compiled program, as far as the others must know it.

    Attributes:
        own: the arrays of the state that are among its arguments, so that what it requires contains them.
        state: all that it is handed, those included that it drops unread.
        batch_bytes: its inputs.
        code_bytes: its code, where that takes main memory.
    """

    capture: Capture
    need: Need
    own: Counter[_Key]
    state: Counter[_Key]
    sizes: Mapping[_Key, int]
    batch_bytes: int
    code_bytes: int


def live_together(
    captures: Mapping[str, Capture],
    device: DeviceFacts,
    *,
    prefetched_batches: int = 0,
    resident_bytes: int = 0,
) -> Together:
    """Every moment of a run.

    Args:
        captures: by name, in the order of the run; one called ``init`` makes the state.
        device: what they were compiled for.
        prefetched_batches: batches that wait on the device, beside the one at work.
        resident_bytes: what else lives there.
    """
    programs = {name: _read(name, capture) for name, capture in captures.items()}
    state: Counter[_Key] = Counter()
    sizes: dict[_Key, int] = {}
    for name, program in programs.items():
        if name != INIT:
            state |= program.state
            for key, size in program.sizes.items():
                sizes[key] = max(size, sizes.get(key, 0))
    moments = tuple(
        _moment(name, programs, state if name != INIT else Counter(), sizes, prefetched_batches, resident_bytes)
        for name in programs
    )
    largest = max(moments, key=lambda moment: moment.required_bytes)
    return Together(
        device=device,
        state_bytes=sum(count * sizes[key] for key, count in state.items()),
        moments=moments,
        largest=largest.name,
        required_bytes=largest.required_bytes,
        verdict=_verdict(moments, programs, prefetched_batches),
    )


def _read(name: str, capture: Capture) -> _Program:
    _, assignment = read_hlo_proto(capture.hlo_proto, origin=f"the capture of {name}")
    if assignment is None:
        raise InputError(f"The module in the capture of {name} has no buffer assignment. Capture the program again.")
    placed = {
        allocation.parameter_number: allocation.size
        for allocation in assignment.allocations
        if allocation.is_entry_computation_parameter and allocation.color in MAIN_COLORS[capture.device.platform]
    }

    def size(argument: Argument) -> int:
        number = argument.parameter_number
        return argument.logical_bytes if number is None else placed.get(number, argument.logical_bytes)

    carried = [argument for argument in capture.arguments if argument.role in STATE_ROLES]
    return _Program(
        capture=capture,
        need=read_need(capture, origin=f"the capture of {name}"),
        own=Counter(_key(argument) for argument in carried if argument.parameter_number is not None),
        state=Counter(map(_key, carried)),
        sizes=_largest((_key(argument), size(argument)) for argument in carried),
        batch_bytes=sum(size(argument) for argument in capture.arguments if argument.role is Role.INPUTS),
        code_bytes=code_bytes(capture, assignment),
    )


def _key(argument: Argument) -> _Key:
    return argument.role, argument.parameter_path, argument.shape, argument.dtype


def _largest(sizes: Iterable[tuple[_Key, int]]) -> dict[_Key, int]:
    found: dict[_Key, int] = {}
    for key, size in sizes:
        found[key] = max(size, found.get(key, 0))
    return found


def _moment(
    name: str,
    programs: Mapping[str, _Program],
    state: Counter[_Key],
    sizes: Mapping[_Key, int],
    prefetched_batches: int,
    resident_bytes: int,
) -> Moment:
    program = programs[name]
    beside: dict[str, int] = {}
    for key, count in (state - program.own).items():
        what = f"{key[0].value.replace('_', ' ')} it does not take"
        beside[what] = beside.get(what, 0) + count * sizes[key]
    if name != INIT:
        # The batches that were fetched for training wait while the evaluation works through its own.
        for waiting in dict.fromkeys((TRAIN, name)):
            if waiting in programs:
                beside[f"batches waiting for {waiting}"] = prefetched_batches * programs[waiting].batch_bytes
    beside["code of the other programs"] = sum(
        other.code_bytes for other_name, other in programs.items() if other_name != name
    )
    beside["what else lives there"] = resident_bytes
    parts = tuple(NamedSize(name=what, bytes=size) for what, size in beside.items() if size)
    required_bytes = program.need.required_bytes
    return Moment(
        name=name,
        program=program.capture.program,
        program_bytes=required_bytes,
        is_lower_bound=program.need.required_is_lower_bound,
        beside=parts,
        required_bytes=required_bytes + sum(part.bytes for part in parts),
    )


def _verdict(moments: tuple[Moment, ...], programs: Mapping[str, _Program], prefetched_batches: int) -> Verdict:
    """The moment with the least left decides, by the rule of its own program."""

    def judged(moment: Moment) -> int:
        return programs[moment.name].need.verdict.judged_bytes + sum(part.bytes for part in moment.beside)

    tightest = max(moments, key=judged)
    own = programs[tightest.name].need.verdict
    usable, judged_bytes = own.usable_bytes, judged(tightest)
    known = not isinstance(usable, Unknown)
    refused = any(program.need.verdict.fits is False for program in programs.values())
    return Verdict(
        fits=False if refused else judged_bytes <= usable if known else usable,
        judged_bytes=judged_bytes,
        usable_bytes=usable,
        headroom_bytes=usable - judged_bytes if known else usable,
        rule=own.rule,
        assumptions=(
            *(sentence for sentence in own.assumptions if not sentence.startswith("nothing else")),
            "one program is at work at a time, and nothing but what is listed lives beside it",
            "arrays of several programs are one where role, path of the parameter, shape and number format agree",
            "results of one program that are no state are gone before the next begins",
        )
        + (("batches fetched for training wait while the evaluation is at work",) if prefetched_batches else ()),
    )
