"""Bad input: refused in words, before anything is analysed or written."""

from pathlib import Path

import pytest

from fake_analysis import FakeAnalysis
from jaxmem.cli import main

BAD = [
    ("reprot vgg16", 2, "There is no command 'reprot'. Did you mean report?"),
    ("xyz", 2, "Commands: report, estimate, fit, compare, diff, oom, capture, models, devices, schema."),
    ("report", 2, "required: PROGRAM"),
    ("report vgg61", 2, "There is no model called 'vgg61'. The nearest: "),
    ("report zzz", 2, "A program of your own is written package.module:attribute"),
    ("report train.py", 2, "train.py names a file but nothing in it. Write train.py:attribute"),
    ("estimate module_0.hlo.pb", 2, "module_0.hlo.pb is an XLA dump: the compiled module without its program."),
    ("fit module_0.hlo.pb.gz", 2, "Only report and diff read it"),
    ("report module_0.hlo.pb --mode train", 2, "is an XLA dump: --mode cannot change it."),
    ("report vgg16 --roles roles.toml", 2, "--roles is for XLA dumps. vgg16 is a model of the zoo"),
    ("report there.json --roles roles.toml", 2, "there.json is a saved report, which knows its arguments."),
    ("report vgg16 --devices 0", 2, "--devices: 0 is below 1"),
    ("report vgg16 --mesh 8", 2, "'8' is not of the form KEY=VALUE"),
    ("report vgg16 --mesh data=2,data=4", 2, "has an axis twice"),
    ("report vgg16 --devices 8 --mesh data=4", 2, "--mesh data=4 has 4 devices, and --devices says 8."),
    ("report vgg16 --mesh data=4,model=2", 2, "a zoo model is spread over one axis, data. Say --mesh data=8."),
    ("report vgg16 -b 12 --devices 8", 2, "The batch of 12 does not divide by 8 devices."),
    ("report vgg16 --sharding fsdp", 2, "--sharding fsdp needs several devices."),
    ("report vgg16 --sharding rows --devices 8", 2, "invalid choice: 'rows'"),
    ("report train.py:step --sharding fsdp --devices 8", 2, "--sharding divides a zoo model."),
    ("report saved.jaxmem --devices 8", 2, "is a saved capture: --devices cannot change it."),
    ("report vgg16 -b 0", 2, "-b/--batch-size: 0 is below 1"),
    ("report vgg16 -b -3", 2, "-b/--batch-size"),
    ("report vgg16 -b many", 2, "'many' is not a whole number"),
    ("report vgg16 -b 1.5", 2, "'1.5' is not a whole number"),
    ("report vgg16 --set batch_size=0", 2, "--set batch_size: 0 is below 1"),
    ("report vgg16 -b 3 --set batch_size=4", 2, "The batch size is given twice"),
    ("report vgg16 --mode test", 2, "--mode: invalid choice: 'test'"),
    ("report vgg16 --set mode=train", 2, "Write --mode train"),
    ("report a:b --mode train", 2, "--set mode=train"),
    ("report vgg16 -d gpu", 2, "There is no device 'gpu'."),
    ("report vgg16 -d cpu,", 2, "names nothing between two commas"),
    ("report vgg16 -d cpu,tpu-v99", 2, "There is no device 'tpu-v99'"),
    ("report vgg16 --limit much", 2, "--limit: 'much' is not a size. Write a number and a unit"),
    ("report vgg16 --optimizer adm", 2, "There is no optimizer called 'adm'. The nearest: adam"),
    ("report vgg16 --dtype f32", 2, "There is no dtype called 'f32'."),
    ("report vgg16 --image-size 0", 2, "--image-size: 0 is below 1"),
    ("report vgg16 --set classes", 2, "'classes' is not of the form KEY=VALUE"),
    ("report vgg16 --set a=1 --set a=2", 2, "sets a more than once"),
    ("report vgg16 --set optimizer=sgd --optimizer sgd", 2, "sets optimizer more than once"),
    ("report vgg16 --compiler-option x", 2, "'x' is not of the form KEY=VALUE"),
    ("report vgg16 --compiler-option a=1 --compiler-option a=2", 2, "--compiler-option sets a more than once"),
    ("report vgg16 --colour red", 2, "nrecognized arguments: --colour red"),
    ("report vgg16 --verb", 2, "nrecognized arguments: --verb"),
    ("report vgg16 --format yaml", 2, "invalid choice: 'yaml'"),
    ("report vgg16 -o there.txt", 2, "there.txt exists and is left as it is. Give another name, or --force"),
    ("report vgg16 -o no/such/r.txt", 2, "The folder of no/such/r.txt does not exist"),
    ("report vgg16 -o .", 2, "is a folder"),
    ("report a.jaxmem -b 3 --dtype mixed", 2, "a.jaxmem is a saved capture: -b, --dtype cannot change it"),
    ("report r.json -d cpu", 2, "r.json is a saved report: -d cannot change it"),
    ("compare", 2, "required: PROGRAM"),
    ("compare vgg16 vgg61", 2, "There is no model called 'vgg61'."),
    ("compare vgg16 -b 8,none", 2, "'none' is not a whole number"),
    ("compare vgg16 --timeout 0", 2, "0 is no time to wait"),
    ("compare vgg16 --timeout soon", 2, "'soon' is not a number"),
    ("compare vgg16 --jobs 0", 2, "--jobs: 0 is below 1"),
    ("compare vgg16 r.json", 2, "r.json is a saved report, and a table is made of programs and captures."),
    ("compare vgg16 --gemm both", 2, "invalid choice: 'both'"),
    ("compare a.jaxmem -b 8", 2, "a.jaxmem is a saved capture: -b cannot change it"),
    ("report missing.json", 3, "missing.json cannot be read: No such file"),
    ("report there.json", 3, "there.json is not complete JSON"),
    ("estimate there.json", 2, "Print it with: jaxmem report there.json"),
    ("capture a.jaxmem", 2, "a.jaxmem is a saved capture already"),
    ("capture vgg16 -o x.jaxmem", 2, "-o names one file, but there are 2 captures"),
    ("capture vgg16 --mode infer -o there.txt", 2, "there.txt exists"),
]


@pytest.mark.parametrize(("line", "code", "message"), BAD, ids=[line for line, _, _ in BAD])
def test_bad_input(
    line: str, code: int, message: str, fake: FakeAnalysis, empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (empty_folder / "there.txt").write_text("precious")
    (empty_folder / "there.json").write_text('{"schema": "jaxmem.rep')
    before = sorted(empty_folder.iterdir())
    assert main(line.split(), analysis=fake) == code
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("jaxmem: ")
    assert "Traceback" not in err
    assert out == ""
    assert fake.targets == []
    assert sorted(empty_folder.iterdir()) == before
    assert (empty_folder / "there.txt").read_text() == "precious"
