"""The documentation's claims that a program can check: paths, links, commands, figures, configurations."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dsa_fast.cli import COMMANDS, commands_of, main
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
    assert named <= set(COMMANDS)
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
    functions = []
    for name in COMMANDS:
        found = commands_of(name)
        functions += [f"dsa_fast.cli.{name}.{each}" for each in (found if isinstance(found, Mapping) else [name])]
    assert sorted(functions) == sorted(re.findall(r"^::: (\S+\.\S+\.\S+)$", text, re.M))


def results(suite: str) -> list[dict[str, Any]]:
    """The rows that benchmarks/run.py measured on the processor that README names."""
    rows: list[dict[str, Any]] = json.loads((ROOT / "benchmarks" / "results" / f"{suite}_cpu_avx512.json").read_text())[
        "rows"
    ]
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


def commands(page: Path) -> list[list[str]]:
    """The `dsa-fast` command lines of a page's shell blocks and of its code words; placeholders stay as they are."""
    text = page.read_text()
    lines = "\n".join(re.findall(r"```(?:bash|sh)\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    found = []
    for line in [*lines, *(word for word in code_words(text) if word.startswith("dsa-fast "))]:
        for part in re.split(r"&&|;|\bdo\b", line.split(" #")[0]):
            start = part.find("dsa-fast ")
            words = shlex.split(part[start:])[1:] if start >= 0 else []
            if len(words) > 1 and words[0] in COMMANDS and not {"--help", "..."} & set(words) and "$" not in part:
                found.append(words)
    return found


# The changelog also shows what commands were.
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_commands_have_the_options_that_the_page_gives_them(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in commands(page):
        files = [after for word, after in itertools.pairwise(words) if word == "--config"]
        if any(name.endswith(".yaml") or name != name.lower() for name in files):  # the reader's own file, or rows/ROW
            continue
        try:
            status = main([*words, "--print_config"])
        except SystemExit as end:
            status = int(end.code or 0)
        assert status == 0, f"dsa-fast {' '.join(words)}\n{capsys.readouterr().err}"
