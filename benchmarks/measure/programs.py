"""Which programs are measured, and how long that may take.

On the processor: small batches, because every program is compiled and run once in each of several fresh processes. On an
accelerator: what fits into ten minutes, the networks that differ most first; whatever time is left over goes to larger batches.
"""

from dataclasses import dataclass

from benchmarks.accuracy.programs import MODES, Question

CPU_NETWORKS: tuple[str, ...] = tuple(
    """alexnet squeezenet1_0 mobilenet_v2 mnasnet1_0 shufflenet_v2_x1_0 resnet18 googlenet regnet_y_400mf
    mobilenet_v3_large vgg16 vit_b_16 gpt2 densenet121 efficientnet_b0""".split()
)
CPU_BATCHES, CPU_OWN_BATCHES = (8,), {"gpt2": (2,)}
CPU_PROCESSES = 3
"""Fresh processes for each row; their median is what counts."""

ATTACHED_NETWORKS: tuple[str, ...] = tuple(
    """vgg16 resnet50 vit_b_16 mobilenet_v2 gpt2 densenet121 convnext_tiny efficientnet_b0 unet alexnet swin_t
    regnet_y_400mf""".split()
)
ATTACHED_BATCHES, ATTACHED_OWN_BATCHES = (32, 128), {"gpt2": (4, 8), "unet": (4, 8)}
BOUNDARY = ("resnet50", "train")
"""The program whose largest batch is also found by running out of memory."""
BOUNDARY_MULTIPLE = 32

COMPILE_SECONDS, RUN_SECONDS, TRIES = 20.0, 8.0, 4
"""What the plan allows for: a compile on the device, a run in a fresh process, batches tried until memory ends. They are
guesses, not measured on a card yet; the deadline holds whatever they are."""
BOUNDARY_SECONDS = TRIES * (COMPILE_SECONDS + 2 * RUN_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: a program to measure, or the boundary. ``seconds`` are what it is expected to take."""

    question: Question | None
    seconds: float

    @property
    def text(self) -> str:
        """What it is, in words."""
        if self.question is None:
            return f"the largest batch of {', '.join(BOUNDARY)}, by running out of memory"
        return self.question.text


def cpu_questions(networks: tuple[str, ...] = ()) -> tuple[Question, ...]:
    """What is measured on the processor."""
    return tuple(
        Question(network=network, mode=mode, batch_size=batch, device="cpu")
        for network in networks or CPU_NETWORKS
        for mode in MODES
        for batch in CPU_OWN_BATCHES.get(network, CPU_BATCHES)
    )


def attached_plan(device: str, networks: tuple[str, ...] = ()) -> tuple[Step, ...]:
    """What is measured on the attached device, in order: every network at its small batch, then at its larger one."""
    chosen = networks or ATTACHED_NETWORKS

    def steps(position: int) -> list[Step]:
        return [
            Step(
                question=Question(
                    network=network,
                    mode=mode,
                    batch_size=ATTACHED_OWN_BATCHES.get(network, ATTACHED_BATCHES)[position],
                    device=device,
                ),
                seconds=COMPILE_SECONDS + RUN_SECONDS,
            )
            for network in chosen
            for mode in MODES
        ]

    small, large = steps(0), steps(1)
    # The largest batch comes early: after the first two networks, before what may not be reached in time.
    early = 2 * len(MODES)
    return (*small[:early], Step(question=None, seconds=BOUNDARY_SECONDS), *small[early:], *large)


def plan_text(plan: tuple[Step, ...], minutes: float) -> str:
    """The plan as ``--dry-run`` prints it: what begins at which second, and where the time is expected to end."""
    lines, elapsed, budget = [], 0.0, 60 * minutes
    for step in plan:
        mark = " " if elapsed + step.seconds <= budget else "-"
        lines.append(f"{mark} {elapsed:7.0f} s  {step.text} ({step.seconds:.0f} s)")
        elapsed += step.seconds
    fitting = sum(line.startswith(" ") for line in lines)
    lines.append(
        f"{fitting} of {len(plan)} steps are expected within {minutes:g} minutes; those marked - are left for a later "
        "call, which goes on where this one stopped."
    )
    return "\n".join(lines)
