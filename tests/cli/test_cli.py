"""The `dsa-fast` command: options, errors and exit status. Most subcommands are tested with the code that they call."""

from __future__ import annotations

from pathlib import Path

import pytest

import dsa_fast.cli.demo
from dsa_fast import __version__
from dsa_fast.cli import COMMANDS, main


def test_a_command_runs_without_options(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    def demo(*, epochs: int = 3, fast: bool = False) -> None:
        called.append((epochs, fast))

    demo.__annotations__ = {"epochs": "int", "fast": "bool", "return": "None"}
    monkeypatch.setattr(dsa_fast.cli.demo, "demo", demo)
    assert main(["demo"]) == 0
    assert main(["demo", "--fast"]) == 0
    assert main(["demo", "--fast", "false", "--epochs", "5"]) == 0
    assert called == [(3, False), (3, True), (5, False)]


def test_ctrl_c_has_its_exit_status(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def demo() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dsa_fast.cli.demo, "demo", demo)
    assert main(["demo"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_demo_leaves_other_folders_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "people").mkdir()
    (tmp_path / "people" / "mine.jpg").touch()
    (tmp_path / "metrics.json").touch()
    assert main(["demo", "--out", str(tmp_path)]) == 1
    assert "out must be new" in capsys.readouterr().err
    assert (tmp_path / "people" / "mine.jpg").exists() and (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.root", "none"], "no such"),
        (["--data.root", ".", "--augment.flip", "2"], "flip must be a probability"),
        (["--data.root", ".", "--optim.decay_epochs", "0"], "optim.decay_epochs must be above 0"),
        (["--data.root", ".", "--model.kind", "baseline", "--model.dsag", "false"], "must have their defaults"),
    ],
)
def test_bad_options_give_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["fit", "--out", str(tmp_path / "run"), *options])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    assert status in (1, 2)
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()


def test_names_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["nonsense"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
