"""Runs every command and snippet of README.md, CONTRIBUTING.md and docs/, as written there, on small data.

Each page starts in its own folder, with what readers bring themselves and with what the README's commands make. `SMALL`
adds options that make a command short; everything else is the page's. A comment before a block says what cannot run:

    <!-- not run: REASON -->                   the block below
    <!-- not run: WORDS: REASON -->            its lines that contain WORDS, which stand in double quotes
    <!-- before: CODE -->                      Python that prepares what the block below takes for granted

`python .ci/walk.py [PAGE ...]` runs all pages or some, prints what ran and what did not, and fails if a block fails.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import string
import subprocess
import sys
import tempfile
import textwrap
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
_TINY = (
    "--model.backbone resnet18 --model.pretrained null --model.width 0.125 --augment.size [64,32] "
    "--augment.dsap_size 8 --augment.pad 2 --data.p 2 --data.k 2 --data.workers 0 --trainer.max_epochs 1 "
    "--trainer.precision 32-true --trainer.progress false"
)
#: Options that make a command short. They come last, so they win.
SMALL = {
    "synth": "--identities 8 --cameras 2 --images_per_camera 2",
    "fit": _TINY,
    "tables": f"{_TINY} --seeds 0 --rows two_branches,dsa --synth.identities 8 --synth.cameras 2"
    " --synth.images_per_camera 2",
    "eval": "--workers 0",
    "rank": "--workers 0 --count 4",
    "export": "--workers 0 --calibration_images 8 --batch 1,2,4",
}
#: The same for options that a command has.
SMALLER = {"--strengths": "--strengths 0.5"}


@dataclass
class Block:
    """A fenced block of a page, with the comments before it."""

    page: str
    line: int
    language: str
    code: str
    before: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)  # words and reason; no words: all of it

    def reason(self, command: str) -> str | None:
        return next((why for words, why in self.skipped if words in command), None)


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that are in a language."""
    text = (ROOT / page).read_text(encoding="utf-8")
    fence = re.compile(
        r"(?P<comments>(?:^[ ]*<!-- (?:not run|before):.*?-->\n+)*)"
        r"^ *```(?P<language>\w+)\n(?P<code>.*?)^ *```$",
        re.M | re.S,
    )
    for match in fence.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        block = Block(page, line, match["language"], textwrap.dedent(match["code"]))
        for kind, said in re.findall(r"<!-- (not run|before):\s*(.*?)\s*-->", match["comments"], re.S):
            if kind == "before":
                block.before += textwrap.dedent(said) + "\n"
            else:
                words, why = re.fullmatch(r'(?:"([^"]*)":\s*)?(.*)', said, re.S).groups()  # type: ignore[union-attr]
                block.skipped.append((words or "", " ".join(why.split())))
        yield block


def commands(code: str) -> list[str]:
    """The commands of a shell block, without comments."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in code.replace("\\\n", " ").splitlines())
    return [command.strip() for line in lines if line for command in line.split(" && ")]


class Walk:
    """Runs blocks and counts them."""

    def __init__(self, work: Path) -> None:
        self.work, self.kept = work, work / "kept"
        self.kept.mkdir()
        self.ran = {"command": 0, "snippet": 0}
        self.not_run: list[str] = []
        self.failed: list[str] = []

    def page(self, page: str) -> None:
        folder = self.work / page.replace("/", "_")
        shutil.copytree(self.kept, folder)
        if page == "README.md":
            shutil.rmtree(folder / "people")  # its first command makes it
        if page == "docs/training.md":
            shutil.rmtree(folder / "runs")  # so does its first command
        os.chdir(folder)
        names: dict[str, Any] = {"__name__": "__main__"}
        variables: dict[str, str] = {}
        for block in blocks(page):
            where = f"{page}:{block.line}"
            if block.before:
                self._run(f"{where} (before)", lambda block=block: exec(block.before, names))
            if block.language in ("bash", "sh"):
                for command in commands(block.code):
                    if assigned := re.fullmatch(r"(?:export )?(\w+)=(\S+|\"[^\"]*\")", command):
                        variables[assigned[1]] = assigned[2].strip('"')
                    else:
                        why = block.reason(command)
                        expanded = string.Template(command).safe_substitute(variables)
                        self._count("command", where, command, why, lambda expanded=expanded: self._command(expanded))
            elif block.language == "python":
                why = block.reason(block.code)
                first = next((line for line in block.code.splitlines() if "import" not in line and line), "")
                self._count("snippet", where, first, why, lambda block=block: _execute(block, names))
            elif block.language == "yaml":
                self._count("snippet", where, "YAML", block.reason(block.code), lambda block=block: self._yaml(block))
            elif block.language in ("cmake", "cpp", "csv"):
                why = block.reason(block.code) or ("" if block.language == "csv" else None)
                if why is None:
                    self.failed.append(f"{where}: a block in {block.language} must say why it is not run")
                elif why:
                    self.not_run.append(f"{where}: {block.language}: {why}")

    def _count(self, kind: str, where: str, what: str, why: str | None, run: Any) -> None:
        if why is not None:
            self.not_run.append(f"{where}: {what}: {why}")
        elif self._run(f"{where}: {what}", run):
            self.ran[kind] += 1

    def _run(self, what: str, run: Any) -> bool:
        output, start = io.StringIO(), time.perf_counter()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                run()
        except (Exception, SystemExit) as error:
            self.failed.append(what)
            shown = output.getvalue()[-1500:]
            print(f"FAILED   {what}\n{textwrap.indent(shown, '    | ')}\n    {error!r}", flush=True)
            if not isinstance(error, AssertionError):
                traceback.print_exc(limit=-3)
            return False
        print(f"{time.perf_counter() - start:6.1f} s  {what}", flush=True)
        return True

    def _command(self, command: str) -> None:
        words = shlex.split(command)
        if words[0] == "dsa-fast":
            from dsa_fast.cli import main

            extra = "" if "--help" in words else SMALL.get(words[1], "")
            extra = " ".join([extra, *(smaller for option, smaller in SMALLER.items() if option in words)])
            try:
                status = main([*words[1:], *extra.split()])
            except SystemExit as end:
                status = int(end.code or 0)
            assert status == 0 or (status == 1 and words[1] == "inspect"), f"exit status {status}"
            return
        done = subprocess.run(["bash", "-ec", command], capture_output=True, text=True, timeout=300)
        print(done.stdout, done.stderr)
        assert done.returncode == 0, f"exit status {done.returncode}"

    def _yaml(self, block: Block) -> None:
        """Writes the file that the block's first line names, and runs the command behind it."""
        first = block.code.splitlines()[0]
        name, command = re.fullmatch(r"# (\S+\.yaml): (.*)", first).groups()  # type: ignore[union-attr]
        Path(name).write_text(block.code)
        self._command(command)


