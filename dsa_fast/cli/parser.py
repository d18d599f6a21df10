"""Parsers of the commands' options: made from a function's arguments and docstring, with jsonargparse."""

from __future__ import annotations

import difflib
import re
import sys
from argparse import Action
from collections.abc import Callable, Sequence
from inspect import Parameter, cleandoc, signature
from pathlib import Path
from types import FunctionType
from typing import NoReturn

import jsonargparse

from dsa_fast.cli.plain import PLAIN, allow_only_data, parse_options
from dsa_fast.configs import find_config

__all__ = ["Parser", "make_parser", "parse", "positional_names"]

#: Types in help and errors, as people read them.
_READABLE: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"<class '(?:\w+\.)*(\w+)'>": lambda match: match[1],
    r"\btyping\.|\bpathlib\.": "",
    r"\bLiteral\[([^]]*)\]": lambda match: f"value of {match[1]}",
    r"\bPath\b": "path",
    r"\bbool\b": "true or false",
    r"\bint\b": "whole number",
    r"\bfloat\b": "number",
    r"\bstr\b": "text",
    r"\bdict\[.*\]": "{key: value, ...}",
    r"\b(list|tuple)\[(.*)\]": lambda match: f"[{match[2]}]",
    r"\bOptional\[(.*)\]": lambda match: match[1],
    r"\bUnion\[(.*)\]": lambda match: re.sub(r", (?=[^,]+$)", " or ", match[1]),
    r" \| null\b": "",
    r" \| ": " or ",
}


#: Options by the names that they have in other programs; the first that the command has.
_OTHER_NAMES = {
    **dict.fromkeys(("epoch", "epochs", "num_epochs"), ("max_epochs",)),
    **dict.fromkeys(("batch_size", "bs"), ("batch", "p")),
    **dict.fromkeys(("gpu", "gpus"), ("devices", "device")),
    **dict.fromkeys(("output", "output_dir"), ("out",)),
    **dict.fromkeys(("data", "data_dir", "dataset"), ("root",)),
    "num_workers": ("workers",),
    "learning_rate": ("lr",),
}
_NAMED = ", or the name of one in the package: tiny, quick, small, dsa_reid, rows/csa, ..."


_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


class _Formatter(jsonargparse.DefaultHelpFormatter):
    """Shows types as people read them, and examples as they are written."""

    def _get_type_str(self, action: Action) -> str | None:
        text = super()._get_type_str(action)
        if text is None or text.startswith("Literal"):  # its values are in the option's metavar
            return None
        return _readable(text)

    def _get_help_string(self, action: Action) -> str:
        text: str = super()._get_help_string(action)
        text = text.replace("Path to a configuration file.", "YAML file with the options of this group")
        return text.replace("type: %(type)s", "%(type)s").replace("default: null", "default: none")

    def _expand_help(self, action: Action) -> str:
        text: str = super()._expand_help(action)
        return text.replace("default: null)", "default: none)")

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("examples:"):
            return text
        fill = super()._fill_text
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in text.split("\n\n"))


def _readable(text: str) -> str:
    for pattern, readable in _READABLE.items():
        text = re.sub(pattern, readable, text)
    return text


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors are one line, with the option that was probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the error and exits with status 2."""
        text = re.sub(r"^Parser key \"([^\"]+)\":\s*", r"--\1: ", message.strip())
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        text = " ".join(lines)
        required = re.match(r"(the following arguments are required: )(.*)", text)
        if required is not None:
            text = required[1] + ", ".join(map(self._as_typed, required[2].split(", ")))
        wrong = re.match(r"(--[\w.]+: )Expected a (.*?)\. Got value: ?(.*)", text)
        if wrong is not None:
            text = f"{wrong[1]}expected a {_readable(wrong[2])}, got {wrong[3]}"
        positional = [action.dest for action in self._actions if not action.option_strings]
        text = _did_you_mean(text, self._options(), positional)
        sys.stderr.write(f"{self.prog}: error: {text}\n(`{self.prog} --help` lists the options)\n")
        raise SystemExit(2)

    def _options(self) -> list[str]:
        return [name for action in self._actions for name in action.option_strings]

    def _as_typed(self, name: str) -> str:
        return f"--{name}" if f"--{name}" in self._options() else name.upper()


def _did_you_mean(text: str, names: Sequence[str], positional: Sequence[str]) -> str:
    bare = re.match(r"[Uu]nrecognized arguments: *([^-\s]\S*)", text)
    if bare is not None:
        takes = "; give the data set as --data.root" if "--data.root" in names else ""
        return f"unexpected argument {bare[1]}{takes}"
    match = re.match(r"(?:Unrecognized arguments:|unrecognized arguments:) *(--[\w.-]+)", text)
    if match is None:
        match = re.match(r"Key '?([\w.]+)'? is not expected|.*?[Oo]ption '?([\w.]+)'? is not accepted", text)
        if match is None:
            return text
    given = next(each for each in match.groups() if each)
    wanted = given if given.startswith("--") else f"--{given}"
    if wanted[2:] in positional:
        return f"unknown option {wanted}; give {wanted[2:].upper()} without a name"
    ends = {name: name.lstrip("-").rpartition(".")[2] for name in names}
    last = wanted[2:].rpartition(".")[2].replace("-", "_")
    known = next((each for each in _OTHER_NAMES.get(last, ()) if each in ends.values()), last)
    near = [name for name, end in ends.items() if end == known]  # --max_epochs for --trainer.max_epochs
    near = near or difflib.get_close_matches(wanted, names, n=1, cutoff=0.7)
    hint = f"; did you mean {' or '.join(near[:3])}?" if near else ""
    return f"unknown option {wanted}{hint}"


def make_parser(function: Callable[..., object], prog: str) -> Parser:
    """Makes the parser of a command's options. Later --config files override earlier ones.

    The docstring's text before `Args:` is the description, and the lines below `Examples:` come last in the help.
    """
    document = cleandoc(function.__doc__ or "")
    description = re.split(r"\n\n(?:Args|Returns|Raises|Examples):\n", document)[0]
    optional = getattr(function, "positionals", ())
    positional = [f"[{name.upper()}]" if name in optional else name.upper() for name in positional_names(function)]
    for each in signature(function).parameters.values():
        if each.kind is each.KEYWORD_ONLY and each.default is each.empty:
            positional.append(f"--{each.name} {each.name.upper()}")
    allow_only_data()
    parser = Parser(
        prog=prog,
        description=description.replace("`", ""),
        usage=" ".join([prog, *positional, "[options]"]),
        epilog="\n".join(["examples:", *(f"  {line}" for line in examples(function))]),
        formatter_class=_Formatter,
        default_env=False,
        parser_mode=PLAIN,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file with any of the options below" + (_NAMED if _has_named_configs(function) else ""),
    )
    parser.add_function_arguments(_without_module(function), nested_key=None, as_group=False, as_positional=True)
    return parser


def _has_named_configs(function: Callable[..., object]) -> bool:
    """Returns whether the package's configurations, which are of training runs, fit a command."""
    return "trainer" in signature(function).parameters


