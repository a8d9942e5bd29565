"""Formula against profile: the ledger.

Each row is one role in one layer. Its compiled side is what the segments at the peak hold; its formula side the counted leaves.
The difference is itemised: a leaf that XLA does not hold at the peak, a buffer that no counted leaf stands for. An item is
written only where its predicate (`jaxmem.reconcile.kinds`) is true of the capture, and every buffer and every value serves
once, so a leaf too many or too few, a buffer resized or removed, is left over and counted as unexplained.
"""

from collections.abc import Mapping, Sequence

from jaxmem.attribution import Account, Attribution, Facts
from jaxmem.formula import Formula
from jaxmem.lowering import Argument, Output
from jaxmem.profile import MemoryProfile
from jaxmem.reconcile.additions import explain_additions
from jaxmem.reconcile.book import Book, Claims, term
from jaxmem.reconcile.collectives import explain_collectives
from jaxmem.reconcile.evidence import Evidence
from jaxmem.reconcile.gradients import explain_gradients
from jaxmem.reconcile.remainder import (
    ask_for_what_is_left_out,
    explain_padding,
    explain_what_no_formula_knows,
    show_damage,
)
from jaxmem.reconcile.results import explain_outputs
from jaxmem.reconcile.simplified import explain_simplified
from jaxmem.reconcile.state import explain_state
from jaxmem.reconcile.values import explain_values
from jaxmem.result import LedgerRow
from jaxmem.roles import Role
from jaxmem.unknown import Unknown


def reconcile(
    formula: Formula,
    account: Account,
    profile: MemoryProfile,
    facts: Facts,
    attributions: Mapping[int, Attribution],
    arguments: Sequence[Argument],
    outputs: Sequence[Output],
    *,
    hidden_bytes: int,
    hidden_fusions: Sequence[str] = (),
    code_bytes: int = 0,
) -> tuple[LedgerRow, ...]:
    """Lay the formula beside the compiled program.

    Args:
        formula: its leaves, counted or not.
        account: the compiled side by role and layer.
        profile, facts, attributions: the compiled side.
        arguments, outputs: the lowering's tables.
        hidden_bytes: what the compiler cannot see but is known; its row has what it differs by from the formula.
        hidden_fusions: the fusions that it is in.
        code_bytes: the program's code, where it lies in main memory; its row's formula is 0.

    Returns:
        Rows in the order of the roles, layers in the order of the formula; their compiled side sums to reserved + hidden.
    """
    book = Book(formula, account, Evidence(profile, facts, attributions), arguments, outputs)
    explain_padding(book)
    explain_state(book)
    explain_outputs(book)
    book.keep_twice()
    explain_gradients(book)
    explain_values(book)
    book.keep_twice()
    explain_collectives(book)
    book.keep_twice()
    explain_additions(book)
    explain_what_no_formula_knows(book)
    explain_simplified(book)
    ask_for_what_is_left_out(book)
    show_damage(book)
    if code_bytes:
        row = book.row(Role.PROGRAM_CODE)
        row.compiled_bytes += code_bytes
        row.add("code of the program", code_bytes, statistic="generated_code_bytes")
    if hidden_bytes:
        row = book.row(Role.HIDDEN)
        row.compiled_bytes += hidden_bytes
        row.add("hidden by opaque fusions", hidden_bytes - row.formula_bytes, instruction=tuple(hidden_fusions))
    elif (row := book.row(Role.HIDDEN)).formula_bytes:
        # The compiler was told to leave the library out.
        row.add("not made by the compiler", -row.formula_bytes, peak=book.profile.peak_position)
    book.claimed = Claims()  # it holds the book, which would outlive the ledger
    return book.rows()


def compiled_rows(
    account: Account, *, hidden_bytes: int, code_bytes: int = 0, reason: Unknown
) -> tuple[LedgerRow, ...]:
    """The compiled side alone, where there is no formula to lay beside it; ``reason`` says why."""
    beside = {(Role.HIDDEN, ""): hidden_bytes, (Role.PROGRAM_CODE, ""): code_bytes}
    sizes = dict(account.bytes) | {key: size_bytes for key, size_bytes in beside.items() if size_bytes}
    order = {role: place for place, role in enumerate(Role)}
    return tuple(
        LedgerRow(
            term=term(role),
            symbol="",
            layer=layer,
            formula_bytes=reason,
            compiled_bytes=sizes[role, layer],
        )
        for role, layer in sorted(sizes, key=lambda key: (order[key[0]], key[1]))
    )
