"""What the CUDA kernels use on each architecture, and the table of what they may use.

    python tests/native/kernel_resources.py            # prints what is above the table
    python tests/native/kernel_resources.py --write    # writes the table anew: a kernel was added or meant to change

The table, kernel_resources.json, holds for each kernel the most over all architectures: registers of a thread, rounded
up to the 8 that hardware hands out at once, and bytes of static shared memory of a block.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_name("kernel_resources.json")
ARCHS = ("80", "86", "89", "90", "100", "110", "120")
RESERVED = 1024  # bytes of shared memory that the system takes from sm_90 on, which ptxas does not count
FLAGS = ("-O3", "-fmad=false")  # those of setup.py which change the kernels

Table = dict[str, dict[str, dict[str, int]]]  # file -> kernel -> registers, shared


@dataclass(frozen=True)
class Usage:
    """One kernel on one architecture."""

    file: str
    kernel: str
    arch: str
    registers: int
    shared: int  # bytes
    stack: int  # bytes
    spilled: int  # bytes stored and loaded


def find_nvcc() -> str | None:
    """The compiler on PATH or at its usual place; None too without c++filt, which reads the kernels' names."""
    if shutil.which("c++filt") is None:
        return None
    usual = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return shutil.which("nvcc") or (str(usual) if usual.exists() else None)


def sources() -> list[Path]:
    """The files that hold kernels."""
    return sorted((SOURCE / "csrc" / "cuda").glob("*.cu"))


def measure(nvcc: str, folder: Path, archs: tuple[str, ...] = ARCHS) -> list[Usage]:
    """Compiles every file for the architectures; `folder` takes the output, such as warp_90.cubin."""
    jobs = [(file, arch) for file in sources() for arch in archs]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda job: _compile(nvcc, job[0], job[1], folder), jobs)
        return [usage for usages in found for usage in usages]


