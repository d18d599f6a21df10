"""`dsa-fast completion`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script that completes commands and options. It needs the package shtab.

    Args:
        shell: the shell.

    Examples:
        dsa-fast completion bash > ~/.local/share/bash-completion/completions/dsa-fast
        dsa-fast completion zsh > ~/.zfunc/_dsa-fast
    """
    from dsa_fast.cli import COMMANDS, commands_of
    from dsa_fast.cli.parser import Parser, make_parser
    from dsa_fast.extras import require

    require("shtab", "dsa-fast completion")
    parser = Parser(prog="dsa-fast", default_env=False)
    commands = parser.add_subcommands()
    for name, text in COMMANDS.items():
        found = commands_of(name)
        if isinstance(found, Mapping):
            child = Parser(prog=f"dsa-fast {name}", default_env=False)
            commands.add_subcommand(name, child, help=text)
            actions = child.add_subcommands()
            for action, function in found.items():
                actions.add_subcommand(action, make_parser(function, f"dsa-fast {name} {action}"))
        else:
            commands.add_subcommand(name, make_parser(found, f"dsa-fast {name}"), help=text)
    print(parser.get_completion_script(f"shtab-{shell}"))
