"""The documentation's claims that a program can check: paths, links, commands, figures, configurations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsa_fast.cli import COMMANDS
from dsa_fast.configs import find_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "gpu_todo.md"]
FOLDERS = ("dsa_fast", "csrc", "tests", "docs", "benchmarks", "examples", "cmake", ".ci", ".github")
GENERATED = {"docs/first_hour.md"}  # by docs/hooks.py


def code_words(text: str) -> list[str]:
    """What stands between single backticks, outside code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_contributing_names_files_that_exist() -> None:
    words = code_words((ROOT / "CONTRIBUTING.md").read_text())
    paths = [word for word in words if re.fullmatch(r"[\w./-]+", word) and word.split("/")[0] in FOLDERS]
    paths = [path for path in paths if "NAME" not in path and path != "benchmarks/results/"]
    assert len(paths) > 30
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_contributing_names_each_package() -> None:
    words = set(code_words((ROOT / "CONTRIBUTING.md").read_text()))
    packages = {f"dsa_fast/{init.parent.name}/" for init in (ROOT / "dsa_fast").glob("*/__init__.py")}
    assert packages <= words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    places = [(page.parent / link).resolve() for link in links if link]
    missing = [place for place in places if not place.exists()]
    assert [place for place in missing if place.relative_to(ROOT).as_posix() not in GENERATED] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_and_configurations_exist(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(r"dsa-fast ([a-z]+)\b", "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))))
    assert named <= {*COMMANDS, "warp"}
    for config in re.findall(r"--config ([\w/.$]+)", text):
        if config == config.lower() and not config.endswith(".yaml"):
            find_config(config)


def test_every_page_is_in_the_navigation() -> None:
    def pages(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [page for child in (node.values() if isinstance(node, dict) else node) for page in pages(child)]

    # Tags such as !!python/name are not used, so that the file is plain YAML.
    listed = pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    there = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(there | {path.removeprefix("docs/") for path in GENERATED})


def test_every_command_is_in_the_api_reference() -> None:
    text = (ROOT / "docs" / "api" / "cli.md").read_text()
    assert {f"dsa_fast.cli.{name}.{name}" for name in COMMANDS} == set(re.findall(r"^::: (\S+\.\S+\.\S+)$", text, re.M))


def results(suite: str) -> list[dict[str, Any]]:
    """The rows that benchmarks/run.py measured."""
    rows: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "results" / f"{suite}_cpu.json").read_text())["rows"]
    return rows


def measured(suite: str, key: str, **like: Any) -> float:
    """The time of the one row with these values."""
    (found,) = [row[key] for row in results(suite) if like.items() <= row.items()]
    return float(found)


def test_speeds_in_the_readme_were_measured() -> None:
    """The README's table holds the figures of benchmarks/results, with three digits."""
    real, market = {"batch": 64, "input": "real"}, {"size": "3368 x 15913 x 256"}
    expected = {
        "`warp`": [measured("warp", "median_s", name=name, **real) for name in ("dsa_fast last", "PyTorch index_put")],
        "`warp_densepose`": [
            measured("chart", "median_s", name=name, instances=8)
            for name in ("dsa_fast last", "detectron2, then index_put")
        ],
        "training transform": [
            measured("transform", "median_s", name=name, batch=64, stored=[128, 64])
            for name in ("dsa_fast", "torchvision, warp")
        ],
        "`Encoder`": [
            measured("infer", "p50_s", name="OpenVINO", precision="int8", batch=1),
            measured("infer", "p50_s", name="PyTorch eager", batch=1),
        ],
        "evaluation of Market-1501": [
            measured("eval", "best_s", name="dsa_fast: distances and scores", **market),
            sum(
                measured("eval", "best_s", name=f"torchreid: {step}", **market)
                for step in ("distances", "compiled ranking")
            ),
        ],
    }
    section = (ROOT / "README.md").read_text().split("## Speed")[1]
    seen = {}
    for line in re.findall(r"^\| ([^|]+) \| ([\d.]+) (m?s) \| ([\d.]+) (m?s), [^|]+ \| ([\d.]+) x \|$", section, re.M):
        title, ours, unit, theirs, other_unit, ratio = line
        seen[title.split(",")[0].strip()] = line
        scale = {"ms": 1e-3, "s": 1.0}
        want = expected[title.split(",")[0].strip()]
        assert [float(ours) * scale[unit], float(theirs) * scale[other_unit]] == pytest.approx(want, rel=0.006), title
        assert float(ratio) == pytest.approx(want[1] / want[0], rel=0.006), title
    assert set(seen) == set(expected)
