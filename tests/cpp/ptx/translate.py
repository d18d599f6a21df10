"""Turns PTX, nvcc's output for the CUDA kernels, into C++ functions that a CPU runs.

    python translate.py OUT.cpp FIRST.ptx [SECOND.ptx ...] [--mutations mutations.json --source warp]

Each kernel becomes a function that runs one thread up to its end or its next barrier (see `machine.h`). Registers
become the fields of a struct, and each instruction becomes a call of the function of its name in `instructions.h`.
Kernels that are the same for several architectures are written once. An instruction that is not known here is an error.

A mutation changes the text of matching kernels. The result stands beside the healthy kernel, and the environment
variable `DSA_FAST_PTX_MUTATION` selects it at run time.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

INTEGERS = {
    f"{kind}{bits}": f"{'int' if kind == 's' else 'uint'}{bits}_t" for kind in "bsu" for bits in (8, 16, 32, 64)
}
TYPES = {**INTEGERS, "pred": "bool", "f32": "float", "f64": "double"}
# The same bits as unsigned integers: what registers hold.
RAW = {8: "uint8_t", 16: "uint16_t", 32: "uint32_t", 64: "uint64_t"}
SPECIAL = {"tid": "t.thread", "ctaid": "t.block", "ntid": "t.launch.block", "nctaid": "t.launch.grid"}
SPACES = ("param", "global", "shared", "local")
# Say how memory is cached and in what order others see it. Threads run one after another here.
BRACE = re.compile(r"[{}]")
CACHING = re.compile(r"ca|cg|cs|cv|lu|wb|wt|volatile|weak|relaxed|acquire|release|acq_rel|cta|gpu|sys|L[12]::\w+")
# Operators that are called by their name and type.
PLAIN = {
    **dict.fromkeys(("add", "sub", "div", "rem", "min", "max", "and", "or", "xor", "copysign"), 2),
    **dict.fromkeys(("not", "neg", "abs", "rcp", "sqrt", "popc", "clz", "brev"), 1),
    **dict.fromkeys(("fma", "bfe", "sad"), 3),
    **dict.fromkeys(("cnot",), 1),
}
CPP_NAMES = {"and": "bit_and", "or": "bit_or", "xor": "bit_xor", "not": "bit_not", "div": "divide", "abs": "magnitude"}


class PtxError(Exception):
    """The PTX has something that the translation does not know."""


def bits_of(kind: str) -> int:
    """The width of a type such as s32, in bits."""
    return 8 if kind == "pred" else int(re.sub(r"^[a-z]+", "", kind.split("x")[0])) * (2 if "x2" in kind else 1)


@dataclass(frozen=True)
class Instruction:
    """One instruction, such as `@!%p1 add.s32 %r1, %r2, 3;`."""

    line: int
    guard: str  # "%p1", "!%p1" or ""
    name: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]


@dataclass
class Kernel:
    """An entry of a PTX file."""

    name: str
    params: dict[str, int] = field(default_factory=dict)  # sizes, in bytes
    registers: dict[str, str] = field(default_factory=dict)  # prefix or whole name -> type
    shared: dict[str, int] = field(default_factory=dict)  # offsets
    shared_bytes: int = 0
    local: dict[str, int] = field(default_factory=dict)  # offsets
    local_bytes: int = 0
    max_threads: int = 1024
    body: list[Instruction | str] = field(default_factory=list)  # a str is a label
    targets: dict[str, list[str]] = field(default_factory=dict)  # of indexed branches


# ---- reading -------------------------------------------------------------------------------------------------------


def split(text: str) -> list[str]:
    """Splits at commas that are outside braces and brackets."""
    return [part.strip() for part in re.split(r",(?![^{\[]*[}\]])", text) if part.strip()]


def statements(body: str, first_line: int) -> list[tuple[int, str]]:
    """The statements of a body with their lines: `{`, `}`, a label with its colon, or a text that ended with `;`."""
    found = []
    token = re.compile(r"\s*(?:(?P<label>[$\w]+:)(?!:)(?!\s*\.\w+targets)|(?P<brace>[{}])|(?P<text>[^;]+);)")
    at = 0
    while body[at:].strip():
        match = token.match(body, at)
        if match is None:
            raise PtxError(f"no statement: {body[at : at + 80]!r}")
        start = match.start(match.lastgroup or 0)
        found.append((first_line + body.count("\n", 0, start), match[match.lastgroup or 0].strip()))
        at = match.end()
    return found


def read_instruction(text: str, line: int) -> Instruction:
    match = re.fullmatch(r"(?:@(!?%?\w+)\s+)?([\w.:]+)\s*(.*)", text, re.DOTALL)
    if match is None:
        raise PtxError(f"line {line}: {text!r}")
    name, *modifiers = re.split(r"(?<!:)\.", match[2])
    return Instruction(line, match[1] or "", name, tuple(modifiers), tuple(split(match[3])))


def read_array(text: str) -> tuple[str, int, int] | None:
    """Name, bytes and alignment of `.shared .align 16 .b8 name[64]`; bytes is 0 for `name[]`."""
    match = re.match(r"(?:\.\w+\s+)*?(?:\.align (\d+)\s+)?\.([a-z]\d+)\s+(\w+)(\[(\d*)\])?$", text)
    if match is None:
        return None
    count = int(match[5] or 0) if match[4] else 1
    size = bits_of(match[2]) // 8
    return match[3], count * size, int(match[1] or size)


def rename_scoped(text: str, scopes: list[dict[str, str]]) -> str:
    """Gives the registers of inner scopes (inline assembly) names of their own."""
    names = {name: unique for scope in scopes for name, unique in scope.items()}
    return re.sub(r"(?<![\w%.$])%?\w+", lambda match: names.get(match[0], match[0]), text) if names else text


def read_body(kernel: Kernel, body: str, first_line: int) -> None:
    scopes: list[dict[str, str]] = []
    opened = 0
    for line, text in statements(body, first_line):
        if text == "{":
            scopes.append({})
            opened += 1
        elif text == "}":
            scopes.pop()
        elif match := re.fullmatch(r"\.reg\s+\.(\w+)\s+(.*)", text, re.DOTALL):
            for name in split(match[2]):
                prefix = re.sub(r"<\d+>$", "", name)
                if scopes:
                    scopes[-1][prefix] = prefix = f"%{prefix.lstrip('%')}_scope{opened}_"
                kernel.registers[prefix] = match[1]
        elif text.endswith(":"):
            kernel.body.append(rename_scoped(text[:-1], scopes))
        elif match := re.fullmatch(r"(\S+):\s*\.branchtargets\s+(.*)", text, re.DOTALL):
            kernel.targets[match[1]] = split(match[2])
        elif text.startswith((".shared", ".local")):
            array = read_array(text)
            if array is None or not array[1]:
                raise PtxError(f"line {line}: {text!r}")
            place_array(kernel, array, shared=text.startswith(".shared"))
        elif text.startswith((".pragma", ".loc", ".file")):
            continue
        elif text.startswith("."):
            raise PtxError(f"line {line}: {text!r}")
        else:
            kernel.body.append(read_instruction(rename_scoped(text, scopes), line))


def place_array(kernel: Kernel, array: tuple[str, int, int], *, shared: bool) -> None:
    name, size, align = array
    offset = -(-(kernel.shared_bytes if shared else kernel.local_bytes) // align) * align
    if shared:
        kernel.shared[name], kernel.shared_bytes = offset, offset + size
    else:
        kernel.local[name], kernel.local_bytes = offset, offset + size


def read_kernels(text: str, names: Collection[str] | None = None) -> list[Kernel]:
    """All entries of a PTX file, or those of these names.

    Raises:
        PtxError: The text has something that is not known here.
    """
    text = re.sub(r"//[^\n]*", "", text)
    kernels: list[Kernel] = []
    at = 0
    arrays = []  # shared memory that is declared outside the kernels
    head = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)([^{;]*)\{", re.DOTALL)
    while True:
        match = head.search(text, at)
        for statement in re.split(r";|(?<=\d)\n", text[at : match.start() if match else None]):
            statement = re.sub(r"^(\s*\.(visible|extern|weak)\b)*", "", statement).strip()
            if statement.startswith(".shared") and (array := read_array(statement)):
                arrays.append(array)
            elif statement and not statement.startswith((".version", ".target", ".address_size", ".file", ".section")):
                raise PtxError(f"outside a kernel: {statement[:80]!r}")
        if match is None:
            return kernels
        kernel = Kernel(match[1])
        for param in split(match[2]):
            declared = read_array(re.sub(r"\.ptr(\s+\.(global|shared))?(\s+\.align \d+)?\s+", "", param))
            if declared is None:
                raise PtxError(f"{kernel.name}: {param!r}")
            kernel.params[declared[0]] = declared[1]
        for directive, value in re.findall(r"\.(\w+)([ \t\d,]*)", match[3]):
            if directive in ("maxntid", "reqntid"):
                kernel.max_threads = 1
                for extent in value.split(","):
                    kernel.max_threads *= int(extent)
            elif directive not in ("minnctapersm", "maxnreg"):
                raise PtxError(f"{kernel.name}: .{directive}")
        depth, end = 1, match.end()
        while depth:
            brace = BRACE.search(text, end)
            if brace is None:
                raise PtxError(f"{kernel.name} has no end")
            depth += 1 if brace[0] == "{" else -1
            end = brace.end()
        at = end
        if names is not None and kernel.name not in names:
            continue
        body = text[match.end() : end - 1]
        for array in arrays:
            if not re.search(rf"\b{array[0]}\b", body):
                continue
            if array[1]:
                place_array(kernel, array, shared=True)
            else:
                kernel.shared[array[0]] = -1  # dynamic: behind all others
        read_body(kernel, body, text.count("\n", 0, match.end()) + 1)
        kernels.append(kernel)


# ---- writing -------------------------------------------------------------------------------------------------------


class Writer:
    """Writes one kernel as C++."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.used: dict[str, str] = {}  # field -> type
        self.resumes = 0

    # Operands.

    def register_type(self, name: str) -> str:
        kind = self.kernel.registers.get(name) or self.kernel.registers.get(re.sub(r"\d+$", "", name))
        if kind is None:
            raise PtxError(f"no register {name}")
        return kind

    def register(self, name: str) -> tuple[str, int]:
        """A register as C++, and its width."""
        kind = self.register_type(name)
        cpp = "bool" if kind == "pred" else RAW[bits_of(kind)]
        self.used[name.lstrip("%")] = cpp
        return f"r.{name.lstrip('%')}", bits_of(kind)

    def read(self, operand: str, kind: str) -> str:
        """An operand as a C++ value of the type."""
        cpp = TYPES.get(kind) or RAW[bits_of(kind)]
        if operand.startswith("!"):
            return f"!{self.read(operand[1:], kind)}"
        if match := re.fullmatch(r"%(tid|ntid|ctaid|nctaid)\.([xyz])", operand):
            return f"{cpp}({SPECIAL[match[1]]}.{match[2]})"
        if operand == "%laneid":
            return f"{cpp}(t.lane())"
        if operand.startswith("%"):
            name, bits = self.register(operand)
            if kind == "pred":
                return name
            if bits < bits_of(kind):
                raise PtxError(f"{operand} has {bits} bits, {kind} is read")
            return f"from_bits<{cpp}>({name})" if kind in ("f32", "f64") else f"{cpp}({name})"
        if match := re.fullmatch(r"0([fd])([0-9a-fA-F]+)", operand):
            return f"from_bits<{cpp}>({RAW[32 if match[1] == 'f' else 64]}(0x{match[2]}ull))"
        if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)U?", operand):
            value = int(operand.rstrip("U"), 0) % 2**64
            return f"{cpp}({value}ull)" if kind != "pred" else str(value != 0).lower()
        return f"{cpp}({self.symbol(operand)})"

    def symbol(self, name: str) -> str:
        if name in self.kernel.shared:
            offset = self.kernel.shared[name]
            return "t.launch.dynamic_offset" if offset < 0 else str(offset)
        if name in self.kernel.local:
            return f"t.local_address({self.kernel.local[name]})"
        if name in self.kernel.params:
            return f"t.argument_address({list(self.kernel.params).index(name)})"
        raise PtxError(f"no symbol {name}")

    def write(self, target: str, kind: str, value: str) -> str:
        """A statement that puts a C++ value of the type into a register. Narrow values fill it by their sign."""
        if target == "_":
            return f"(void)({value});"
        name, bits = self.register(target)
        if kind == "pred":
            return f"{name} = {value};"
        if bits < bits_of(kind):
            raise PtxError(f"{target} has {bits} bits, {kind} is written")
        cpp = TYPES.get(kind) or RAW[bits_of(kind)]
        return f"{name} = to_register<{RAW[bits]}, {cpp}>({value});"

    def address(self, operand: str, space: str, size: int) -> str:
        """`[base+offset]` as a C++ expression; those of parameters are checked here."""
        match = re.fullmatch(r"\[\s*([^+\s\]]+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
        if match is None:
            raise PtxError(f"no address: {operand}")
        base, offset = match[1], int(match[2] or 0)
        if space == "param" and not base.startswith("%") and not 0 <= offset <= self.kernel.params[base] - size:
            raise PtxError(f"{self.kernel.name}: {operand} is outside its parameter")
        kind = "b64" if not base.startswith("%") else self.register_type(base)
        if kind == "b32" or kind == "u32":  # an address of shared memory
            return f"uint64_t({self.read(base, 'u32')} + uint32_t({offset % 2**32}u))"
        return f"({self.read(base, 'u64')} + uint64_t({offset % 2**64}ull))"

    # Instructions.

    def statement(self, instruction: Instruction) -> str:
        try:
            writer: Callable[[Instruction], str] | None = getattr(self, f"write_{instruction.name}", None)
            if writer is not None:
                text = writer(instruction)
            elif instruction.name in PLAIN:
                text = self.write_plain(instruction)
            else:
                raise PtxError("is not known")
        except (PtxError, KeyError, IndexError, ValueError) as error:
            shown = ".".join((instruction.name, *instruction.modifiers))
            operands = ", ".join(instruction.operands)
            raise PtxError(f"{self.kernel.name}, line {instruction.line}: {shown} {operands}: {error}") from error
        if not instruction.guard:
            return text
        wanted = not instruction.guard.startswith("!")
        condition = self.read(instruction.guard.lstrip("!"), "pred")
        return f"if ({'' if wanted else '!'}{condition}) {{ {text} }}"

    def allow(self, instruction: Instruction, *modifiers: str) -> str:
        """The type of an instruction with no modifiers but these."""
        *others, kind = instruction.modifiers
        for other in others:
            if other not in modifiers:
                raise PtxError(f".{other} is not known")
        return kind

    def write_plain(self, instruction: Instruction) -> str:
        kind = self.allow(instruction, "rn")
        known = (*TYPES, "u16x2", "s16x2")
        if kind not in known or len(instruction.operands) != PLAIN[instruction.name] + 1:
            raise PtxError("is not known")
        target, *sources = instruction.operands
        name = CPP_NAMES.get(instruction.name, instruction.name)
        if instruction.name in ("popc", "clz"):
            return self.write(target, "u32", f"{name}<{TYPES[kind]}>({self.read(sources[0], kind)})")
        if instruction.name == "bfe":
            values = [self.read(sources[0], kind), self.read(sources[1], "u32"), self.read(sources[2], "u32")]
        else:
            values = [self.read(source, kind) for source in sources]
        parameter = TYPES[kind] if kind in TYPES else f"Halves<{INTEGERS[kind[:3]]}>"
        return self.write(target, kind, f"{name}<{parameter}>({', '.join(values)})")

    def write_ret(self, instruction: Instruction) -> str:
        self.allow_none(instruction, "uni")
        return "return true;"

    write_exit = write_ret

    def allow_none(self, instruction: Instruction, *modifiers: str) -> None:
        for other in instruction.modifiers:
            if other not in modifiers:
                raise PtxError(f".{other} is not known")

    def write_trap(self, instruction: Instruction) -> str:
        return f'fail(t, {instruction.line}, "trap");'

    def write_bra(self, instruction: Instruction) -> str:
        self.allow_none(instruction, "uni")
        return f"goto {label(instruction.operands[0])};"

    def write_brx(self, instruction: Instruction) -> str:
        self.allow_none(instruction, "idx", "uni")
        index, name = instruction.operands
        cases = (f"case {k}: goto {label(target)};" for k, target in enumerate(self.kernel.targets[name]))
        other = f'default: fail(t, {instruction.line}, "brx");'
        return f"switch ({self.read(index, 'u32')}) {{ {' '.join(cases)} {other} }}"

    def write_bar(self, instruction: Instruction) -> str:
        self.allow_none(instruction, "sync", "cta", "aligned")
        if instruction.operands != ("0",):
            raise PtxError("only barrier 0 of the whole block is known")
        self.resumes += 1
        return f"return t.wait({self.resumes}); resume_{self.resumes}:;"

    write_barrier = write_bar

    def write_membar(self, instruction: Instruction) -> str:
        return ";"

    write_fence = write_membar

    def write_mov(self, instruction: Instruction) -> str:
        kind = self.allow(instruction)
        target, source = instruction.operands
        if target.startswith("{"):
            parts = split(target.strip("{}"))
            width = bits_of(kind) // len(parts)
            source = self.read(source, f"b{bits_of(kind)}")
            return " ".join(
                self.write(part, f"b{width}", f"{RAW[width]}({source} >> {k * width})") for k, part in enumerate(parts)
            )
        if source.startswith("{"):
            parts = split(source.strip("{}"))
            width, whole = bits_of(kind) // len(parts), RAW[bits_of(kind)]
            pieces = (f"{whole}({self.read(part, f'b{width}')}) << {k * width}" for k, part in enumerate(parts))
            return self.write(target, f"b{bits_of(kind)}", " | ".join(pieces))
        return self.write(target, kind, self.read(source, kind))

    def write_cvta(self, instruction: Instruction) -> str:
        kind = self.allow(instruction, "to", *SPACES)
        space = next(word for word in instruction.modifiers if word in SPACES)
        value = self.read(instruction.operands[1], kind)
        if space == "shared":
            value = f"t.{'from' if 'to' in instruction.modifiers else 'to'}_generic({value})"
        return self.write(instruction.operands[0], kind, value)

    def memory(self, instruction: Instruction) -> tuple[str, str, str, list[str]]:
        """Space, kind of reading, type, and other modifiers of a memory instruction."""
        *others, kind = instruction.modifiers
        space = next((word for word in others if word in SPACES), "generic")
        left = [word for word in others if word != space and not CACHING.fullmatch(word)]
        return space, kind, TYPES.get(kind) or RAW[bits_of(kind)], left

    def write_ld(self, instruction: Instruction) -> str:
        space, kind, cpp, left = self.memory(instruction)
        target, source = instruction.operands
        targets = split(target.strip("{}")) if target.startswith("{") else [target]
        if [word for word in left if word not in ("nc", f"v{len(targets)}")]:
            raise PtxError(f"{left} are not known")
        address = self.address(source, space, len(targets) * bits_of(kind) // 8)
        function = f"load<{cpp}, {len(targets)}, Space::k{space.title()}>(t, {address}, {instruction.line})"
        if "nc" in left:
            function = function.replace("load<", "load_constant<")
        if len(targets) == 1:
            return self.write(target, kind, f"{function}[0]")
        return (
            f"{{ const auto v = {function}; "
            + " ".join(self.write(one, kind, f"v[{k}]") for k, one in enumerate(targets))
            + " }"
        )

    write_ldu = write_ld

    def write_st(self, instruction: Instruction) -> str:
        space, kind, cpp, left = self.memory(instruction)
        target, source = instruction.operands
        sources = split(source.strip("{}")) if source.startswith("{") else [source]
        if left not in ([], [f"v{len(sources)}"]):
            raise PtxError(f"{left} are not known")
        address = self.address(target, space, len(sources) * bits_of(kind) // 8)
        values = ", ".join(self.read(one, kind) for one in sources)
        return f"store<{cpp}, {len(sources)}, Space::k{space.title()}>(t, {address}, {{{values}}}, {instruction.line});"

    def write_atom(self, instruction: Instruction) -> str:
        return self.write_atomic(instruction, instruction.operands)

    def write_red(self, instruction: Instruction) -> str:
        return self.write_atomic(instruction, ("_", *instruction.operands))

    def write_atomic(self, instruction: Instruction, operands: tuple[str, ...]) -> str:
        space, kind, cpp, left = self.memory(instruction)
        if (
            len(left) != 1
            or left[0] not in ("add", "max", "min", "exch", "cas", "and", "or", "xor")
            or kind not in TYPES
        ):
            raise PtxError(f"{left} of {kind} is not known")
        target, at, *sources = operands
        address = self.address(at, space, bits_of(kind) // 8)
        values = ", ".join(self.read(source, kind) for source in sources)
        function = f"atomic<Atomic::k{left[0].title()}, {cpp}, Space::k{space.title()}>"
        return self.write(target, kind, f"{function}(t, {address}, {instruction.line}, {values})")

    def write_setp(self, instruction: Instruction) -> str:
        compare, *boolean, kind = instruction.modifiers
        target, *sources = instruction.operands
        value = f"compare_{compare}<{TYPES[kind]}>({self.read(sources[0], kind)}, {self.read(sources[1], kind)})"
        if boolean:
            symbol = {"and": "&", "or": "|", "xor": "^"}[boolean[0]]
            value = f"bool({value} {symbol} {self.read(sources[2], 'pred')})"
        if "|" in target:
            raise PtxError("two results are not known")
        return self.write(target, "pred", value)

    def write_selp(self, instruction: Instruction) -> str:
        kind = self.allow(instruction)
        target, yes, no, which = instruction.operands
        return self.write(target, kind, f"{self.read(which, 'pred')} ? {self.read(yes, kind)} : {self.read(no, kind)}")

    def write_cvt(self, instruction: Instruction) -> str:
        *rounding, to, origin = instruction.modifiers
        target, *sources = instruction.operands
        short = {"f16": "Float16", "bf16": "BFloat16"}
        if to in ("f16x2", "bf16x2") and rounding == ["rn"]:
            high, low = (f"{short[to[:-2]]}::bits({self.read(source, 'f32')})" for source in sources)
            return self.write(target, "b32", f"uint32_t({high}) << 16 | {low}")
        if to in short and origin in ("f32",) and rounding == ["rn"]:
            return self.write(target, "b16", f"{short[to]}::bits({self.read(sources[0], origin)})")
        if origin in short and to == "f32" and not rounding:
            return self.write(target, "f32", f"{short[origin]}::value({self.read(sources[0], 'b16')})")
        modes = [word for word in rounding if word not in ("sat", "ftz")]
        if "ftz" in rounding or len(modes) > 1 or to not in TYPES or origin not in TYPES:
            raise PtxError("is not known")
        mode = {"rn": "kNone", "rni": "kNearest", "rzi": "kZero", "rmi": "kDown", "rpi": "kUp"}[(modes or ["rn"])[0]]
        saturated = "true" if "sat" in rounding else "false"
        value = f"cvt<{TYPES[to]}, {TYPES[origin]}, Rounding::{mode}, {saturated}>({self.read(sources[0], origin)})"
        return self.write(target, to, value)

    def write_mul(self, instruction: Instruction) -> str:
        *_, kind = instruction.modifiers
        which = self.allow_product(instruction)
        result = f"{kind[0]}{2 * bits_of(kind)}" if which == "wide" else kind
        a, b = (self.read(source, kind) for source in instruction.operands[1:])
        return self.write(instruction.operands[0], result, f"mul_{which}<{TYPES[kind]}>({a}, {b})")

    def write_mad(self, instruction: Instruction) -> str:
        *_, kind = instruction.modifiers
        which = self.allow_product(instruction)
        result = f"{kind[0]}{2 * bits_of(kind)}" if which == "wide" else kind
        target, first, second, third = instruction.operands
        product = f"mul_{which}<{TYPES[kind]}>({self.read(first, kind)}, {self.read(second, kind)})"
        return self.write(target, result, f"add<{TYPES[result]}>({product}, {self.read(third, result)})")

    def allow_product(self, instruction: Instruction) -> str:
        *which, kind = instruction.modifiers
        if kind in ("f32", "f64") and instruction.name == "mul" and which in ([], ["rn"]):
            return "real"
        if len(which) != 1 or which[0] not in ("lo", "hi", "wide"):
            raise PtxError("is not known")
        return which[0]

    def write_shl(self, instruction: Instruction) -> str:
        kind = self.allow(instruction)
        target, value, count = instruction.operands
        return self.write(
            target, kind, f"{instruction.name}<{TYPES[kind]}>({self.read(value, kind)}, {self.read(count, 'u32')})"
        )

    write_shr = write_shl

    def write_shf(self, instruction: Instruction) -> str:
        direction, mode, kind = instruction.modifiers
        target, *sources = instruction.operands
        if kind != "b32" or direction not in ("l", "r") or mode not in ("wrap", "clamp"):
            raise PtxError("is not known")
        values = ", ".join(self.read(source, "u32") for source in sources)
        return self.write(target, kind, f"funnel_{direction}_{mode}({values})")

    def write_prmt(self, instruction: Instruction) -> str:
        return self.write_words(instruction, "permute", 3)

    def write_bfi(self, instruction: Instruction) -> str:
        kind = self.allow(instruction)
        target, source, into, *places = instruction.operands
        values = [self.read(source, kind), self.read(into, kind), *(self.read(place, "u32") for place in places)]
        return self.write(target, kind, f"insert_bits<{TYPES[kind]}>({', '.join(values)})")

    def write_words(self, instruction: Instruction, function: str, count: int) -> str:
        kind = self.allow(instruction)
        target, *sources = instruction.operands
        if kind != "b32" or len(sources) != count:
            raise PtxError("is not known")
        return self.write(target, kind, f"{function}({', '.join(self.read(source, 'u32') for source in sources)})")

    def write_lop3(self, instruction: Instruction) -> str:
        kind = self.allow(instruction)
        target, *sources, table = instruction.operands
        values = ", ".join(self.read(source, "u32") for source in sources)
        return self.write(target, kind, f"logic_3<{int(table, 0)}>({values})")

    def write_dp4a(self, instruction: Instruction) -> str:
        first, second = instruction.modifiers
        target, a, b, c = instruction.operands
        signs = f"{str(first == 's32').lower()}, {str(second == 's32').lower()}"
        values = ", ".join(self.read(source, "u32") for source in (a, b, c))
        return self.write(target, "u32", f"dot_4<{signs}>({values})")

    # The whole.

    def lines(self, number: int) -> list[str]:
        """The kernel's struct of registers and its function."""
        body = []
        for item in self.kernel.body:
            body.append(f"{label(item)}:;" if isinstance(item, str) else f"  {self.statement(item)}")
        fields: dict[str, list[str]] = {}
        for name, kind in self.used.items():
            fields.setdefault(kind, []).append(name)
        registers = [f"  {kind} {', '.join(names)};" for kind, names in fields.items()]
        resume = [f"    case {k}: goto resume_{k};" for k in range(1, self.resumes + 1)]
        enter = ["  switch (t.resume) {", *resume, "  }"] if resume else []
        return [
            f"struct Registers{number} {{",
            *registers,
            "};",
            f"bool kernel{number}(Thread& t) {{  // {self.kernel.name}",
            f"  [[maybe_unused]] auto& r = *reinterpret_cast<Registers{number}*>(t.registers);",
            *enter,
            *body,
            "  return true;",
            "}",
        ]


def q(text: str) -> str:
    return json.dumps(text)


def label(name: str) -> str:
    return "label_" + name.replace("$", "")


@dataclass(frozen=True)
class Mutation:
    """A change of the text of the kernels of one source whose name matches."""

    name: str
    source: str  # "warp" of warp.cu
    kernel: str  # a pattern of the mangled name
    find: str
    replace: str
    only: int | None  # the match that is replaced, counted from 0; None: all

    def apply(self, text: str) -> str | None:
        """The file's text with its matching kernels changed; None if nothing matches."""
        done = 0

        def change(match: re.Match[str]) -> str:
            nonlocal done
            pieces, at = [], 0
            for number, place in enumerate(re.finditer(self.find, match[0])):
                if self.only is None or number == self.only:
                    pieces += [match[0][at : place.start()], place.expand(self.replace)]
                    at = place.end()
                    done += 1
            return "".join([*pieces, match[0][at:]])

        changed = re.sub(rf"(?ms)^[^\n]*\.entry \w*{self.kernel}\w*\(.*?^\}}", change, text)
        return changed if done else None


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("ptx", type=Path, nargs="+")
    parser.add_argument("--mutations", type=Path)
    parser.add_argument("--source", default="")
    arguments = parser.parse_args()

    written: dict[str, int] = {}  # a kernel's text without its name -> its number
    functions: list[str] = []
    entries: list[str] = []  # of the table

    def add(path: Path, text: str, mutation: str, names: set[str]) -> None:
        arch = re.search(r"\.target sm_(\d+)", text)
        if arch is None:
            raise PtxError(f"{path.name} has no target")
        for kernel in read_kernels(text, names):
            start = text.index(f".entry {kernel.name}(")
            own = text[start : text.find("\n}", start)].replace(kernel.name, "")
            own += str([size for name, size in kernel.shared.items()])
            if own not in written:
                written[own] = len(written)
                functions.extend(Writer(kernel).lines(written[own]))
            number = written[own]
            waits = any(isinstance(item, Instruction) and item.name in ("bar", "barrier") for item in kernel.body)
            file = f"{path.parent.name}/{path.name}"
            by_block = str(waits or bool(kernel.shared_bytes or -1 in kernel.shared.values())).lower()
            entries.append(
                f"    {{{q(mutation)}, {arch[1]}, {q(kernel.name)}, {q(file)}, kernel{number}, "
                f"sizeof(Registers{number}), {kernel.shared_bytes}, {kernel.local_bytes}, "
                f"{kernel.max_threads}, {by_block}}},"
            )

    try:
        for path in arguments.ptx:
            text = path.read_text()
            names = re.findall(r"\.entry (\w+)\(", text)
            add(path, text, "", set(names))
            mutations = json.loads(arguments.mutations.read_text()) if arguments.mutations else []
            for item in mutations:
                mutation = Mutation(*(item[key] for key in ("name", "source", "kernel", "find", "replace", "only")))
                if mutation.source != arguments.source:
                    continue
                changed = mutation.apply(text)
                if changed is None:
                    raise PtxError(f"mutation {mutation.name!r} matches nothing in {path.name}")
                add(path, changed, mutation.name, {name for name in names if re.search(mutation.kernel, name)})
    except PtxError as error:
        raise SystemExit(f"{parser.prog}: {error}") from error

    lines = [
        '#include "instructions.h"',
        "",
        "namespace {",
        "using namespace dsa_fast::ptx;",
        *functions,
        "const Kernel kernels[] = {",
        *entries,
        "};",
        "const Registration registration(kernels, sizeof(kernels) / sizeof(kernels[0]));",
        "}  // namespace",
    ]
    arguments.out.write_text("\n".join(lines) + "\n")
    print(f"{arguments.out.name}: {len(entries)} kernels, {len(written)} of them different")


if __name__ == "__main__":
    main()
