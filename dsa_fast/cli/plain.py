"""Options are data: no value from a file or the command line is imported or called."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jsonargparse
import yaml

from dsa_fast.configs import check_plain, check_yaml

__all__ = ["PLAIN", "allow_only_data", "parse_options"]

#: The `parser_mode` of all parsers.
PLAIN = "plain_yaml"

_load_yaml = jsonargparse.get_loader("yaml")


def allow_only_data() -> None:
    """Sets jsonargparse to read plain YAML and to import nothing. Call it before a parser is made."""
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], instantiate_subclass_spec_in_any=False)
    jsonargparse.set_loader(PLAIN, _load_plain, (yaml.YAMLError, ValueError))


def _load_plain(text: str) -> Any:
    """Reads a configuration file, or one value of the command line."""
    check_yaml(text)
    value = _load_yaml(text)
    if value is None and "\n" not in text and text.strip().lower() not in ("", "~", "null"):
        return text  # a name on the command line, which YAML reads as a comment or an anchor
    check_plain(value)
    return value


def parse_options(parser: jsonargparse.ArgumentParser, arguments: Sequence[str]) -> jsonargparse.Namespace:
    """Returns the options by name, with their dataclasses made. Exits with 2 if one is wrong."""
    parsed = parser.parse_args(list(arguments))
    try:
        check_plain(parsed.as_dict())
    except ValueError as error:
        parser.error(str(error))
    made: jsonargparse.Namespace = parser.instantiate(parsed)
    return made
