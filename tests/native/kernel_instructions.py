"""The machine code of the CUDA kernels: how many instructions, and how wide its loops use memory.

    python tests/native/kernel_instructions.py            # prints what is above the table
    python tests/native/kernel_instructions.py --write    # writes the table anew: a kernel was added or meant to change

The table, kernel_instructions.json, holds for each kernel on sm_90 all instructions and, for each innermost loop, its
instructions and its uses of memory, such as "3 LDG.8, 1 STG.32": an instruction and the bits that one thread moves.
The counts are static. They belong to one release of nvcc and are compared with that alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.native import kernel_resources as resources

TABLE = Path(__file__).with_name("kernel_instructions.json")
ARCH = "90"
TOLERANCE = 0.05  # of a count, and at least
SPARE = 4  # instructions

Table = dict[str, dict[str, dict[str, object]]]  # file -> kernel -> instructions, loops


@dataclass(frozen=True)
class Loop:
    """An innermost loop."""

    instructions: int
    memory: dict[str, int]  # "LDG.8" -> how many


@dataclass(frozen=True)
class Code:
    """One kernel."""

    file: str
    kernel: str
    instructions: int
    loops: list[Loop]


def find_cuobjdump() -> str | None:
    """The disassembler on PATH or beside nvcc, else the one in Triton's wheel."""
    nvcc = resources.find_nvcc()
    places = [Path(nvcc).resolve().parent / "cuobjdump"] if nvcc else []
    places.append(Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "cuobjdump")
    for folder in map(Path, sys.path):
        places.append(folder / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump")
    return shutil.which("cuobjdump") or next((str(place) for place in places if place.exists()), None)


def release(nvcc: str) -> str:
    """The release of nvcc, such as 13.0."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    if found is None:
        raise RuntimeError(f"{nvcc} does not tell its release:\n{text}")
    return found[1]


def measure(cuobjdump: str, folder: Path) -> list[Code]:
    """Reads the code of the cubins that `kernel_resources.measure` left in the folder."""
    found = []
    for file in resources.sources():
        command = [cuobjdump, "-sass", str(folder / f"{file.stem}_{ARCH}.cubin")]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found += parse(text, file.name)
    names = "\n".join(code.kernel for code in found)
    plain = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        Code(code.file, resources.plain_name(name), code.instructions, code.loops)
        for code, name in zip(found, plain, strict=True)
    ]


def parse(text: str, file: str) -> list[Code]:
    """Reads what `cuobjdump -sass` prints; raises where it prints no code."""
    found = []
    for block in text.split("Function : ")[1:]:
        name = block.split(maxsplit=1)[0]
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", block)
        code = [(int(address, 16), operation, operands) for address, operation, operands in lines]
        while code and code[-1][1] == "NOP":  # fill the last line of the cache
            code.pop()
        if not code:
            raise RuntimeError(f"no code of {name} in {file}")
        found.append(Code(file, name, len(code), loops_of(code)))
    if not found:
        raise RuntimeError(f"no kernel of {file} in:\n{text[:1000]}")
    return found


def loops_of(code: list[tuple[int, str, str]]) -> list[Loop]:
    """The loops without a loop in them, by their place."""
    ends: dict[int, int] = {}  # where a loop begins -> where it ends
    for address, operation, operands in code:
        target = re.search(r"0x([0-9a-f]+)\s*$", operands) if operation.split(".")[0] == "BRA" else None
        if target and int(target[1], 16) < address:  # not the branch to itself behind the last instruction
            ends[int(target[1], 16)] = address
    found = []
    for begin, end in sorted(ends.items()):
        if any(begin <= b and e <= end and (b, e) != (begin, end) for b, e in ends.items()):
            continue
        inside = [operation for address, operation, _ in code if begin <= address <= end]
        found.append(Loop(len(inside), dict(sorted(Counter(filter(None, map(memory_use, inside))).items()))))
    return found


def memory_use(operation: str) -> str | None:
    """LDG.8 of LDG.E.U8.CONSTANT; None if the operation does not use memory."""
    name, *modifiers = operation.split(".")
    if not re.fullmatch(r"(LD|ST|ATOM|RED)[GSL]?", name):
        return None
    bits = next((re.sub(r"[US]", "", word) for word in modifiers if re.fullmatch(r"[US]?(8|16)|64|128", word)), "32")
    return f"{name}.{bits}"


def table_of(codes: list[Code]) -> Table:
    """What is to be allowed so that these pass."""
    table: Table = {}
    for code in sorted(codes, key=lambda code: (code.file, code.kernel)):
        loops = [{"instructions": loop.instructions, "memory": show(loop.memory)} for loop in code.loops]
        table.setdefault(code.file, {})[code.kernel] = {"instructions": code.instructions, "loops": loops}
    return table


def show(memory: dict[str, int]) -> str:
    return ", ".join(f"{count} {use}" for use, count in memory.items())


def read_memory(text: str) -> dict[str, int]:
    return {use: int(count) for count, use in (part.split() for part in text.split(", ") if part)}


def complaints(codes: list[Code], table: Table) -> list[str]:
    """All that has grown, and kernels that are not in the table."""
    found = []
    for code in codes:
        where = f"{code.file}, {code.kernel}"
        limits = table.get(code.file, {}).get(code.kernel)
        if limits is None:
            found.append(f"{where}: not in {TABLE.name}")
            continue
        found += grown(where, code.instructions, int(str(limits["instructions"])))
        loops = limits["loops"]
        assert isinstance(loops, list)
        if len(code.loops) != len(loops):
            found.append(f"{where}: {len(code.loops)} innermost loops, {len(loops)} in the table")
            continue
        for number, (loop, limit) in enumerate(zip(code.loops, loops, strict=True), 1):
            found += grown(f"{where}, loop {number}", loop.instructions, limit["instructions"])
            found += narrower(f"{where}, loop {number}", loop.memory, read_memory(limit["memory"]))
    there = {(code.file, code.kernel) for code in codes}
    gone = [(file, kernel) for file, kernels in table.items() for kernel in kernels if (file, kernel) not in there]
    return found + [f"{file}, {kernel}: in {TABLE.name}, but there is no such kernel" for file, kernel in gone]


def grown(where: str, count: int, limit: int) -> list[str]:
    allowed = limit + max(SPARE, int(TOLERANCE * limit))
    return [f"{where}: {count} instructions, {limit} in the table"] if count > allowed else []


def narrower(where: str, memory: dict[str, int], limit: dict[str, int]) -> list[str]:
    """More uses of memory of some width or below than in the table: the same bytes in more, narrower pieces."""
    for use in {**memory, **limit}:
        name, bits = use.split(".")

        def up_to(uses: dict[str, int], name: str = name, bits: int = int(bits)) -> int:
            parts = ((*key.split("."), count) for key, count in uses.items())
            return sum(count for other, width, count in parts if other == name and int(width) <= bits)

        if up_to(memory) > up_to(limit):
            return [f"{where}: uses memory by {show(memory) or 'nothing'}; in the table: {show(limit) or 'nothing'}"]
    return []


def write(toolkit: str, table: Table) -> None:
    """One line for each kernel, so that a change is seen in a diff."""
    files = []
    for file, kernels in table.items():
        lines = [f"    {json.dumps(kernel)}: {json.dumps(limits)}" for kernel, limits in kernels.items()]
        files.append(f"  {json.dumps(file)}: {{\n" + ",\n".join(lines) + "\n  }")
    TABLE.write_text(f'{{"nvcc": {json.dumps(toolkit)}, "kernels": {{\n' + ",\n".join(files) + "\n}}\n")


def main() -> None:
    """The command."""
    nvcc, cuobjdump = resources.find_nvcc(), find_cuobjdump()
    if nvcc is None or cuobjdump is None:
        raise SystemExit("kernel_instructions: nvcc, c++filt or cuobjdump is not there")
    with tempfile.TemporaryDirectory() as folder:
        resources.measure(nvcc, Path(folder), (ARCH,))
        codes = measure(cuobjdump, Path(folder))
    if "--write" in sys.argv[1:]:
        write(release(nvcc), table_of(codes))
    table = json.loads(TABLE.read_text())
    if table["nvcc"] != release(nvcc):
        raise SystemExit(f"{TABLE.name} is of nvcc {table['nvcc']}, and this is {release(nvcc)}")
    found = complaints(codes, table["kernels"])
    print("\n".join(found) or f"{len(codes)} kernels are within the table")
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()
