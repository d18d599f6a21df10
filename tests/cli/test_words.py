"""Errors in the words of a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dsa_fast.cli.embed import embed
from dsa_fast.cli.eval import eval as evaluate
from dsa_fast.cli.fit import fit
from dsa_fast.cli.inspect import inspect
from dsa_fast.cli.prepare import prepare
from dsa_fast.cli.search import query
from dsa_fast.cli.tables import tables
from dsa_fast.cli.words import in_words_of_the_command
from dsa_fast.configs.prepare import KeypointsConfig
from dsa_fast.configs.training import DataConfig

HERE = Path("here")
DATA = DataConfig("here", test_root="there")


@pytest.mark.parametrize(
    ("function", "values", "message", "expected"),
    [
        (evaluate, {}, "check_counts=False skips this (depth=3)", "--check_counts false skips this (depth=3)"),
        (fit, {}, "check_counts=False skips this", "--data.check_counts false skips this"),
        (fit, {}, "data.p must be 3: give data.p=3", "--data.p must be 3: give --data.p 3"),
        (fit, {}, "p must be at most 6, got p=7", "--data.p must be at most 6, got --data.p 7"),
        (fit, {"data": DATA}, "root must be a folder, got here", "--data.root must be a folder, got here"),
        (fit, {"data": DATA}, "root must be a folder, got there", "--data.test_root must be a folder, got there"),
        (inspect, {"root": HERE}, "root must be a folder, got here", "ROOT must be a folder, got here"),
        (embed, {"source": HERE}, "images must be a folder, got here: no", "SOURCE must be a folder, got here: no"),
        (
            prepare,
            {"keypoints": KeypointsConfig(HERE)},
            "keypoints not found: here",
            "--keypoints.file not found: here",
        ),
        (
            tables,
            {"options": ["--data.root", "here"]},
            "root must be a folder, got here",
            "--data.root must be a folder, got here",
        ),
        (
            evaluate,
            {"checkpoint": HERE, "fused": True},
            "fused needs a checkpoint, got here",
            "--fused needs a checkpoint, got here",
        ),
        (
            evaluate,
            {"checkpoint": HERE, "visibility": "head"},
            "visibility needs a checkpoint, got here",
            "--visibility needs a checkpoint, got here",
        ),
        (prepare, {}, "keypoints must be [K, 3]", "keypoints must be [K, 3]"),  # a group, not an option
        (fit, {}, "a/data.root and 'data.root' stay", "a/data.root and 'data.root' stay"),
        (fit, {}, "images must have shape [H, W]", "images must have shape [H, W]"),
    ],
)
def test_options_are_the_command_s(
    function: Callable[..., object], values: dict[str, Any], message: str, expected: str
) -> None:
    assert in_words_of_the_command(message, function, "dsa-fast x", values) == expected


def test_close_names_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos/monday").mkdir(parents=True)

    def said(name: str) -> str:
        message = f"root must be a folder, got {name}: no such folder"
        return in_words_of_the_command(message, inspect, "dsa-fast inspect", {"root": Path(name)})

    assert said("PHTOS").endswith("got PHTOS: no such folder; did you mean photos?")
    assert said("photo/monday").endswith("; did you mean photos/monday?")
    assert said("photos/mondy").endswith("; did you mean photos/monday?")
    assert said("elsewhere").endswith("got elsewhere: no such folder")
    assert said("/").endswith("got /: no such folder")


def test_swapped_arguments_and_the_folder_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my people").mkdir()
    Path("run/checkpoints").mkdir(parents=True)
    Path("run/checkpoints/last.ckpt").touch()
    Path("index").mkdir()
    Path("index/current.json").touch()
    people, checkpoint = Path("my people"), Path("run/checkpoints/last.ckpt")

    def said(function: Callable[..., object], name: str, **values: Path) -> str:
        return in_words_of_the_command("it failed", function, f"dsa-fast {name}", values)

    swapped = said(evaluate, "eval", checkpoint=people, root=checkpoint)
    assert swapped == "it failed; CHECKPOINT and ROOT are swapped: dsa-fast eval run/checkpoints/last.ckpt 'my people'"
    assert "; INDEX and SOURCE are swapped: " in said(query, "search query", index=people, source=Path("index"))
    assert said(evaluate, "eval", checkpoint=Path("run"), root=people).endswith(
        "whose checkpoint is " + str(checkpoint)
    )
    assert said(evaluate, "eval", checkpoint=checkpoint, root=people) == "it failed"


def test_kinds_of_files_are_the_package_s() -> None:
    """`words` must not import PyTorch, so it names the files itself."""
    from dsa_fast.cli import words
    from dsa_fast.deploy import index, sidecar

    assert set(words._MODELS) == {".ckpt", *sidecar.SUFFIXES.values()}
    assert words._MARK == index._MARK