def _without_module(function: Callable[..., object]) -> Callable[..., object]:
    """Returns a copy that claims to be from here.

    jsonargparse runs the imports for type checkers of a function's module, and looks for its name in the package.
    Either would import PyTorch.
    """
    if not isinstance(function, FunctionType) or "TYPE_CHECKING" not in function.__globals__:
        return function
    copy = FunctionType(function.__code__, function.__globals__, "command", function.__defaults__)
    copy.__kwdefaults__, copy.__qualname__ = function.__kwdefaults__, copy.__name__
    copy.__annotations__, copy.__doc__, copy.__module__ = function.__annotations__, function.__doc__, __name__
    return copy


def positional_names(function: Callable[..., object]) -> list[str]:
    """Returns the names of a command's arguments that are given without an option, in their order."""
    parameters = signature(function).parameters.values()
    required = [each.name for each in parameters if each.default is each.empty and each.kind in _POSITIONAL]
    return [*getattr(function, "positionals", ()), *required]


def examples(function: Callable[..., object]) -> list[str]:
    """Returns the command lines below `Examples:` in a command's docstring."""
    part = cleandoc(function.__doc__ or "").partition("\nExamples:\n")[2]
    return [line.strip() for line in part.splitlines() if line.strip().startswith("dsa-fast ")]


def parse(function: Callable[..., object], prog: str, arguments: Sequence[str]) -> dict[str, object]:
    """Returns a command's options from its arguments.

    Raises:
        SystemExit: after --help, or with status 2 for wrong options; the error is printed.
    """
    own, passed_on = _split_passed_on(function, arguments)
    parser = make_parser(function, prog)
    options = vars(parse_options(parser, _find_configs(function, _spell_out_flags(function, own))))
    del options["config"]
    if passed_on:
        options["options"] = [*options["options"], *passed_on]
    return dict(options)


def _find_configs(function: Callable[..., object], arguments: Sequence[str]) -> list[str]:
    """Replaces names of the package's configurations after --config with the paths of their files."""
    named = _has_named_configs(function)
    found = list(arguments)
    for number, argument in enumerate(arguments):
        if argument.startswith("--config="):
            found[number] = f"--config={_config(argument.removeprefix('--config='), named)}"
        elif number and arguments[number - 1] == "--config":
            found[number] = str(_config(argument, named))
    return found


def _config(name: str, named: bool) -> Path:
    if named or Path(name).is_file():
        return find_config(name)
    raise FileNotFoundError(f"config must be a YAML file of options of this command, got {name}: no such file")


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
    optional = getattr(function, "positionals", ())
    unnamed = iter(optional)
    named: list[str] = []
    is_value = is_bare = False
    for argument in spelt:
        if optional and argument == "--" and not is_bare:
            is_bare = True  # what follows is no option, even if it begins with a dash
            continue
        is_free = is_bare or (not is_value and not argument.startswith("-"))
        name = next(unnamed, None) if is_free else None
        is_value = not is_value and argument.startswith("--") and "=" not in argument
        named.append(argument if name is None else f"--{name}={argument}")
    return named
