"""Which programs are compared, and which of them nobody looked at while the formula was written.

**The split.** Families are divided before any term of the formula is tuned. Those of ``DEVELOPMENT`` may be looked into; those
of ``HELD_OUT`` are compiled by this benchmark alone, and no rule was made from them. Architectures that descend from one
another stay on one side (ResNet with ResNeXt and Wide ResNet; MobileNet with MNASNet; EfficientNet and Swin with their second
versions). It is written down here so that it cannot move.
"""

from dataclasses import dataclass

DEVELOPMENT = frozenset("""alexnet vgg googlenet densenet mobilenet_v2 mobilenet_v3 mnasnet vit gpt2 regnet""".split())
HELD_OUT = frozenset(
    """resnet resnext wide_resnet squeezenet inception_v3 shufflenet_v2 efficientnet convnext swin swin_v2 maxvit unet
    llama""".split()
)

NETWORKS: tuple[str, ...] = tuple(
    """alexnet vgg16 googlenet densenet121 mobilenet_v2 mobilenet_v3_large mnasnet1_0 vit_b_16 gpt2 regnet_y_400mf
    regnet_x_8gf resnet18 resnet50 resnext50_32x4d wide_resnet50_2 squeezenet1_0 inception_v3 shufflenet_v2_x1_0
    efficientnet_b0 efficientnet_v2_s convnext_tiny swin_t swin_v2_t maxvit_t unet llama3_1b""".split()
)
"""One network of every family, and a second of two: the first of its paper, or the one that people use."""

BATCH_SIZES = (8, 32, 128)
OWN_BATCH_SIZES = {"gpt2": (2, 8), "llama3_1b": (2, 8), "unet": (2, 8)}
"""Where 128 examples are more than anybody trains at once: 1024 tokens each, or 512 x 512 pixels."""
SETTINGS = {"llama3_1b": (("sequence_length", "1024"),)}
MODES = ("train", "infer")

TPU_NETWORKS = ("alexnet", "vgg16", "mobilenet_v2", "resnet18", "resnet50", "vit_b_16")
TPU_BATCH_SIZES = (8,)
"""The subset for TPUs, whose compiler takes minutes: three networks of either side, at the smallest batch."""

DEVICES = ("cpu", "h100-sxm", "tpu-v5e")


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Question:
    """One program on one device."""

    network: str
    mode: str
    batch_size: int
    device: str

    @property
    def text(self) -> str:
        """What a person calls it."""
        return f"{self.network}, {self.mode}, batch {self.batch_size}, {self.device}"


def questions(device: str, networks: tuple[str, ...] = ()) -> tuple[Question, ...]:
    """All that is asked about a device, small batches first; of the networks named, where some are."""
    tpu = device.startswith("tpu")
    chosen = networks or (TPU_NETWORKS if tpu else NETWORKS)
    asked = (
        Question(network=network, mode=mode, batch_size=batch_size, device=device)
        for network in chosen
        for batch_size in (TPU_BATCH_SIZES if tpu else OWN_BATCH_SIZES.get(network, BATCH_SIZES))
        for mode in MODES
    )
    return tuple(sorted(asked, key=lambda question: question.batch_size))


def side(family: str) -> str:
    """``development`` or ``held out``.

    Raises:
        KeyError: a family that stands on neither side. Decide before you look at it.
    """
    if family in DEVELOPMENT:
        return "development"
    if family in HELD_OUT:
        return "held out"
    raise KeyError(f"{family} is on neither side of the split in {__name__}")
