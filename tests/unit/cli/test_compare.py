"""`jaxmem compare`: the cells of its table, and failures in them."""

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main
from jaxmem.errors import EnvironmentFailure


def test_compare_is_programs_batches_modes_and_devices(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    line = "compare vgg16 pkg.train:step -b 8,16 -d cpu,h100-sxm --jobs 3 --timeout 90"
    assert main(line.split(), analysis=fake) == 0
    out, err = capsys.readouterr()
    assert [(target.text, target.batch_size, target.mode, target.device) for target in fake.targets] == [
        (program, batch_size, mode, device)
        for program, modes in (("vgg16", ("train", "infer")), ("pkg.train:step", (None,)))
        for batch_size in (8, 16)
        for mode in modes
        for device in ("cpu", "h100-sxm")
    ]
    assert fake.compare_options == {"jobs": 3, "timeout": 90.0, "resident_bytes": 0, "boundary": False}
    assert err.splitlines()[0] == "jaxmem: 1 of 12: vgg16 · train · batch 8 · cpu: 3.00 GiB, fits"
    assert "12 cells" in out


def test_a_comparison_of_failures_is_done(fake: FakeAnalysis, capsys: pytest.CaptureFixture[str]) -> None:
    fake.failure = EnvironmentFailure("the compiler was killed")
    assert main("compare vgg16 --mode train -q -o table.json".split(), analysis=fake) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["report", "table.json"], analysis=fake) == 0
    assert "the compiler was killed" in capsys.readouterr().out
