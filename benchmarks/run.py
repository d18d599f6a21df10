"""Measures dsa_fast and the alternatives.

    python benchmarks/run.py                            # the warp: prints a table
    python benchmarks/run.py --json FILE                # also writes the results and the machine's description
    python benchmarks/run.py --suite eval --peer PATH_TO_TORCHREID_CHECKOUT
    python benchmarks/run.py --suite all --json FOLDER  # every suite, each into FOLDER/SUITE_DEVICE.json

Every contender's result is verified before it is timed, and ratios are taken within one run.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any, cast

import torch
from common import Suite, machine, write_json

# Suite -> its module in this folder.
MODULES = {
    "warp": "warp",
    "chart": "chart",
    "transform": "transform",
    "train": "train",
    "infer": "infer",
    "runtime": "runtime",
    "track": "track",
    "eval": "evaluation",
    "keypoints": "keypoints",
    "neighbor": "neighbor",
}
SUITES = {name: module for name, module in MODULES.items() if Path(__file__).with_name(f"{module}.py").exists()}


def parse() -> argparse.Namespace:
    """Parses the options, including those of the chosen suite."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--suite", choices=[*SUITES, "all"], default="warp", help="what to measure (default: %(default)s)"
    )
    chosen = parser.parse_known_args()[0].suite
    parser.add_argument("-h", "--help", action="help", help="show this help and the options of the selected suite")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the results; a folder with --suite all")
    parser.add_argument("--quick", action="store_true", help="small batches and short runs, to check that it works")
    parser.add_argument("--seconds", type=float, help="time per measurement in seconds (default: 2, with --quick 0.2)")
    for name in SUITES if chosen == "all" else [chosen]:
        module = load(name)
        if hasattr(module, "add_options"):
            module.add_options(parser.add_argument_group(f"suite {name}"))
    options = parser.parse_args()
    name = options.device
    options.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    if options.seconds is None:
        options.seconds = 0.2 if options.quick else 2.0
    return options


def load(suite: str) -> Suite:
    """Imports the module of a suite."""
    return cast(Suite, importlib.import_module(SUITES[suite]))


def main() -> None:
    """Parses the options and runs the suites."""
    options = parse()
    for name in SUITES if options.suite == "all" else [options.suite]:
        suite = load(name)
        result: dict[str, Any] = {"suite": name, "device": options.device.type, "machine": machine(options.device)}
        result |= suite.run(options)
        suite.show(result)
        if options.json:
            path = options.json / f"{name}_{options.device.type}.json" if options.suite == "all" else options.json
            write_json(path, result)


if __name__ == "__main__":
    main()
