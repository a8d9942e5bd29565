"""Commands that analyse nothing: the catalogue of models, and help."""

import json

import pytest

from jaxmem.cli import COMMANDS, main


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "138,357,544" in capsys.readouterr().out
    assert main(["models", "--format", "json"]) == 0
    models = json.loads(capsys.readouterr().out)["models"]
    assert {"vgg16", "vgg11_bn"} <= {model["name"] for model in models}


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name, module in COMMANDS:
        assert main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert module.__doc__ is not None
        assert module.__doc__.splitlines()[0] in out


def test_no_command_shows_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "report" in err