def _execute(block: Block, names: dict[str, Any]) -> None:
    blank = "\n" * block.line  # so that an error names the page's line
    exec(compile(blank + block.code, str(ROOT / block.page), "exec"), names)


def readers_files(kept: Path) -> None:
    """Makes what readers bring themselves, under the names that the pages give it."""
    from dsa_fast.data.synth import SynthConfig, make_dataset, make_identity, person_keypoints

    make_dataset(kept / "DIR", SynthConfig(identities=8, cameras=2, images_per_camera=2, seed=2))
    for name in ("DATA", "people"):
        shutil.copytree(kept / "DIR", kept / name)
    for name in ("FOLDER", "FOLDER_OF_CROPS", "PHOTO_OR_FOLDER"):
        shutil.copytree(kept / "DIR" / "query", kept / name)
    photos = sorted((kept / "DIR" / "query").glob("*.jpg"))
    for name, photo in zip(("a.jpg", "b.jpg", "photo.jpg", "PHOTO"), photos, strict=False):
        shutil.copy(photo, kept / name)
    shutil.copy(kept / "DIR" / "iuv" / "query" / f"{photos[2].stem}.png", kept / "photo_IUV.png")
    for photo in sorted((kept / "DIR").glob("[bq]*/*_c*.jpg")):  # a folder per person, without cameras
        if photo.name[:4] != "0000" and photo.name[0] != "-":
            place = kept / "photos" / f"person{photo.name[:4]}"
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, place)
    joints = person_keypoints(make_identity(0)).ravel().tolist()
    names = [path.name for path in sorted((kept / "DIR").rglob("*.jpg"))]
    coco = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
        "annotations": [{"image_id": number, "keypoints": joints} for number in range(len(names))],
    }
    for name in ("joints.json", "keypoints.json"):
        (kept / name).write_text(json.dumps(coco))


def readme_files(walk: Walk) -> None:
    """Keeps what the README's commands made, under the names that other pages give it."""
    made, kept = walk.work / "README.md", walk.kept
    for name in ("runs", "INDEX"):
        shutil.copytree(made / name, kept / name)
    shutil.copy(made / "vectors.parquet", kept / "vectors.parquet")
    shutil.copy(made / "vectors.parquet", kept / "more.parquet")
    checkpoints = kept / "runs" / "quick" / "checkpoints"
    for name in ("last.ckpt", "CHECKPOINT"):
        shutil.copy(checkpoints / "last.ckpt", kept / name)
    for name in ("mf.onnx", "last_int8.onnx"):
        shutil.copy(checkpoints / "last_int8.onnx", kept / name)
        shutil.copy(checkpoints / "last_int8.onnx.json", kept / f"{name}.json")


def main() -> int:
    pages = sys.argv[1:] or PAGES
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        walk = Walk(Path(folder))
        readers_files(walk.kept)
        walk.page("README.md")
        readme_files(walk)
        for page in pages:
            if page != "README.md":
                walk.page(page)
        os.chdir(ROOT)
    print(f"\nNot run, {len(walk.not_run)}:")
    print("\n".join(f"  {line}" for line in walk.not_run))
    ran = (
        f"{walk.ran['command']} commands and {walk.ran['snippet']} snippets ran in {time.perf_counter() - start:.0f} s"
    )
    print(f"\n{ran}; {len(walk.not_run)} are not run, for the reasons above; {len(walk.failed)} failed")
    print("".join(f"\nFAILED {line}" for line in walk.failed))
    return 1 if walk.failed else 0


if __name__ == "__main__":
    sys.exit(main())
