"""The `dsa-fast` command: options, errors and exit status. Most subcommands are tested with the code that they call."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import dsa_fast.cli.demo
from dsa_fast import __version__
from dsa_fast.cli import COMMANDS, commands_of, main
from dsa_fast.cli.parser import examples
from dsa_fast.terminal import console, duration, say

#: All commands with their functions: "fit", "search build", ...
FUNCTIONS: dict[str, Callable[..., object]] = {}
for _name in COMMANDS:
    _found = commands_of(_name)
    FUNCTIONS |= (
        {f"{_name} {key}": each for key, each in _found.items()} if isinstance(_found, Mapping) else {_name: _found}
    )


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


HELP = """
import sys
from dsa_fast.cli import COMMANDS, main
def answers(*arguments):
    try:
        status = main(arguments)
    except SystemExit as end:
        status = end.code
    heavy = {"torch", "numpy", "lightning", "matplotlib"} & set(sys.modules)
    assert not heavy, f"dsa-fast {' '.join(arguments)} imports {', '.join(sorted(heavy))}"
    return status or 0
for line in sys.argv[1:]:
    assert answers(*line.split()) == (2 if line.endswith("--picturse 3") else 0), line
"""


def test_help_and_wrong_options_answer_without_large_libraries() -> None:
    lines = [
        "--help",
        "--version",
        "search --help",
        *(f"{name} --help" for name in FUNCTIONS),
        "inspect DIR --picturse 3",
    ]
    done = subprocess.run([sys.executable, "-c", HELP, *lines], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_help_ends_with_two_examples_and_has_readable_types(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    text = capsys.readouterr().out
    shown = text.partition("\nexamples:\n")[2].splitlines()
    assert len(shown) == 2 and shown == [f"  {line}" for line in examples(FUNCTIONS[name])]
    assert not [word for word in ("<class", "Literal", "Path", "| null", "type:", "dict[", "Args:") if word in text]
    assert text.startswith(f"usage: dsa-fast {name}") and text.index("\n") < 100


def test_named_configurations_are_offered_where_they_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fit", "eval"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert ("rows/csa" in capsys.readouterr().out.partition("--print_config")[0]) == (name == "fit")


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("info", "completion")])
def test_examples_have_the_command_s_options(name: str) -> None:
    """They are read like real ones; `tables` passes options on to `fit`, which test_docs covers."""
    for line in examples(FUNCTIONS[name]):
        words = line.split()[1 + len(name.split()) :]
        if name != "tables" and "--config" not in words:
            with pytest.raises(SystemExit) as end:
                main([*name.split(), *words, "--print_config"])
            assert end.value.code in (0, None), line


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["fitt"], "unknown command 'fitt'; did you mean fit?"),
        (["search", "quer"], "unknown command 'quer'; did you mean query?"),
        (["fit", "--data.rot", "x"], "unknown option --data.rot; did you mean --data.root?"),
        (["fit", "--data.root", "x", "--max_epochs", "3"], "did you mean --trainer.max_epochs?"),
        (["fit", "--config", "smal"], "did you mean small?"),
        (["fit", "--config", "rows/dens"], "did you mean rows/dense?"),
        (["synth", "--out", "x", "--pose", "much"], "--pose: expected a number, got much"),
        (
            ["fit", "--data.root", "x", "--model.kind", "ds"],
            "--model.kind: expected a value of 'dsa', 'baseline', got ds",
        ),
        (["fit"], "the following arguments are required: --data.root"),
        (["fit", "--data.root", "x", "--epochs", "3"], "did you mean --trainer.max_epochs?"),
        (["fit", "people"], "unexpected argument people; give the data set as --data.root"),
        (["inspect", "--root", "people"], "unknown option --root; give ROOT without a name"),
        (["eval", "--config", "tiny"], "--config must be a YAML file of options of this command, got tiny"),
        (["search", "query", "index", "a.jpg", "--picture", "a.xyz"], "--picture must end in a picture's suffix"),
        (["embed"], "the following arguments are required: ENCODER, SOURCE, OUT"),
    ],
)
def test_typos_get_one_line_and_a_hint(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    lines = capsys.readouterr().err.strip().splitlines()
    assert status in (1, 2) and hint in lines[0] and len(lines) <= 2, lines


def test_a_command_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def demo() -> None:
        print("result")

    monkeypatch.setattr(dsa_fast.cli.demo, "demo", demo)
    assert main(["demo"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "result\n"  # a pipe gets only results
    assert re.fullmatch(r"dsa-fast demo took 0\.\d s\n", shown.err)
    assert [duration(seconds) for seconds in (8.34, 59.96, 250, 7500)] == ["8.3 s", "60.0 s", "4 min 10 s", "2 h 5 min"]


def test_info_names_the_build_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    names = (
        "dsa_fast ",
        "PyTorch ",
        "CUDA kernels ",
        "GPUs ",
        "instructions ",
        "onnxruntime ",
        "openvino ",
        "weights ",
    )
    assert all(f"\n{name}" in f"\n{text}" for name in names) and __version__ in text


def test_python_m_dsa_fast_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "dsa_fast", "--version"], capture_output=True, text=True)
    assert done.stdout == f"dsa_fast {__version__}\n" and done.returncode == 0


def test_completion_knows_commands_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*COMMANDS, "--data.root", "--picture", "--guide.dense"))
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0


def test_names_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.progress import Progress
    from rich.table import Table

    name = "a\x1b[2J\x07\x9b1m\rb\tc"
    say(name)
    assert capsys.readouterr().out == r"a\x1b[2J\x07\x9b1m\x0db" + "\tc\n"
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    shown = console(width=80)
    shown.print(table)
    shown.print(name, soft_wrap=True)
    with Progress(console=shown) as bar:
        bar.add_task(name)
    out = capsys.readouterr().out
    assert out.count(r"\x1b[2J") == 5 and not set(out) & {"\x1b", "\x07", "\x9b", "\r"}
    for command in (["eval", f"{name}.ckpt", "people"], ["search", "query", name, name], [name]):
        assert main(command)
        assert r"\x1b[2J" in (err := capsys.readouterr().err) and "\x1b" not in err


def test_a_terminal_still_has_colors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    console().print("a\x1b[2Jb", style="red")
    assert capsys.readouterr().out == "\x1b[31ma\\x1b[2Jb\x1b[0m\n"
