"""Which layer a name stack speaks of. The stacks are those that JAX 0.10.2 writes."""

import pytest

from jaxmem.layer_paths import ScopeLayers, place, scope_components

REMATTED = "transpose(jvp(decoder))/block2/jvp(decoder)/block2/checkpoint/rematted_computation/norm1"


@pytest.mark.parametrize(
    ("scope", "layer"),
    [
        ("transpose(jvp(VGG))/conv1_1/jit(relu)", "VGG/conv1_1"),
        ("jvp(decoder)/scan/body/mlp/gate/jit(silu)", "decoder/mlp/gate"),
        ("attention/scores/blghd,bmgd->bghlm", "attention/scores"),
        (REMATTED, "decoder/block2/norm1"),
        (f"jit(train_step)/{REMATTED}", "decoder/block2/norm1"),
        ("transpose(jvp())/jvp()/checkpoint/conv1_1", "conv1_1"),
        # Layers within layers of the same name are no repetition.
        ("jvp(block)/block/conv", "block/block/conv"),
        ("transpose(jvp(block))/block/conv", "block/block/conv"),
    ],
)
def test_what_the_author_wrote(scope: str, layer: str) -> None:
    assert "/".join(scope_components(scope)) == layer


def test_what_is_computed_again_belongs_to_its_layer() -> None:
    finder = ScopeLayers([f"decoder/block{number}/norm1" for number in (1, 2)])
    scopes = [f"jvp(decoder)/block{number}/{name}" for number in (1, 2) for name in ("norm1", "add1")]
    finder.learn([*scopes, REMATTED])
    assert [finder.layer(scope) for scope in (*scopes, REMATTED)] == [
        "decoder/block1/norm1",
        "decoder/block1/add1",
        "decoder/block2/norm1",
        "decoder/block2/add1",
        "decoder/block2/norm1",
    ]


@pytest.mark.parametrize(
    ("traced", "compiled", "where"),
    [
        ("jvp()/scan/body", "jit(f)/jvp()/while/body/closed_call", ("while",)),
        ("jvp()/cond/body", "jit(f)/jvp()/cond/branch_1_fun", ("cond",)),
        # The condition of a loop stands where its body does.
        ("/while/body", "jit(f)/while/cond", ("while",)),
        ("transpose(jvp(mlp))/scan/body", "jit(f)/transpose(jvp(mlp))/while/body", ("transpose", "while", "mlp")),
        ("jvp()/jit(remainder)", "jit(f)/jvp(jit(remainder))", ()),
    ],
)
def test_the_same_place_by_either_name(traced: str, compiled: str, where: tuple[str, ...]) -> None:
    assert place(traced) == place(compiled) == where


def test_a_gradient_of_a_loop_is_in_another_place_than_a_loop_over_gradients() -> None:
    assert place("transpose(jvp())/scan/body") != place("scan/body/transpose(jvp())")
