"""Runs the notebook and each program in examples/ in a process of its own, for one epoch where they train.

All are forked from one process that has imported what they import.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import dsa_fast.deploy
import dsa_fast.models
import dsa_fast.training  # noqa: F401


def code(example: Path) -> str:
    """The Python of a program or notebook."""
    text = example.read_text()
    if example.suffix == ".py":
        return text
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    assert "max_epochs=6" in text, "the notebook has another number of epochs"
    return text.replace("max_epochs=6", "max_epochs=1")


def run(example: Path) -> None:
    """Runs one as `python examples/NAME --epochs 1`."""
    text = code(example)
    sys.argv = [str(example), *(["--epochs", "1"] if '"--epochs"' in text else [])]
    exec(compile(text, str(example), "exec"), {"__name__": "__main__", "__file__": str(example)})


if __name__ == "__main__":
    folder = Path(__file__).parents[1] / "examples"
    for example in sorted([*folder.glob("*.ipynb"), *folder.glob("*.py")]):
        print(f"examples/{example.name}", flush=True)
        program = multiprocessing.get_context("fork").Process(target=run, args=(example,))
        program.start()
        program.join()
        if program.exitcode:
            sys.exit(f"examples/{example.name} failed")
