"""`dsa-fast tables`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from dsa_fast.cli.fit import fit
from dsa_fast.cli.parser import make_parser
from dsa_fast.cli.plain import parse_options
from dsa_fast.cli.synth import render_people
from dsa_fast.configs import find_config, read_yaml, row_names
from dsa_fast.configs.synth import SynthConfig
from dsa_fast.files import read_json
from dsa_fast.terminal import console as open_console

if TYPE_CHECKING:
    from dsa_fast.configs.training import DataConfig
    from dsa_fast.tables import Training, TrainingScores

_Number = TypeVar("_Number", int, float)

_PRETRAIN = "pretrain"  # a row, although its file is not in `rows`
#: Options of `SynthConfig` that a sweep scales. They displace or hide a person's parts in the image.
MISALIGNMENTS = ("pose", "view", "box", "occlusion")


def tables(
    *,
    rows: str = "paper",
    seeds: str = "0,1,2",
    base: str = "tiny",
    out: Path = Path("runs/tables"),
    strengths: str | None = None,
    unlabeled: Path | None = None,
    unlabeled_iuv: Path | None = None,
    synth: SynthConfig = SynthConfig(identities=160),
    options: list[str] = [],  # noqa: B006  (shown by --help)
) -> None:
    """Train and test the rows of the paper's tables 3, 4 and 5, and write the scores next to the paper's numbers.

    Each row is trained once per seed and tested after the last epoch; `pretrain` has nothing to test. To continue after
    Ctrl-C, repeat the command. It keeps finished training runs and resumes an interrupted one. You can add seeds or
    rows later. Without --data.root, the command renders synthetic people.

    Args:
        rows: rows to train, separated by commas: names of files in the folder `rows` next to `base` or in the package's
            `rows`, or paths of YAML files; `pretrain`, which trains the backbone of later rows; `paper` for all rows of
            the paper.
        seeds: random seeds of weights, batches and transforms, separated by commas. The people stay the same.
        base: configuration shared by all rows: a YAML file or a name of the package's (`tiny`, `small`, `dsa_reid`). A
            row's file contains only its own changes.
        out: folder for the training runs (ROW/seedN), table.json, table.md and table.png, and synthetic people.
        strengths: instead of the table, sweep the misalignment of synthetic people. These factors, separated by commas,
            scale the options pose, view, box and occlusion of `synth`; 1 keeps them, 0 removes them, and the result is
            at most 1. Writes sweep.json, sweep.md and sweep.png, with each row's gain over the first row.
        unlabeled: images with IUV maps for the row `pretrain`: a folder, or a data set, of which only the training
            images are taken. They must show nobody who is tested. By default the training images of the other rows.
        unlabeled_iuv: folder of their maps; by default the subfolder `iuv` of `unlabeled`.
        synth: options of the synthetic people, used without --data.root.
        options: more options of dsa-fast fit, which apply to all rows; pass them directly: --data.root DIR, --data.p 8,
            --trainer.max_epochs 12.

    Examples:
        dsa-fast tables --rows two_branches,pretrain,dsa_plus --seeds 0,1,2
        dsa-fast tables --base dsa_reid --data.root DIR --out runs/tables
    """
    from dsa_fast.tables import PAPER_ROWS, check_rows, folder_name, run_trainings, sweep_report, table_report
    from dsa_fast.tables.rows import rows_of

    console = open_console()
    root = any(option.split("=")[0] == "--data.root" for option in options)
    names = list(dict.fromkeys(row.config for row in PAPER_ROWS)) if rows == "paper" else _split("rows", rows)
    numbers = [_number("seeds", text, int) for text in _split("seeds", seeds)]
    factors: list[float | None] = [None]
    if strengths is not None:
        if root:
            raise ValueError("strengths needs synthetic people, got --data.root too")
        factors = [_number("strengths", text, float) for text in _split("strengths", strengths)]
        if any(factor is None or not math.isfinite(factor) or factor < 0 for factor in factors):
            raise ValueError(f"strengths must be finite numbers, at least 0, got {strengths}")
    base_file = find_config(base, "base")
    files = {Path(name).stem: _row_file(base_file, name) for name in names}
    trainings = []
    for factor in factors:
        folder = out if factor is None else out / f"strength_{factor:g}"
        given = list(options)
        if not root:
            given += ["--data.root", str(folder / "people")]
        for seed in numbers:  # a complete table early, then more seeds
            for name, file in files.items():
                training = _training(base_file, file, given, name, seed, folder / name / f"seed{seed}", factor)
                if unlabeled is not None and not training.tested:
                    training = replace(training, data=_unlabeled(training.data, unlabeled, unlabeled_iuv))
                trainings.append(training)
        check_rows(trainings)
        _check_unlabeled(trainings, unlabeled, unlabeled_iuv)
        if not root:
            _make_people(folder / "people", synth if factor is None else scaled(synth, factor), console)
    people = "synthetic people"
    if root:
        tested = [training for training in trainings if training.tested]
        people = f"the data set {folder_name((tested or trainings)[0].data.root)}"
    details = (
        None if root else {"synth": synth.as_dict(), "scaled_by_strength": list(MISALIGNMENTS) if strengths else []}
    )
    report = table_report if strengths is None else sweep_report
    runs: list[TrainingScores] = []
    epochs = sum(training.trainer.max_epochs for training in trainings)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training", total=epochs)

        def done(training: Training, scores: TrainingScores, kept: bool) -> None:
            runs.append(scores)
            test = scores.scores.get(rows_of(training.config)[-1].test)
            found = f"mAP {100 * test['mAP']:.1f}, R1 {100 * test['R1']:.1f}" if test else "trained, nothing to test"
            seconds = "kept" if kept else "resumed" if scores.seconds is None else f"{scores.seconds:.0f} s"
            strength = "" if training.strength is None else f"strength {training.strength:g}, "
            bar.console.print(
                f"{len(runs)}/{len(trainings)}  {strength}{training.config}, seed {training.seed}: {found} ({seconds})",
                soft_wrap=True,
            )
            if any(run.scores for run in runs):
                report(runs, out, people=people, details=details)

        run_trainings(trainings, done=done, advance=lambda count: bar.advance(task, count))
    if not any(run.scores for run in runs):
        console.print(f"Trained in {out}. No row has features to test, so there is no table.", soft_wrap=True)
        return
    text = report(runs, out, people=people, details=details)
    console.print(f"\n{text}\nWritten to {out}", soft_wrap=True)


# Options of these groups are passed on to dsa-fast fit.
tables.passed_on = ("data", "model", "loss", "optim", "augment", "trainer", "guide")  # type: ignore[attr-defined]


def scaled(config: SynthConfig, factor: float) -> SynthConfig:
    """Returns the same people with `factor` times the misalignment. Each strength is at most 1."""
    return replace(config, **{name: min(1.0, factor * getattr(config, name)) for name in MISALIGNMENTS})


def _split(name: str, text: str) -> list[str]:
    items = list(dict.fromkeys(item.strip() for item in text.split(",") if item.strip()))
    if not items:
        raise ValueError(f"{name} must be separated by commas, got {text!r}")
    return items


def _number(name: str, text: str, kind: type[_Number]) -> _Number:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{name} must be numbers separated by commas, got {text!r}") from None


def _row_file(base: Path, name: str) -> Path:
    next_to_base = base.parent / "rows" / f"{name}.yaml"
    if next_to_base.is_file():
        return next_to_base
    try:
        return find_config(name if name.endswith((".yaml", ".yml")) or name == _PRETRAIN else f"rows/{name}")
    except FileNotFoundError:
        known = sorted({path.stem for path in (base.parent / "rows").glob("*.yaml")} | {_PRETRAIN, *row_names()})
        raise FileNotFoundError(f"rows must be some of {', '.join(known)}, or YAML files, got {name}") from None


def _training(
    base: Path, file: Path, options: Sequence[str], name: str, seed: int, out: Path, strength: float | None
) -> Training:
    from dsa_fast.tables import ROW, Training
    from dsa_fast.training.module import check_guides

    row = read_yaml(file)
    model = row.get("model") if isinstance(row, dict) else None
    model = model if isinstance(model, dict) else {}
    files = ["--config", str(base), "--config", str(file)]
    arguments = [*files, *options]
    if model.get("branches") == "none":
        # Options of the network and its guides on the command line are for the rows with features.
        network, others = _split_options(options)
        arguments = [*files, *network, "--config", str(file), *others]
    parsed = parse_options(make_parser(fit, "dsa-fast tables"), arguments)
    parts = {part: parsed[part] for part in ("data", "model", "loss", "optim", "augment", "trainer", "guide")}
    # Weights on the command line are for the rows that do not start from another row.
    start = str(model.get("pretrained"))
    if start.startswith(ROW):
        parts["model"] = replace(parts["model"], pretrained=start)
    try:
        check_guides(parts["guide"], parts["model"])
    except ValueError as error:
        raise ValueError(f"{error} (in the row {name})") from None
    return Training(name, seed, out, strength=strength, **parts)


def _split_options(options: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits a command line into the options of the network and its guides, and the others."""
    groups: tuple[list[str], list[str]] = ([], [])
    own = 1
    for word in options:
        if word.startswith("--"):
            own = 0 if word.startswith(("--model", "--guide")) else 1
        groups[own].append(word)
    return groups