def _compile(nvcc: str, file: Path, arch: str, folder: Path) -> list[Usage]:
    output = folder / f"{file.stem}_{arch}.cubin"
    strict = ("-Werror", "all-warnings", "-Xptxas", "-v")
    command = [nvcc, "-std=c++17", *FLAGS, *strict, "-cubin", f"-arch=sm_{arch}", "-o", str(output), str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return _with_plain_names(parse(result.stderr, file.name, arch))


def measure_library(cuobjdump: str, library: Path, folder: Path) -> list[Usage]:
    """Reads what a built library's kernels use; `folder` takes their code, such as warp_90.cubin."""
    subprocess.run([cuobjdump, "-xelf", "all", str(library.resolve())], cwd=folder, capture_output=True, check=True)
    found = []
    for cubin in sorted(folder.glob("*.cubin")):
        command = [cuobjdump, "-res-usage", str(cubin)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        arch = cubin.name.split(".")[-2].removeprefix("sm_")
        usages = parse_library(text, arch)
        cubin.rename(folder / f"{Path(usages[0].file).stem}_{arch}.cubin")
        found += usages
    if not found:
        raise RuntimeError(f"no kernels in {library}")
    return _with_plain_names(found)


def parse_library(text: str, arch: str) -> list[Usage]:
    """Reads what `cuobjdump -res-usage` says of one file's kernels; raises where it says it in other words.

    It does not tell spills: they are in the stack.
    """
    found = []
    for block in text.split(" Function ")[1:]:
        name = block.split(":", 1)[0]
        file = re.search(r"_GLOBAL__N__[0-9a-f]+_\d+_(\w+?)_cu_", name)
        figures = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", block)
        if file is None or figures is None:
            raise RuntimeError(f"cuobjdump does not tell what a kernel uses on sm_{arch}:\n{block}")
        registers, stack, shared, local = map(int, figures.groups())
        if int(arch) >= 90 and shared:
            shared -= RESERVED
        found.append(Usage(f"{file[1]}.cu", name, arch, registers, shared, stack + local, 0))
    if not found:
        raise RuntimeError(f"no kernel on sm_{arch} in:\n{text[:1000]}")
    return found


def _with_plain_names(usages: list[Usage]) -> list[Usage]:
    names = "\n".join(usage.kernel for usage in usages)
    plain = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
    return [Usage(**{**vars(usage), "kernel": plain_name(name)}) for usage, name in zip(usages, plain, strict=True)]


def parse(log: str, file: str, arch: str) -> list[Usage]:
    """Reads what `ptxas -v` says; raises where it says it in other words."""
    found = []
    for block in log.split("Compiling entry function '")[1:]:
        name = block.split("'", 1)[0]
        frame = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", block)
        registers = re.search(r"Used (\d+) registers", block)
        if frame is None or registers is None:
            raise RuntimeError(f"ptxas does not tell what {name} in {file} uses on sm_{arch}:\n{block}")
        shared = re.search(r"(\d+) bytes smem", block)
        stack, stored, loaded = map(int, frame.groups())
        size = int(shared[1]) if shared else 0
        found.append(Usage(file, name, arch, int(registers[1]), size, stack, stored + loaded))
    return found


def plain_name(signature: str) -> str:
    """A kernel's name and template arguments out of its whole signature."""
    text = re.sub(r"dsa_fast::|_GLOBAL__N_\w+::|\(anonymous namespace\)::", "", signature.removeprefix("void ")).strip()
    depth = 0
    for k, letter in enumerate(text):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return text[:k]
    return text


def table_of(usages: list[Usage]) -> Table:
    """What is to be allowed so that these pass."""
    table: Table = {}
    for usage in sorted(usages, key=lambda usage: (usage.file, usage.kernel)):
        limits = table.setdefault(usage.file, {}).setdefault(usage.kernel, {"registers": 0, "shared": 0})
        limits["registers"] = max(limits["registers"], -(-usage.registers // 8) * 8)
        limits["shared"] = max(limits["shared"], usage.shared)
    return table


def complaints(usages: list[Usage], table: Table) -> list[str]:
    """All that is not allowed: spills, stack, more than in the table, and kernels that are not in the table."""
    found = []
    for usage in usages:
        where = f"{usage.file}, {usage.kernel}, sm_{usage.arch}"
        if usage.spilled:
            found.append(f"{where}: {usage.spilled} bytes are spilled")
        if usage.stack:
            found.append(f"{where}: {usage.stack} bytes of local memory")
        limits = table.get(usage.file, {}).get(usage.kernel)
        if limits is None:
            found.append(f"{where}: not in {TABLE.name}")
            continue
        if usage.registers > limits["registers"]:
            found.append(f"{where}: {usage.registers} registers, {limits['registers']} are allowed")
        if usage.shared > limits["shared"]:
            found.append(f"{where}: {usage.shared} bytes of shared memory, {limits['shared']} are allowed")
    there = {(usage.file, usage.kernel) for usage in usages}
    gone = [(file, kernel) for file, kernels in table.items() for kernel in kernels if (file, kernel) not in there]
    return found + [f"{file}, {kernel}: in {TABLE.name}, but there is no such kernel" for file, kernel in gone]


def write(table: Table) -> None:
    """One line for each kernel, so that a change is seen in a diff."""
    files = []
    for file, kernels in table.items():
        lines = [f"    {json.dumps(kernel)}: {json.dumps(limits)}" for kernel, limits in kernels.items()]
        files.append(f"  {json.dumps(file)}: {{\n" + ",\n".join(lines) + "\n  }")
    TABLE.write_text("{\n" + ",\n".join(files) + "\n}\n")


def main() -> None:
    """The command."""
    import tempfile

    nvcc = find_nvcc()
    if nvcc is None:
        raise SystemExit("kernel_resources: nvcc is neither on PATH nor in CUDA_HOME, or c++filt is not there")
    with tempfile.TemporaryDirectory() as folder:
        usages = measure(nvcc, Path(folder))
    if "--write" in sys.argv[1:]:
        write(table_of(usages))
    found = complaints(usages, json.loads(TABLE.read_text()))
    print("\n".join(found) or f"{len(usages)} kernels, on {len(ARCHS)} architectures each once, are within the table")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
