"""The `dsa-fast` command. Each subcommand is a module, imported when the command runs. May import all packages."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from inspect import signature  # `inspect` is also a command here

import jsonargparse

from dsa_fast.cli.guard import guarded, locked_output
from dsa_fast.cli.plain import PLAIN, allow_only_data, parse_options
from dsa_fast.configs import find_config

COMMANDS = {
    "demo": "render people, train, evaluate and draw in minutes; needs no data",
    "synth": "render a data set of synthetic people with exact dense semantics",
    "prepare": "make the IUV maps of images, with DensePose or from keypoints",
    "fit": "train a model on a data set",
    "eval": "evaluate a checkpoint: mAP, CMC and mINP",
    "inspect": "check a prepared data set: coverage, parts, suspicious IUV maps, a contact sheet",
    "pack": "pack the IUV maps of a data set into one file",
    "tables": "train and test the rows of the paper's tables, and compare with its numbers",
    "rank": "draw ranked lists, curves and activation maps, and write them as a web page",
    "export": "write the MF-Stream as an ONNX file or a TensorRT engine, and check it against the checkpoint",
    "embed": "turn images or video crops into vectors, with a checkpoint, an ONNX file or an engine",
    "search": "build a search index of vectors, and search it for people",
    "warp": "show a photo, its part map and its 24 part images in one picture",
}

# Commands that use exit status 1 for something else.
ERROR_STATUS = {"inspect": 2}


def _usage() -> str:
    rows = "\n".join(f"  {name:7} {text}" for name, text in COMMANDS.items())
    return (
        "usage: dsa-fast COMMAND [options]\n\nDensely semantically aligned person re-identification.\n\n"
        f"commands:\n{rows}\n\n`dsa-fast COMMAND --help` lists a command's options with their defaults; every command\n"
        "also reads them from a YAML file (--config FILE) and prints such a file (--print_config)."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dsa-fast COMMAND ...`.

    Args:
        argv: the arguments after `dsa-fast`; by default, those of this process.

    Returns:
        The exit status: 0 for success, 1 for bad input, 130 after Ctrl-C, 143 after SIGTERM, or the command's own.
        (Unknown options exit with 2.)
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    name = arguments[0]
    if name == "--version":
        from dsa_fast.version import __version__

        print(f"dsa_fast {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"{_usage()}\n\ndsa-fast: error: unknown command {name!r}", file=sys.stderr)
        return 2
    return guarded(f"dsa-fast {name}", lambda: _run(name, arguments[1:]), error_status=ERROR_STATUS.get(name, 1))


def _run(name: str, arguments: Sequence[str]) -> int:
    function = getattr(importlib.import_module(f"dsa_fast.cli.{name}"), name)
    parser = make_parser(function, f"dsa-fast {name}")
    own, passed_on = _split_passed_on(function, arguments)
    options = vars(parse_options(parser, find_configs(_spell_out_flags(function, own))))
    del options["config"]
    if passed_on:
        options["options"] = [*options["options"], *passed_on]
    with locked_output(name, options):
        status = function(**options)
    return status if isinstance(status, int) else 0


def make_parser(function: Callable[..., object], prog: str) -> jsonargparse.ArgumentParser:
    """Makes the parser of a command's options. Later --config files override earlier ones."""
    summary = (function.__doc__ or "").split("\n\n")[0]
    allow_only_data()
    parser = jsonargparse.ArgumentParser(prog=prog, description=summary, default_env=False, parser_mode=PLAIN)
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of the options below, or the package's small, rows/csa, ...",
    )
    parser.add_function_arguments(function, nested_key=None, as_group=False, as_positional=True)
    return parser


def find_configs(arguments: Sequence[str]) -> list[str]:
    """Replaces names of the package's configurations after --config with the paths of their files."""
    found = list(arguments)
    for number, argument in enumerate(arguments):
        if argument.startswith("--config="):
            found[number] = f"--config={find_config(argument.removeprefix('--config='))}"
        elif number and arguments[number - 1] == "--config":
            found[number] = str(find_config(argument))
    return found


def _split_passed_on(function: Callable[..., object], arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separates a function's own options from those that it passes on to another command, with their values."""
    groups = tuple(f"--{group}." for group in getattr(function, "passed_on", ()))
    own: list[str] = []
    passed_on: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if groups and argument.startswith(groups):
            passed_on.append(argument)
            if "=" not in argument:
                passed_on += [value for value in [next(rest, None)] if value is not None]
        else:
            own.append(argument)
    return own, passed_on


def _spell_out_flags(function: Callable[..., object], arguments: Sequence[str]) -> list[str]:
    """Replaces `--flag` with `--flag true`, and positional arguments with named ones, for the parser."""
    flags = {f"--{name}" for name, it in signature(function).parameters.items() if it.annotation == "bool"}
    spelt = []
    for argument, following in zip(arguments, [*arguments, "--"][1:], strict=True):
        spelt.append(argument)
        if argument in flags and following.lower() not in ("true", "false", "yes", "no"):
            spelt.append("true")
    # Optional arguments can be positional if the function lists them in its `positionals`.
    unnamed = iter(getattr(function, "positionals", ()))
    named: list[str] = []
    is_value = False
    for argument in spelt:
        if not is_value and not argument.startswith("-") and (name := next(unnamed, None)) is not None:
            named.append(f"--{name}")
        is_value = not is_value and argument.startswith("--") and "=" not in argument
        named.append(argument)
    return named
