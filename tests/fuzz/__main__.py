"""`python -m tests.fuzz --minutes 10`: runs all targets in turn, and counts cases by class: tried, held, failed."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.targets import TARGETS, Target

SECONDS = 60.0  # a slower case has failed; a busy machine is slow too


def run(target: Target, case: Any) -> str | None:
    """Runs one case; returns what is wrong with it, or None."""
    start = time.perf_counter()
    try:
        target.run(case)
    except target.expected:
        pass
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})"
    seconds = time.perf_counter() - start
    return f"it took {seconds:.0f} s" if seconds > SECONDS else None


def fuzz(name: str, examples: int, number: int, note: Path | None = None) -> tuple[int, list[str]]:
    """Runs a target's cases; returns their number, and what failed with the case."""
    target = TARGETS[name]
    failed: list[str] = []
    tried = 0

    @settings(
        max_examples=examples, database=None, deadline=None, phases=[Phase.generate], derandomize=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @seed(number)
    @given(case=target.cases)
    def cases(case: Any) -> None:
        nonlocal tried
        tried += 1
        if note is not None:
            note.write_text(f"{name}: {case!r}")
        wrong = run(target, case)
        if wrong is not None:
            failed.append(f"{name}: {wrong}\n    {case!r}"[:2000])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases()
    return tried, failed


def _child(name: str, examples: int, number: int, note: Path, answer: Any) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123  (until the process ends)
    answer.send(fuzz(name, examples, number, note))


def _write(out: Path, number: int, tried: Counter[str], failed: dict[str, list[str]]) -> None:
    counts = {kind: {"tried": tried[kind], "failed": len(failed.get(kind, []))} for kind in sorted(tried)}
    out.write_text(json.dumps({"seed": number, "counts": counts, "failed": failed}, indent=2) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--cases", type=int, default=100, help="of a target in its turn")
    parser.add_argument("--only", default="", help="names of targets up to their comma, separated by commas")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the counts, written as they grow")
    given_ = parser.parse_args()
    names = [name for name in TARGETS if not given_.only or name.partition(",")[0] in given_.only.split(",")]
    tried: Counter[str] = Counter()
    failed: dict[str, list[str]] = {}
    end, number = time.monotonic() + 60 * given_.minutes, given_.seed
    note = Path(f"/tmp/dsa_fast_fuzz_{os.getpid()}.txt")
    context = multiprocessing.get_context("fork")  # a crash ends only the child
    while time.monotonic() < end:
        for name in names:
            if time.monotonic() >= end:
                break
            mine, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(name, given_.cases, number, note, theirs))
            child.start()
            theirs.close()
            kind = TARGETS[name].kind
            try:
                count, wrong = mine.recv() if mine.poll(600) else (1, [f"{name}: it did not end: {note.read_text()}"])
            except EOFError:
                child.join()
                count, wrong = 1, [f"{name}: the process ended with {child.exitcode}: {note.read_text()[:2000]}"]
            child.kill()
            child.join()
            tried[kind] += count
            failed.setdefault(kind, []).extend(wrong)
            for each in wrong:
                print(f"FAILED {each}", flush=True)
            number += 1
            if given_.out is not None:
                _write(given_.out, given_.seed, tried, failed)
    note.unlink(missing_ok=True)
    width = max(map(len, tried), default=5)
    print(f"seed {given_.seed}\n{'class':{width}}  {'tried':>8}  {'held':>8}  {'failed':>6}")
    for kind in sorted(tried):
        bad = len(failed.get(kind, []))
        print(f"{kind:{width}}  {tried[kind]:8,}  {tried[kind] - bad:8,}  {bad:6,}")
    total, bad = sum(tried.values()), sum(map(len, failed.values()))
    print(f"{'all':{width}}  {total:8,}  {total - bad:8,}  {bad:6,}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
