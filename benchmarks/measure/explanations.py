"""Why the largest errors are what they are: (device, network, mode) → what was found when it was looked into.

The malloc of glibc keeps blocks of up to 32 MiB that were freed, instead of handing them back: its threshold for mapping a
block by itself grows with the first that is freed. A step with hundreds of library fusions, each taking and freeing such
blocks, leaves tens to hundreds of MiB that nobody uses in the process. With ``MALLOC_MMAP_THRESHOLD_=131072`` it stays
where it is.
"""

_KEPT = (
    "{part} memory that glibc's malloc keeps after the library freed it: with `MALLOC_MMAP_THRESHOLD_=131072`, which hands "
    "large blocks back at once, one process took {bytes} MiB, and the error is {error} %."
)
_REST = " What is left of it is not explained."
_FIRST_TOUCH = (
    "{bytes} MiB, about what a process touches for the first time when it runs anything of this kind (threads, the code "
    "of kernels); the two were not told apart."
)

EXPLANATIONS: dict[tuple[str, str, str], str] = {
    ("cpu", "mobilenet_v2", "train"): _KEPT.format(part="It is", bytes=842, error="+1.1"),
    ("cpu", "mnasnet1_0", "train"): _KEPT.format(part="In part", bytes=958, error="-11.7") + _REST,
    ("cpu", "shufflenet_v2_x1_0", "train"): _KEPT.format(part="In part", bytes=300, error="-12.3") + _REST,
    ("cpu", "regnet_y_400mf", "train"): "Likely the same kept memory; not tried.",
    ("cpu", "mnasnet1_0", "infer"): _FIRST_TOUCH.format(bytes=14),
    ("cpu", "mobilenet_v2", "infer"): _FIRST_TOUCH.format(bytes=13),
}
