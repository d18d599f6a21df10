"""Runs each program in examples/ in a process of its own, all forked from one that has imported what they import."""

import multiprocessing
import runpy
import sys
from pathlib import Path

import dsa_fast.deploy
import dsa_fast.models
import dsa_fast.training  # noqa: F401

if __name__ == "__main__":
    for example in sorted((Path(__file__).parents[1] / "examples").glob("*.py")):
        print(f"examples/{example.name}", flush=True)
        sys.argv = [str(example)]
        program = multiprocessing.get_context("fork").Process(
            target=runpy.run_path, args=(str(example),), kwargs={"run_name": "__main__"}
        )
        program.start()
        program.join()
        if program.exitcode:
            sys.exit(f"examples/{example.name} failed")