def _unlabeled(data: DataConfig, root: Path, iuv: Path | None) -> DataConfig:
    """Returns the data of a row that trains a backbone alone, with other images than the table's."""
    if root.resolve() == Path(data.root).resolve():  # held-out people stay out
        return data if iuv is None else replace(data, iuv=str(iuv))
    maps = None if iuv is None else str(iuv)
    return replace(data, root=str(root), iuv=maps, name="auto", options={}, validation_ids=0, test_root=None)


def _check_unlabeled(trainings: Sequence[Training], unlabeled: Path | None, iuv: Path | None) -> None:
    """Checks that `unlabeled` is used and has maps, before anything is trained."""
    from dsa_fast.training.data import read_unlabeled

    if unlabeled is None:
        if iuv is not None:
            raise ValueError(f"unlabeled_iuv must be the maps of unlabeled, got {iuv} without unlabeled")
        return
    alone = [training for training in trainings if not training.tested]
    if not alone:
        raise ValueError("rows must have pretrain to use unlabeled, got no row that trains a backbone alone")
    read_unlabeled(alone[0].data)


def _make_people(folder: Path, config: SynthConfig, console: Console) -> None:
    about = folder / "synth.json"
    if about.is_file():
        before = read_json(about)
        before = before.get("config") if isinstance(before, dict) else None
        if not isinstance(before, dict):
            raise ValueError(f"{about} must be of dsa-fast synth, got no settings in it")
        changed = [name for name, value in config.as_dict().items() if before.get(name) != value]
        if changed:
            raise ValueError(
                f"out must be another folder when synth changes: the people in {folder} differ in {', '.join(changed)}"
            )
        return
    render_people(folder, config, console)
