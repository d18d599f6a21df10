"""Odd names of files and folders, in each command's inputs and outputs: read, written and shown as they are.

By default, every command but the slowest runs once: inside folders of odd names, with odd names of its own files.
`pytest tests/test_names.py --kills 1` also runs the slowest, and the others with every name alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch

from dsa_fast.cli import ERROR_STATUS, commands_of, main
from dsa_fast.cli.parser import make_parser, parse, positional_names
from dsa_fast.files import is_left_over
from tests.commands import CASES, all_names

#: Text that some program reads as something else: markup, options, globs, formats, URLs, HTML, YAML, other encodings.
NAMES = (
    *("[red]x[bold]", ":smile:", "%s%d{0}", "#?&", "'a\"b'", "<script>x<b>", "new\nline\ttab", "a\udcff", "ü😀é"),
    *(" spaces  ", "dots. .", "-dash", "*[!a]", "$(x)`x`;|", "a::b", "x@y=z,w", "~", "null", "12", "{a: [b]}"),
    "n" * 230,
)
# All in one, but the long one.
MIXED = "-[red]x[bold]:smile:%s{0}#?&'a\"b'<script>\n\t\udcffü😀 *[!a]$(x)`;|a::b=z,~ . ."
# Too slow for each run; their parts are in the others.
SLOW = ("demo", "tables", "export", "rank", "crops")


def shown(name: object) -> str:
    """A name as a terminal shows it, with one space for each run of white space: Rich expands tabs."""
    return " ".join(str(name).encode("utf-8", "backslashreplace").decode().split())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder below folders of odd names; rich's closing tag is one that begins in one name and ends in the next."""
    made = tmp_path / "s[" / f"b] {MIXED}"
    made.mkdir(parents=True)
    return made


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def run_with_names(name: str, odd: str, inputs: Path, folder: Path) -> tuple[list[str], int]:
    """Runs a command in a folder. All files and folders right in `in` and `out` have odd names."""
    case, given, out = CASES[name], folder / "in", folder / "out"
    shutil.copytree(inputs, given, copy_function=os.link)
    out.mkdir()
    case.before(given, out)
    plain = case.arguments(given, out)
    for place in (given, out):
        for path in list(place.iterdir()):
            path.rename(path.with_name(_oddly(odd, path.name)))
    arguments = [_named(each, odd, (given, out)) for each in plain]
    return arguments, main(arguments)


def _oddly(odd: str, name: str) -> str:
    """Folders end in the odd name, files begin with it."""
    return f"{odd}{name}" if "." in name else f"{name}{odd}"


def _named(argument: str, odd: str, places: Sequence[Path]) -> str:
    """An argument with its file or folder in `places` renamed."""
    for place in places:
        option, found, rest = argument.partition(f"{place}/")
        if found:
            name, *below = rest.split("/")
            return option + found + "/".join([_oddly(odd, name), *below])
    return argument


def check(name: str, odd: str, inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, status = run_with_names(name, odd, inputs, folder)
    said, out = capsys.readouterr(), folder / "out"
    assert status == 0, f"{arguments}: {said.err}"
    assert "Traceback" not in said.err
    left = [path for path in out.rglob("*") if is_left_over(path) or path.name.endswith(".lock")]
    assert not left, left
    assert sorted(path.name for path in folder.iterdir()) == ["in", "out"]
    made = list(out.iterdir())
    assert made and all(odd in path.name for path in made), made
    place = next(each[each.index(str(out)) :] for each in arguments if str(out) in each)
    assert name in SILENT or shown(place) in shown(said.out), f"{place!r} is not shown: {said.out}"
    for path in out.rglob("*.json"):
        json.loads(path.read_bytes())
    for path in out.rglob("*.ckpt"):
        torch.load(path, weights_only=True)


# They name no file that they wrote.
SILENT = ("eval", "search query")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.reads_only])
def test_every_command_takes_odd_names(
    name: str, inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    case, is_long = CASES[name], request.config.getoption("--kills") > 0
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    if name in SLOW and not is_long:
        pytest.skip("takes too long: pytest tests/test_names.py --kills 1")
    check(name, MIXED, inputs, folder, capsys)
    for number, odd in enumerate(NAMES if is_long and name not in SLOW else ()):
        place = folder / str(number)
        place.mkdir()
        check(name, odd, inputs, place, capsys)
        shutil.rmtree(place)


def _paths(function: Callable[..., object], name: str) -> Iterator[tuple[str, bool]]:
    """The options of a command that are paths, and whether they are given without a name."""
    for action in make_parser(function, name)._actions:
        kind = str(getattr(action, "_typehint", None) or action.type)
        if "Path" in kind or action.dest in ("data.root", "data.test_root"):
            yield action.dest, not action.option_strings


COMMANDS = sorted(all_names() - {"info", "completion"})


def function_of(name: str) -> Callable[..., object]:
    command, _, action = name.partition(" ")
    found = commands_of(command)
    return found if callable(found) else found[action]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_takes_every_name(name: str) -> None:
    """Names that YAML, argparse or jsonargparse read as something else are names."""
    function = function_of(name)
    paths = list(_paths(function, name))
    assert paths
    others = ["--data.root=x"] if name in ("fit",) else []
    names = iter((*NAMES, MIXED, "[a, b]", "&a", "*a", "!x", "1e3", "true", "2024-01-01", "|", "- a", "a: b", "x #y"))
    while chosen := list(zip(paths, names, strict=False)):  # each name once, for one of the options
        places = [f"./{odd}" if odd in ("null", "~", "-dash", MIXED) else odd for _, odd in chosen]
        places += ["x"] * (len(paths) - len(places))
        arguments = [
            place if is_bare else f"--{option}={place}" for (option, is_bare), place in zip(paths, places, strict=True)
        ]
        given = parse(function, name, [*others, *arguments])
        for (option, _), odd in chosen:
            value: Any = given
            for part in option.split("."):
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            assert str(value).removeprefix("./") == odd, option


@pytest.mark.parametrize("name", COMMANDS)
def test_names_after_two_dashes_may_begin_with_a_dash(name: str) -> None:
    function = function_of(name)
    positional = positional_names(function)
    parameters = signature(function).parameters.values()
    required = [
        f"--{each.name}=x" for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
    ]
    if not positional:
        pytest.skip("takes names as --option=-NAME only")
    given = parse(function, name, [*required, "--", *(f"-{each}" for each in positional)])
    assert [str(given[each]) for each in positional] == [f"-{each}" for each in positional]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("info", "completion", "synth", "demo")])
def test_what_is_missing_is_named_as_it_is(
    name: str, inputs: Path, folder: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    """Each input is missing in turn: an error shows its odd name, and nothing is written."""
    case = CASES[name]
    if not case.can_run:
        pytest.skip(f"needs {', '.join(case.needs)}")
    case.before(inputs, folder)
    before, plain = files(folder), case.arguments(inputs, folder)
    for number, argument in enumerate(plain):
        option, found, rest = argument.partition(f"{inputs}/")
        for odd in (MIXED, *NAMES) if request.config.getoption("--kills") else (MIXED,):
            if found:
                place = folder / _oddly(odd, rest.rpartition("/")[2])
                status = main([*plain[:number], f"{option}{place}", *plain[number + 1 :]])
                said = capsys.readouterr().err
                assert status == ERROR_STATUS.get(name.partition(" ")[0], 1), said
                assert "Traceback" not in said and (shown(place) in shown(said) or repr(str(place))[1:-1] in said), said
                assert files(folder) == before, f"{place!r} was missing"
