"""What every process that jaxmem starts does besides its work: say how far it is, and go before whoever started it."""

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path

from jaxmem.compilers.job import Step


def say(step: Step) -> None:
    """Tell the caller what begins now."""
    print(step.value, flush=True)


def be_the_first_to_go() -> None:
    """Where the machine runs out of memory, the kernel ends this process, and not the caller: who then says what happened."""
    with suppress(OSError):  # Linux alone has it
        Path("/proc/self/oom_score_adj").write_text("1000")


def end_with_the_caller(folder: Path) -> None:
    """From now on, end when standard input closes: the caller is gone, even if it was killed and could clean up nothing."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
