"""An expected error in the words of a command: its options, what was given, and what was probably meant."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import islice, pairwise
from pathlib import Path

from dsa_fast.cli.parser import make_parser, positional_names

__all__ = ["in_words_of_the_command", "with_less_memory"]

_MISSING = re.compile(r"no such|not found|does not exist|\bno \S+ in it\b", re.IGNORECASE)
_MOST_NAMES = 10_000  # of a folder, in which a close one is looked for
# Also in dsa_fast.deploy, which imports PyTorch.
_MODELS, _MARK = (".ckpt", ".onnx", ".engine"), "current.json"


def in_words_of_the_command(
    message: str, function: Callable[..., object], prog: str, values: Mapping[str, object] | None = None
) -> str:
    """Writes options in a library's error as the command's, and adds what was probably meant.

    `check_counts=False` becomes `--data.check_counts false`, `data.p must be` becomes `--data.p must be`, and `root
    must be` becomes `ROOT must be` or `--data.root must be`.

    Args:
        message: the error.
        function: the command's.
        prog: the command as it is typed, such as `dsa-fast fit`.
        values: its options by name, if they are known.
    """
    positional = positional_names(function)
    options = _options(function, prog)
    ends = {name.lstrip("-").rpartition(".")[2]: name for name in sorted(options, reverse=True)}
    given = dict(_flat(values or {}))
    if hasattr(function, "passed_on"):
        words = [word for each in given.get("options") or () for word in str(each).split("=", 1)]  # type: ignore[attr-defined]
        given |= {name[2:]: value for name, value in pairwise(words) if name in options}

    def named(name: str) -> str | None:
        if name in positional:
            return name.upper()
        return f"--{name}" if f"--{name}" in options else ends.get(name)

    def with_value(match: re.Match[str]) -> str:
        value = match[2].strip("'\"").lower() if match[2] in ("True", "False") else match[2].strip("'\"")
        name = named(match[1])
        return f"{name} {value}" if name else match[0]

    paths = sorted({str(each) for each in given.values() if isinstance(each, Path) and each.name}, key=len)[::-1]
    text = message
    for number, path in enumerate(paths):  # what looks like an option in a name is none
        text = text.replace(path, f"\0{number}\0")
    text = re.sub(r"(?<![-\w./'])([a-z][\w.]*)=(\w+|'[^']*'|\"[^\"]*\")", with_value, text)
    text = re.sub(
        r"(?<![-\w./'])[a-z]\w*\.\w+(?![\w./'])", lambda it: f"--{it[0]}" if f"--{it[0]}" in options else it[0], text
    )
    for number, path in enumerate(paths):
        text = text.replace(f"\0{number}\0", path)
    subject = re.match(r"([a-z]\w*)(?= (?:must|needs|replaces|not found|has)\b)", text)
    if subject is not None:
        name = named(subject[1])
        holders = [each for each, value in given.items() if _is_about(text, value)]
        own = given.get((name or "").lstrip("-").lower())
        of_a_path = own is None or isinstance(own, Path) or any(each.endswith(subject[1]) for each in holders)
        if holders and of_a_path and name not in map(named, holders):
            name = named(holders[0])  # such as `images`, of a function that does not know the option
        if name is not None and not any(each.startswith(f"{name}.") for each in options):
            text = name + text[subject.end() :]
    return text + _hint(text, prog, positional, given)


#: Options that take less memory with a lower value: on the GPU, and else.
_ON_GPU = ("--data.p", "--data.k", "--data.test_batch", "--batch", "--size")
_ON_CPU = (*_ON_GPU, "--data.workers", "--workers")


def with_less_memory(function: Callable[..., object], prog: str, *, on_gpu: bool) -> str:
    """Names a command's options that take less memory, for the end of an error; "" if it has none."""
    options = _options(function, prog)
    lower = [name for name in (_ON_GPU if on_gpu else _ON_CPU) if name in options]
    advice = [f"lower {' or '.join(lower)}"] if lower else []
    if on_gpu and "--trainer.precision" in options:
        advice.append("choose --trainer.precision bf16-mixed")
    if on_gpu and "--device" in options:
        advice.append("choose --device cpu")
    return f": {', or '.join(advice)}" if advice else ""


def _options(function: Callable[..., object], prog: str) -> set[str]:
    """Returns the names of a command's options, with those that it passes on."""
    positional = positional_names(function)
    return {
        name
        for each in [function, *([_fit()] if hasattr(function, "passed_on") else [])]
        for action in make_parser(each, prog)._actions
        for name in action.option_strings
        if name.startswith("--") and name.lstrip("-") not in positional
    }


def _fit() -> Callable[..., object]:
    """Returns the command to which `tables` passes options on."""
    from dsa_fast.cli.fit import fit

    return fit


def _flat(values: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields the dotted name and the value of each option."""
    for name, value in values.items():
        if is_dataclass(value):
            yield from _flat({item.name: getattr(value, item.name) for item in fields(value)}, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_about(text: str, value: object) -> bool:
    """Returns whether the message says that it got this path."""
    if not isinstance(value, (str, Path)) or str(value) in ("", "auto"):
        return False
    return (
        re.search(rf"(?:got|found:|got the (?:file|folder)) '?{re.escape(str(value))}'?(?=[\s,:;]|$)", text) is not None
    )


def _hint(text: str, prog: str, positional: list[str], given: Mapping[str, object]) -> str:
    places = {name: value for name, value in given.items() if name in positional and isinstance(value, Path)}
    for name, looks_right in _KINDS.items():
        place = places.get(name)
        if place is None or looks_right(place):
            continue
        other = next((each for each, value in places.items() if each != name and looks_right(value)), None)
        if other is not None:
            swapped = {**places, name: places[other], other: place}
            line = shlex.join(str(swapped[each]) for each in positional if each in swapped)
            return f"; {name.upper()} and {other.upper()} are swapped: {prog} {line}"
        last = place / "checkpoints" / "last.ckpt"
        if name != "index" and last.is_file():
            return f"; {place} is the folder of a run, whose checkpoint is {last}"
    if _MISSING.search(text):
        for value in given.values():
            if isinstance(value, (str, Path)) and _is_about(text, value) and not Path(value).expanduser().exists():
                near = _close_path(Path(value).expanduser())
                if near is not None:
                    return f"; did you mean {shlex.quote(str(near))}?"
    return ""


def _is_model(path: Path) -> bool:
    return path.suffix in _MODELS or (path / "config.json").is_file() or str(path).startswith("hf:")


_KINDS: dict[str, Callable[[Path], bool]] = {
    "checkpoint": _is_model,
    "encoder": _is_model,
    "index": lambda path: (path / _MARK).is_file(),
}


def _close_path(path: Path) -> Path | None:
    """Returns a path that exists and differs in one misspelt name; None if there is none."""
    rest: list[str] = []
    while not path.parent.exists() and path.parent != path:
        rest.insert(0, path.name)
        path = path.parent
    try:
        with os.scandir(path.parent) as entries:
            names = {entry.name.lower(): entry.name for entry in islice(entries, _MOST_NAMES)}
    except OSError:
        return None
    for near in difflib.get_close_matches(path.name.lower(), names, n=3):
        found = path.parent.joinpath(names[near], *rest)
        if found.exists():
            return found
    return None
