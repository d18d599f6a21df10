"""No value from a file or the command line names code that is imported or called."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonargparse
import pytest
import yaml

from dsa_fast.cli import COMMANDS, commands_of, main
from dsa_fast.cli.parser import make_parser
from dsa_fast.cli.plain import parse_options
from dsa_fast.configs import check_yaml, read_yaml

CLASS = "canary_of_options.Thing"
VALUES = (
    CLASS,
    f"{{class_path: {CLASS}}}",
    f"{{class_path: {CLASS}, init_args: {{x: 1}}}}",
    f"{{x: {{class_path: {CLASS}}}}}",
    f"{{x: [{{y: {{class_path: {CLASS}, dict_kwargs: {{}}}}}}]}}",
)


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module that leaves a file when it is imported, and another when its class is called."""
    (tmp_path / "canary_of_options.py").write_text(
        "from pathlib import Path\nhere = Path(__file__).parent / 'imported'\nhere.touch()\n"
        "class Thing:\n    def __init__(self, **kwargs):\n        (here.parent / 'called').touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("canary_of_options", None)


def parser_of(command: str) -> jsonargparse.ArgumentParser:
    """Of `fit`, or of `search query`."""
    name, _, action = command.partition(" ")
    found = commands_of(name)
    return make_parser(found[action] if isinstance(found, Mapping) else found, command)


def all_commands() -> list[str]:
    """All with options."""
    names = []
    for name in COMMANDS:
        found = commands_of(name)
        names += [f"{name} {action}" for action in found] if isinstance(found, Mapping) else [name]
    return [name for name in names if name not in ("info", "completion")]


def structured(parser: jsonargparse.ArgumentParser) -> list[str]:
    """The options that hold other options or a map, and one plain one."""
    names = [action.dest for action in parser._actions if action.option_strings]
    maps = [name for name in names if name.split(".")[-1] in ("options", "test_options", "extra", "overrides")]
    groups = [name for name in names if any(other.startswith(f"{name}.") for other in names)]
    plain = [name for name in names if name not in ("help", "config", "print_config")]
    return [*maps, *groups, *plain[:1]]


@pytest.mark.parametrize("command", all_commands())
def test_no_command_imports_what_an_option_names(
    command: str, canary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = parser_of(command)
    config = canary / "config.yaml"
    for name in structured(parser):
        tries = [[f"--{name}", value] for value in VALUES]
        tries += [[f"--{name}.{end}", CLASS] for end in ("class_path", "x.class_path", "init_args", "help")]
        for arguments in tries:
            with contextlib.suppress(SystemExit, ValueError):
                parse_options(parser, arguments)
        for value in VALUES:
            config.write_text(yaml.safe_dump({name: yaml.safe_load(value)}))
            with contextlib.suppress(SystemExit, ValueError):
                parse_options(parser, ["--config", str(config)])
        left = [file for file in ("imported", "called") if (canary / file).exists()]
        assert not left, f"{command} --{name}: {left}"
    assert "canary_of_options" not in sys.modules
    capsys.readouterr()


def test_a_named_function_of_a_loaded_module_is_not_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = {"class_path": "os.system", "init_args": {"command": f"touch {tmp_path / 'ran'}"}}
    config = tmp_path / "config.yaml"
    for content in ({"options": {"x": command}}, {"options": command}):
        config.write_text(yaml.safe_dump(content))
        for name in ("eval", "rank", "export", "pack", "inspect", "prepare"):
            with pytest.raises(SystemExit):
                main([name, "--config", str(config)])
    config.write_text(yaml.safe_dump({"data": {"root": "x", "options": {"x": command}}, "trainer": {"extra": command}}))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config)])
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "row.yaml").write_text(yaml.safe_dump({"trainer": {"extra": {"x": command}}}))
    (tmp_path / "base.yaml").write_text("trainer: {max_epochs: 1}\n")
    rows = ["--rows", "row", "--out", str(tmp_path / "out")]
    assert main(["tables", "--base", str(tmp_path / "base.yaml"), *rows]) == 1
    assert "row.yaml must be a YAML file of plain values, got: options are data and name no code" in (
        said := capsys.readouterr().err
    )
    assert not (tmp_path / "ran").exists()
    assert said.count("name no code") > 12


def test_maps_of_plain_values_pass() -> None:
    parser = parser_of("fit")
    arguments = ["--data.root=x", "--data.options={kind: labeled}", "--trainer.extra={a: {b: [1, 2.5, x, null]}}"]
    options = parse_options(parser, arguments)
    assert options.data.options == {"kind": "labeled"}
    assert options.trainer.extra == {"a": {"b": [1, 2.5, "x", None]}}
    assert parse_options(parser, ["--data.root=x", "--data.options.split=3"]).data.options == {"split": 3}


def test_options_of_data_sets_are_typed(capsys: pytest.CaptureFixture[str]) -> None:
    parser = parser_of("pack")
    for wrong in ("{kind: other}", "{nothing: 1}", "{with_val: maybe}", "[1]", "3"):
        with pytest.raises(SystemExit):
            parse_options(parser, ["x", f"--options={wrong}"])
    capsys.readouterr()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
BOMBS = {"aliases": BOMB, "itself": "a: &a [*a]\n", "depth": "x: " + "[" * 5000 + "]" * 5000, "size": "x" * (2 << 20)}


@pytest.mark.parametrize("kind", BOMBS)
def test_yaml_that_grows_is_refused_before_it_grows(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(BOMBS[kind])
    with pytest.raises(ValueError, match="must be a YAML file of plain values"):
        read_yaml(config)
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(config)])
    assert "YAML" in capsys.readouterr().err


def test_few_aliases_are_fine(tmp_path: Path) -> None:
    check_yaml("a: &a {x: 1}\nb: *a\nc: [*a, *a]\n")
    (tmp_path / "c.yaml").write_text("a: &a {x: 1}\nb: *a\n")
    assert read_yaml(tmp_path / "c.yaml") == {"a": {"x": 1}, "b": {"x": 1}}


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"!!python/object/apply:os.getcwd []", b"a: [", b"{class_path: x}"]
)
def test_other_content_is_one_kind_of_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(ValueError, match="must be a YAML file of plain values"):
        read_yaml(tmp_path / "c.yaml")
