"""The `eval` suite of run.py: scores and re-ranking at the sizes of Market-1501 and MSMT17, compared with torchreid.

Features are people's centers with noise. torchreid is read from the checkout in `--peer`, and skipped without one. Its
compiled ranking needs `python setup.py build_ext --inplace` in `torchreid/metrics/rank_cylib`. Large tasks run in
separate processes, which report their memory: the peak resident size minus the size after the features are made.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from common import print_table, say
from torch import Tensor

from dsa_fast.evaluation import EvaluationResult, evaluate, evaluate_distances
from dsa_fast.evaluation.rerank import k_reciprocal

MARKET = (3368, 15913, 750)  # queries, gallery without junk, people
MSMT17 = (11659, 82161, 3060)
QUICK = (300, 1500, 60)
PATIENCE = 270  # seconds for a task in a separate process


def make_set(size: tuple[int, int, int], width: int) -> tuple[list[Tensor], list[Tensor]]:
    """Makes features, pids and camids of the queries and of the gallery. An eighth of the gallery are distractors."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery, people = size
    centers = torch.randn(people + 1, width, generator=generator) * (4 / width**0.5) ** 0.5
    sets = []
    for count in (queries, gallery):
        pids = torch.randint(1, people + 1, (count,), generator=generator)
        if count == gallery:
            pids[torch.rand(count, generator=generator) < 0.125] = 0
        features = torch.empty(count, width)
        for start in range(0, count, 1024):
            rows = features[start : start + 1024].normal_(generator=generator)
            known = pids[start : start + 1024]
            rows += centers[known] * (known > 0)[:, None]
        sets.append([features, pids, torch.randint(1, 7, (count,), generator=generator)])
    return sets[0], sets[1]


def seconds(run: Callable[[], Any], times: int) -> tuple[list[float], Any]:
    """Returns the seconds of each run, and the last result."""
    taken, result = [], None
    for _ in range(times):
        begin = time.perf_counter()
        result = run()
        taken.append(time.perf_counter() - begin)
    return taken, result


def row(name: str, taken: list[float], **more: Any) -> dict[str, Any]:
    """Makes a row of the table. The best run was disturbed least by other programs on the machine."""
    return {"name": name, "best_s": min(taken), "all_s": [round(t, 4) for t in taken], **more}


def load(root: Path, path: str, name: str) -> ModuleType | None:
    """Loads a module of a checkout by its file, without its package. Returns None if it does not load."""
    found = sorted(root.glob(path))
    spec = importlib.util.spec_from_file_location(name, found[0]) if found else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec.loader.exec_module(module)
    except Exception as error:
        print(f"benchmarks: {found[0]} does not load ({error}); left out")
        return None
    return module


def same(ours: EvaluationResult, cmc: Any, mean: float) -> None:
    """Stops the benchmark unless R1, R5, R10 and mAP agree to six digits."""
    pairs = [(ours.mAP, mean), *((ours.rank(k), float(cmc[k - 1])) for k in (1, 5, 10))]
    if any(abs(a - b) > 1e-6 for a, b in pairs):
        raise SystemExit(f"benchmarks: scores differ, nothing is reported: {pairs}")


def bench_market(width: int, device: torch.device, quick: bool, peer: Path | None) -> list[dict[str, Any]]:
    """Measures distances and scores at Market-1501's size."""
    query, gallery = make_set(QUICK if quick else MARKET, width)
    about = {"size": f"{len(query[0])} x {len(gallery[0])} x {width}"}
    times = 2 if quick else 7

    def sync() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    q, g = query[0].to(device), gallery[0].to(device)

    def product() -> None:
        q @ g.T
        sync()

    labels = (*query[1:], *gallery[1:])
    ours_s, products_s = [], []
    for _ in range(times):  # in turn, so both run under the same conditions
        taken, ours = seconds(lambda: evaluate(q, query[1], query[2], g, gallery[1], gallery[2]), 1)
        ours_s += taken
        products_s += seconds(product, 1)[0]
    rows = [
        row("dsa_fast: distances and scores", ours_s, **about, scores=ours.summary()),
        row("PyTorch: the matrix product alone", products_s, **about),
    ]
    if peer is None or device.type != "cpu":
        return rows
    distance = load(peer, "torchreid/metrics/distance.py", "torchreid_distance")
    compiled = load(peer, "torchreid/metrics/rank_cylib/rank_cy.*.so", "rank_cy")
    plain = load(peer, "torchreid/metrics/rank.py", "torchreid_rank")
    if distance is None or compiled is None:
        print("benchmarks: torchreid's distances or its compiled ranking are missing; left out")
        return rows
    arrays = [labels[i].numpy() for i in (0, 2, 1, 3)]
    taken_d, matrix = seconds(lambda: distance.compute_distance_matrix(query[0], gallery[0], "cosine").numpy(), 2)
    taken_r, (cmc, mean) = seconds(lambda: compiled.evaluate_cy(matrix, *arrays, 50), 2)
    same(ours, cmc, mean)
    total = min(taken_d) + min(taken_r)
    rows.append(row("torchreid: distances", taken_d, **about))
    rows.append(row("torchreid: compiled ranking", taken_r, **about))
    rows[0]["times_faster_than_torchreid_compiled"] = total / min(ours_s)
    if plain is not None and width <= 256:
        taken_p, (cmc, mean) = seconds(lambda: plain.evaluate_rank(matrix, *arrays, 50, use_cython=False), 1)
        same(ours, cmc, mean)
        rows.append(row("torchreid: Python ranking", taken_p, **about))
        rows[0]["times_faster_than_torchreid_python"] = (min(taken_d) + min(taken_p)) / min(ours_s)
    return rows


