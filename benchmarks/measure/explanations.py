"""Why the largest errors are what they are: (device, network, mode) → what was found when it was looked into.

The malloc of glibc keeps blocks of up to 32 MiB that were freed, instead of handing them back: its threshold for mapping a
block by itself grows with the first that is freed. A step with hundreds of library fusions, each taking and freeing such
blocks, leaves tens to hundreds of MiB that nobody uses in the process. With ``MALLOC_MMAP_THRESHOLD_=131072`` it stays
where it is.

How much was asked of malloc was counted by a library in between (LD_PRELOAD) that notes each block of 32 KiB and more.
"""

_KEPT = (
    "{part} memory that glibc's malloc keeps after it was freed: with `MALLOC_MMAP_THRESHOLD_=131072`, which hands large "
    "blocks back at once, one process took {bytes} MiB, and the error is {error} %."
)
_GROUPS = (
    "XLA's runtime starts all {groups} groups of a convolution at once, each with memory of its own, and the prediction counts "
    "all; {why} With `MALLOC_MMAP_THRESHOLD_=131072`, which hands large blocks back at once, one process took {bytes} MiB, and "
    "the error is {error} %."
)
_UNTOUCHED = (
    "When most is hidden, the temporaries that XLA reserves are not all touched yet: reserved and hidden have their peaks at "
    "different moments. malloc was asked for {asked} MiB at a time, as predicted, and {touched} MiB of it became resident."
)

EXPLANATIONS: dict[tuple[str, str, str], str] = {
    ("cpu", "mnasnet1_0", "infer"): _KEPT.format(part="It is", bytes=75, error="-2.4"),
    ("cpu", "efficientnet_b0", "infer"): _KEPT.format(part="It is", bytes=111, error="-1.5"),
    ("cpu", "mobilenet_v2", "infer"): _KEPT.format(part="It is", bytes=103, error="-1.1"),
    ("cpu", "vit_b_16", "infer"): _KEPT.format(part="It is", bytes=415, error="-1.2"),
    ("cpu", "shufflenet_v2_x1_0", "train"): _KEPT.format(part="It is", bytes=305, error="+1.2"),
    ("cpu", "mobilenet_v3_large", "infer"): _GROUPS.format(
        groups=16,
        why="they do not all hold it at the same moment, but malloc keeps what they freed, and more of other operations.",
        bytes=94,
        error="+20.6",
    ),
    ("cpu", "regnet_y_400mf", "train"): _KEPT.format(part="It is", bytes=509, error="+0.5"),
    ("cpu", "squeezenet1_0", "infer"): _UNTOUCHED.format(asked=99, touched=90),
}
