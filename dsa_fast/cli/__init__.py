"""The `dsa-fast` command. Each subcommand is a module, imported when the command runs. May import all packages.

A command's module imports PyTorch and other large libraries inside its functions, so `--help` and wrong options answer
at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from dsa_fast.terminal import duration, say

COMMANDS = {
    "demo": "render people, train, evaluate and draw in minutes; needs no data",
    "synth": "render a data set of synthetic people with exact dense semantics",
    "crops": "crop the people of a video, one folder per track, to label them",
    "split": "split your own people into train, query and gallery by identity",
    "prepare": "make the IUV maps of images, with DensePose or from keypoints",
    "fit": "train a model on a data set",
    "eval": "evaluate a checkpoint: mAP, CMC and mINP",
    "inspect": "check a prepared data set: coverage, parts, suspicious IUV maps, a contact sheet",
    "pack": "pack the IUV maps of a data set into one file",
    "tables": "train and test the rows of the paper's tables, and compare with its numbers",
    "rank": "draw ranked lists, curves and activation maps, and write them as a web page",
    "export": "write the MF-Stream as an ONNX file or a TensorRT engine, and check it against the checkpoint",
    "calibrate": "measure the cosines that tell people apart, for verify",
    "verify": "tell whether two images show the same person",
    "embed": "turn images or video crops into vectors, with a checkpoint, an ONNX file or an engine",
    "search": "build a search index of vectors, and search it for people",
    "warp": "show a photo, its part map and its 24 part images in one picture",
    "info": "show the version, the build, what this machine offers, and the folders of caches",
    "completion": "print a script that completes commands and options in bash, zsh or tcsh",
}

# Commands that use exit status 1 for something else.
ERROR_STATUS = {"inspect": 2}
# Commands that answer at once, so their time is of no interest.
_QUICK = ("info", "completion")


def _usage() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: dsa-fast COMMAND [options]\n\nDensely semantically aligned person re-identification.\n\n"
        f"commands:\n{rows}\n\n`dsa-fast COMMAND --help` lists a command's options with their defaults; every command\n"
        "also reads them from a YAML file (--config FILE) and prints such a file (--print_config).\n\n"
        "examples:\n  dsa-fast demo\n  dsa-fast fit --help"
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
    name = arguments.pop(0)
    if name == "--version":
        from dsa_fast.version import __version__

        print(f"dsa_fast {__version__}")
        return 0
    if name not in COMMANDS:
        return _unknown("dsa-fast", name, COMMANDS)
    program, found = f"dsa-fast {name}", commands_of(name)
    if isinstance(found, Mapping):
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage_of(program, found))
            return 0
        action = arguments.pop(0)
        if action not in found:
            return _unknown(program, action, found)
        program, found = f"{program} {action}", found[action]
    start, function = time.perf_counter(), found
    from dsa_fast.cli.guard import guarded

    options: dict[str, object] = {}

    def run() -> int:
        from dsa_fast.cli.guard import locked_output
        from dsa_fast.cli.parser import parse

        options.update(parse(function, program, arguments))
        with locked_output(name, options):
            status = function(**options)
        if name not in _QUICK and os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
            print(f"{program} took {duration(time.perf_counter() - start)}", file=sys.stderr)
        return status if isinstance(status, int) else 0

    def in_words(message: str) -> str:
        from dsa_fast.cli.words import in_words_of_the_command

        return in_words_of_the_command(message, function, program, options)

    def less(on_gpu: bool) -> str:
        from dsa_fast.cli.words import with_less_memory

        return with_less_memory(function, program, on_gpu=on_gpu)

    return guarded(program, run, error_status=ERROR_STATUS.get(name, 1), reword=in_words, less=less)


def commands_of(name: str) -> Callable[..., object] | Mapping[str, Callable[..., object]]:
    """Returns a command's function, or its functions by name if it has several (`search build`, `search query`)."""
    found: Callable[..., object] | Mapping[str, Callable[..., object]]
    found = getattr(importlib.import_module(f"dsa_fast.cli.{name}"), name)
    return found


def _usage_of(program: str, functions: Mapping[str, Callable[..., object]]) -> str:
    from dsa_fast.cli.parser import examples

    rows = [f"  {name:6}  {(each.__doc__ or '').partition('.')[0]}" for name, each in functions.items()]
    shown = [f"  {line}" for each in functions.values() for line in examples(each)[:1]]
    return "\n".join(
        [f"usage: {program} {'|'.join(functions)} [options]", "", "commands:", *rows, "", "examples:", *shown]
    )


def _unknown(program: str, name: str, known: Mapping[str, object]) -> int:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    say(f"{program}: error: unknown command {name!r}{hint}\n(`{program} --help` lists the commands)", file=sys.stderr)
    return 2