def resident() -> int:
    """Returns the bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def child(task: str, quick: bool, peer: str) -> dict[str, Any]:
    """Runs one task, in a separate process so that its memory can be measured."""
    if task == "msmt17":
        query, gallery = make_set(QUICK if quick else MSMT17, 2048)
        before = resident()
        taken, result = seconds(lambda: evaluate(*query, *gallery), 1)
        name = "dsa_fast: distances and scores"
    else:
        query, gallery = make_set(QUICK if quick else MARKET, 2048)
        before = resident()
        if task == "rerank":
            taken, result = seconds(lambda: rerank_ours(query, gallery), 1)
            name = "dsa_fast: k-reciprocal re-ranking and scores"
        else:
            module = load(Path(peer), "torchreid/utils/rerank.py", "torchreid_rerank")
            if module is None:
                return {}
            taken, result = seconds(lambda: rerank_theirs(module, query, gallery), 1)
            name = "original code: k-reciprocal re-ranking and scores"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    size = f"{len(query[0])} x {len(gallery[0])} x {query[0].shape[1]}"
    return row(name, taken, size=size, gib_above_features=(peak - before) / 2**30, scores=result.summary())


def rerank_ours(query: list[Tensor], gallery: list[Tensor]) -> EvaluationResult:
    """Scores our re-ranking, which works in blocks."""
    return evaluate_distances(k_reciprocal(query[0], gallery[0]), *query[1:], *gallery[1:])


def rerank_theirs(module: ModuleType, query: list[Tensor], gallery: list[Tensor]) -> EvaluationResult:
    """Scores the original code, which squares the distances that it is given."""
    q, g = (torch.nn.functional.normalize(part[0]) for part in (query, gallery))

    def distances(a: Tensor, b: Tensor) -> Any:
        return (2 - 2 * (a @ b.T)).clamp_(min=0).sqrt_().numpy()

    matrix = module.re_ranking(distances(q, g), distances(q, q), distances(g, g))
    return evaluate_distances(matrix, *query[1:], *gallery[1:])


def run_child(task: str, quick: bool, peer: Path | None) -> dict[str, Any]:
    """Starts a process for a task and returns its result."""
    command = [sys.executable, __file__, task, str(int(quick)), str(peer or ""), str(torch.get_num_threads())]
    try:
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE).stdout
    except subprocess.TimeoutExpired:
        print(f"benchmarks: {task} took longer than {PATIENCE} s; left out")
        return {}
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def add_options(group: argparse._ArgumentGroup) -> None:
    """The suite's own options."""
    group.add_argument("--peer", type=Path, help="a checkout of torchreid with its Cython extension built")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Runs everything. The larger sets and re-ranking run on the CPU only."""
    device, quick, peer = options.device, options.quick, options.peer
    if peer is None:
        print("benchmarks: no --peer, torchreid is left out")
    rows = bench_market(256, device, quick, peer) + bench_market(4096, device, quick, peer)
    if device.type == "cpu":
        ours = run_child("rerank", quick, peer)
        theirs = run_child("rerank_peer", quick, peer) if peer is not None else {}
        rows += [line for line in (run_child("msmt17", quick, peer), ours) if line]
        if ours and theirs:
            rows[-1]["times_faster_than_original"] = theirs["best_s"] / rows[-1]["best_s"]
            if abs(theirs["scores"]["mAP"] - rows[-1]["scores"]["mAP"]) > 1e-5:
                raise SystemExit(f"benchmarks: re-ranking differs from the original: {theirs} and {rows[-1]}")
            rows.append(theirs)
    return {"load_average": os.getloadavg(), "rows": rows}


def show(result: dict[str, Any]) -> None:
    """Prints the rows as a table."""
    lines = []
    for line in result["rows"]:
        gib, scores = line.get("gib_above_features"), line.get("scores")
        ratios = [f"{value:.1f}" for key, value in line.items() if key.startswith("times_faster")]
        lines.append(
            (
                line["size"],
                line["name"],
                f"{line['best_s']:.3f}",
                "" if gib is None else f"{gib:.2f}",
                "" if scores is None else f"{scores['mAP']:.6f}",
                ", ".join(ratios),
            )
        )
    columns = ("queries x gallery x width", "what", "best s", "GiB above the features", "mAP", "times faster")
    print_table("evaluation, float32 features", columns, lines)
    say("load average at the end " + ", ".join(f"{value:.1f}" for value in result["load_average"]))


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    print(json.dumps(child(sys.argv[1], sys.argv[2] == "1", sys.argv[3])))
