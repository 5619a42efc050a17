"""From PTX to C: a kernel as `machine.h` runs it.

Each register becomes a field of a thread's own, each instruction one statement. Where a thread has to wait for others
it notes the place in `at` and returns; called again, it goes on from there.

Source: NVIDIA, "PTX ISA".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.kernels.cuda.machine.arithmetic import (
    C_TYPES,
    OPERATIONS,
    WIDER,
    family,
    shifted,
    size_of,
)

SHARED_START = 1024  # as in machine.h
SPECIAL = {
    "%tid.x": "t->number", "%ntid.x": "gpu.threads", "%dynamic_smem_size": "gpu.dynamic_shared",
    "%tid.y": "0", "%tid.z": "0", "%ntid.y": "1", "%ntid.z": "1", "%laneid": "(t->number % 32)",
} | {f"%ctaid.{axis}": f"t->block->index[{i}]" for i, axis in enumerate("xyz")} | {
    f"%nctaid.{axis}": f"gpu.grid[{i}]" for i, axis in enumerate("xyz")
}  # fmt: skip


class Kernel(NamedTuple):
    """A kernel in C."""

    source: str
    shared: int  # bytes, without what a launch asks for


class NotKnown(Exception):
    """An instruction that no kernel had when this was written."""


def translate(ptx: str) -> Kernel:
    """
    Raises:
        NotKnown: an instruction is not among those below.
    """
    return _Translation(ptx).kernel()


class _Translation:
    def __init__(self, ptx: str) -> None:
        ptx = re.sub(r"//[^\n]*", "", ptx)
        head, declared, rest = re.split(r"\.visible \.entry \S+\((.*?)\)", ptx, flags=re.DOTALL)
        self.body = rest[rest.index("{") + 1 : rest.rindex("}")]
        self.first_line = ptx[: ptx.index(self.body)].count("\n") + 1
        self.parameters = dict(_places(declared))
        self.symbols, self.shared = _shared_arrays(head)
        self.stops = 0  # how many places there are where a thread waits
        self.scopes: list[dict[str, str]] = []  # of registers that inline assembly declares
        self.scope_count = 0

    def kernel(self) -> Kernel:
        fields, statements = [], []
        for line, text in self.pieces():
            if found := re.match(r"\.reg \.(\w+)\s+%([a-z]+)<(\d+)>$", text):
                kind, name, count = found.groups()
                fields.append(f"    {C_TYPES[kind]} {name}[{count}];")
            else:
                statements.append(self.statement(text, line))
        source = "\n".join((
            '#include "machine.h"', "struct registers {", *fields, "};",
            "const size_t registers_size = sizeof(struct registers);",
            "static int run(struct thread *t)", "{", "    struct registers *R = t->registers;",
            "    switch (t->at) { case 0:;", *statements, "    }", "    return ENDED;", "}",
        ))  # fmt: skip
        return Kernel(source, self.shared)

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Statements, labels, and the braces around what inline assembly declares, with their lines."""
        for found in re.finditer(r"\s*(?:([{}])|([$\w]+):|([^;]*?);)", self.body):
            line = self.first_line + self.body.count("\n", 0, found.end())
            brace, label, text = found.groups()
            yield line, brace or (label and label + ":") or " ".join(text.split())

    # --- one statement ----------------------------------------------------------------------------

    def statement(self, text: str, line: int) -> str:
        if text == "{":
            self.scopes.append({})
            self.scope_count += 1
            return "    {"
        if text == "}":
            self.scopes.pop()
            return "    }"
        if text.endswith(":"):
            return f"  {self.label(text[:-1])}:;"
        if declared := re.match(r"\.reg \.(\w+) ([%\w]+)$", text):
            kind, name = declared.groups()
            self.scopes[-1][name] = kind
            return f"    {C_TYPES[kind]} {_local(name)};"
        if text.startswith(".pragma"):
            return ""
        condition = ""
        if found := re.match(r"@(!?)([%\w]+)\s+", text):
            condition = f"if ({found[1]}{self.value(found[2], 'pred')}) "
            text = text[found.end() :]
        name, _, rest = text.partition(" ")
        written = self.instruction(name.split("."), _operands(rest), name)
        place = (
            f"t->line = {line}; " if re.search(r"\(t[,)]", written) or "return" in written else ""
        )
        return f"    {condition}{{ {place}{written} }}"

    def label(self, name: str) -> str:
        inside = f"_{self.scope_count}" if self.scopes else ""
        return "L" + name.replace("$", "_") + inside

    def instruction(self, parts: list[str], operands: list[str], name: str) -> str:
        for known in (self.memory, self.together, self.control, self.arithmetic):
            written = known(parts, operands, name)
            if written is not None:
                return written
        raise NotKnown(f"{name} {', '.join(operands)}")

    def wait(self, state: str, before: str = "") -> str:
        self.stops += 1
        return f"{before} t->at = {self.stops}; return {state}; case {self.stops}:;"

    # --- operands ---------------------------------------------------------------------------------

    def value(self, operand: str, kind: str) -> str:
        """An operand as a number of a type; registers of another are read bit by bit."""
        if operand in SPECIAL:
            return f"(({C_TYPES[kind]}){SPECIAL[operand]})"
        if operand in self.symbols:
            return f"{self.symbols[operand]}u"
        if bits := re.match(r"0[fdFD]([0-9A-Fa-f]+)$", operand):
            return f"of_bits{'64' if len(bits[1]) == 16 else ''}(0x{bits[1]})"
        if re.match(r"-?(0x)?[0-9A-Fa-f]+$", operand):
            number = int(operand, 0) % 2**64
            return f"(({C_TYPES[kind]}){number:#x}ull)"
        place, of = self.register(operand)
        if of[0] == "f" and kind[0] != "f":
            place = f"bits_of{'64' if of == 'f64' else ''}({place})"
        elif kind[0] == "f" and of[0] != "f":
            place = f"of_bits{'64' if of == 'b64' else ''}({place})"
        return f"({C_TYPES[kind]}){place}"

    def register(self, operand: str) -> tuple[str, str]:
        """Where a register is, and its type."""
        for scope in reversed(self.scopes):
            if operand in scope:
                return _local(operand), scope[operand]
        found = re.match(r"%(p|rs|rd|r|fd|f)(\d+)$", operand)
        if found is None:
            raise NotKnown(f"the operand {operand}")
        kinds = {"p": "pred", "rs": "b16", "r": "b32", "rd": "b64", "f": "f32", "fd": "f64"}
        return f"R->{found[1]}[{found[2]}]", kinds[found[1]]

    def put(self, operand: str, kind: str, value: str) -> str:
        place, of = self.register(operand)
        if of[0] == "f" and kind[0] != "f":
            value = f"of_bits{'64' if of == 'f64' else ''}({value})"
        elif of[0] != "f" and kind[0] == "f":
            value = f"bits_of{'64' if kind == 'f64' else ''}({value})"
        return f"{place} = ({C_TYPES[of]})({value});"

    def address(self, operand: str) -> str:
        found = re.match(r"\[([%$\w]+)(?:\+(-?\d+))?\]$", operand)
        if found is None:
            raise NotKnown(f"the address {operand}")
        base = self.value(found[1], "u64")
        return f"({base} + {int(found[2] or 0)}ll)"

    # --- memory -----------------------------------------------------------------------------------

    def memory(self, parts: list[str], operands: list[str], name: str) -> str | None:
        kind = parts[-1]
        if parts[:2] == ["ld", "param"]:
            found = re.match(r"\[(\w+)\]$", operands[1])
            place = self.parameters[found[1]]
            return (
                f"{C_TYPES[kind]} x; memcpy(&x, gpu.parameters + {place}, {size_of(kind)}); "
                + self.put(operands[0], kind, "x")
            )
        if parts[0] in ("ld", "st") and parts[1] in ("global", "shared"):
            space, loads = parts[1], parts[0] == "ld"
            memory, registers = operands[1 if loads else 0], operands[0 if loads else 1]
            each = _operands(registers.strip("{}"))
            how = ("reads" if loads else "writes") + ("_global" if space == "global" else "")
            size = size_of(kind) * len(each)
            text = f"{C_TYPES[kind]} x[{len(each)}]; "
            place = f"{space}(t, {self.address(memory)}, {size}, {how})"
            if loads:
                return f"{text}memcpy(x, {place}, {size}); " + " ".join(
                    self.put(register, kind, f"x[{i}]") for i, register in enumerate(each)
                )
            text += " ".join(f"x[{i}] = {self.value(r, kind)};" for i, r in enumerate(each))
            return f"{text} memcpy({place}, x, {size});"
        if name == "atom.inc.u32":
            counted = f"atom_inc(t, {self.address(operands[1])}, {self.value(operands[2], 'u32')})"
            return self.put(operands[0], "u32", counted)
        return None

    def together(self, parts: list[str], operands: list[str], name: str) -> str | None:
        """What is done with other threads, or while a thread goes on."""
        if name == "bar.sync" and operands == ["0"]:
            return self.wait("AT_BARRIER")
        if name == "fence.acq_rel.gpu":
            return "fence(t);"
        if name in ("fence.mbarrier_init.release.cluster", "wgmma.fence.sync.aligned"):
            return ";"
        if name == "fence.proxy.async.shared::cta":
            return "fence_begun(t);"
        if parts[:2] == ["cp", "async"] and parts[2] in ("ca", "cg"):
            to, source = map(self.address, operands[:2])
            return f"copy_async(t, {to}, {source}, {int(operands[2])}, {self.value(operands[3], 'u32')});"
        if name == "cp.async.commit_group":
            return "t->group++;"
        if name == "cp.async.wait_group":
            return f"wait_copies(t, {int(operands[0])});"
        if name == "mbarrier.init.shared::cta.b64":
            return (
                f"begin_barrier(t, {self.address(operands[0])}, {self.value(operands[1], 'u32')});"
            )
        if name == "mbarrier.arrive.expect_tx.shared::cta.b64":
            return f"expect(t, {self.address(operands[1])}, {self.value(operands[2], 'u32')});"
        if name == "mbarrier.try_wait.parity.shared::cta.b64":
            ended = f"has_ended(t, {self.address(operands[1])}, {self.value(operands[2], 'u32')})"
            self.stops += 1
            again = f"if (!{ended}) {{ t->at = {self.stops}; return FOR_COPIES; }}"
            return f"case {self.stops}: {again} {self.put(operands[0], 'pred', '1')}"
        if name == "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes":
            to, source, barrier = (self.address(operands[i]) for i in (0, 1, 3))
            return f"copy_bulk(t, {to}, {source}, {self.value(operands[2], 'u32')}, {barrier});"
        if parts[:2] == ["mma", "sync"]:
            return self.multiply_in_warp(operands, name)
        if parts[:2] == ["wgmma", "mma_async"]:
            return self.multiply_in_warpgroup(operands, name)
        if name == "wgmma.commit_group.sync.aligned":
            return "t->products_group++;"
        if name == "wgmma.wait_group.sync.aligned":
            return f"wait_products(t, {int(operands[0])});"
        return None

    def multiply_in_warp(self, operands: list[str], name: str) -> str:
        kinds = {
            "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32": "MMA_TF32",
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": "MMA_BF16",
        }
        d, a, b, c = (_operands(x.strip("{}")) for x in operands)
        given = [self.value(x, "b32") for x in (*a, *b, *c)]
        text = f"t->operation = {kinds[name]}; "
        text += " ".join(f"t->in[{i}] = {x};" for i, x in enumerate(given))
        text += " ".join(f"t->out[{i}] = &{self.register(x)[0]};" for i, x in enumerate(d))
        return self.wait("IN_WARP", text)

    def multiply_in_warpgroup(self, operands: list[str], name: str) -> str:
        found = re.match(
            r"wgmma\.mma_async\.sync\.aligned\.m64n(\d+)(k8\.f32\.tf32\.tf32|k16\.f32\.bf16\.bf16)$",
            name,
        )
        width, kind = int(found[1]), "WGMMA_TF32" if found[2].startswith("k8.") else "WGMMA_BF16"
        d = _operands(operands[0].strip("{}"))
        # D += A B, neither negated, both with the sum's index along 16 bytes.
        if len(d) != width // 2 or operands[3:] != ["1"] * 3 + ["0"] * (2 * (kind == "WGMMA_BF16")):
            raise NotKnown(f"{name} with {operands[3:]} and {len(d)} sums")
        text = f"t->operation = {kind}; t->width = {width}; "
        text += " ".join(
            f"t->descriptors[{i}] = {self.value(operands[1 + i], 'u64')};" for i in range(2)
        )
        text += " ".join(f"t->out[{i}] = &{self.register(x)[0]};" for i, x in enumerate(d))
        return self.wait("IN_WARPGROUP", text)

    def control(self, parts: list[str], operands: list[str], name: str) -> str | None:
        if parts[0] == "bra":
            return f"jump(t); goto {self.label(operands[0])};"
        return "return ENDED;" if name == "ret" else None

    # --- numbers ----------------------------------------------------------------------------------

    def arithmetic(self, parts: list[str], operands: list[str], name: str) -> str | None:
        kind = parts[-1]
        if kind not in C_TYPES:
            return None
        if parts[0] == "mov" and any(x.startswith("{") for x in operands):
            return self.move_halves(operands)
        if parts[0] == "setp":
            return self.compare(parts[1], kind, operands)
        if parts[0] == "cvt":
            return self.convert(parts[1:], operands)
        if parts[0] == "selp":
            x, y = (self.value(o, kind) for o in operands[1:3])
            return self.put(operands[0], kind, f"{self.value(operands[3], 'pred')} ? {x} : {y}")
        key = ".".join(parts[:-1])
        if key in ("shl", "shr"):
            x, by = self.value(operands[1], kind), self.value(operands[2], "u32")
            return self.put(operands[0], kind, shifted(parts[0], kind, x, by))
        if key in ("mul.wide", "mad.wide"):
            to = WIDER[kind]
            x, y = (f"({C_TYPES[to]})({self.value(o, kind)})" for o in operands[1:3])
            plus = f" + {self.value(operands[3], to)}" if parts[0] == "mad" else ""
            return self.put(operands[0], to, f"{x} * {y}{plus}")
        write = OPERATIONS.get((key, family(kind)))
        if write is None:
            return None
        return self.put(
            operands[0], kind, write(kind, *(self.value(o, kind) for o in operands[1:]))
        )

    def move_halves(self, operands: list[str]) -> str:
        to, source = operands
        if to.startswith("{"):
            low, high = _operands(to.strip("{}"))
            return f"uint64_t x = {self.value(source, 'b64')}; " + " ".join(
                self.put(half, "b32", f"x >> {32 * i}") for i, half in enumerate((low, high))
            )
        low, high = (self.value(x, "b32") for x in _operands(source.strip("{}")))
        return self.put(to, "b64", f"(uint64_t)({high}) << 32 | ({low})")

    def compare(self, how: str, kind: str, operands: list[str]) -> str:
        x, y = (self.value(o, kind) for o in operands[1:3])
        symbols = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
        ordered = f"(({x}) == ({x}) && ({y}) == ({y}))"
        if how in ("nan", "num"):
            result = ordered if how == "num" else f"!{ordered}"
        elif how in symbols:
            result = f"({x}) {symbols[how]} ({y})"
            if how == "ne" and kind[0] == "f":
                result = f"{ordered} && {result}"
        elif how[-1] == "u" and how[:-1] in symbols and kind[0] == "f":
            result = f"!{ordered} || ({x}) {symbols[how[:-1]]} ({y})"
        else:
            raise NotKnown(f"setp.{how}.{kind}")
        return self.put(operands[0], "pred", result)

    def convert(self, parts: list[str], operands: list[str]) -> str:
        *how, to, source = parts
        if to == "bf16x2":
            high, low = (f"to_bf16({self.value(x, 'f32')})" for x in operands[1:])
            return self.put(operands[0], "b32", f"{high} << 16 | {low}")
        x = self.value(operands[1], source)
        rounding = {"rni": "rintf", "rzi": "truncf", "rmi": "floorf", "rpi": "ceilf"}
        if how and how[0] in rounding and source == "f32":
            x = f"{rounding[how[0]]}({x})"
        elif how == ["sat"] and to == source == "f32":
            x = f"fminf(fmaxf({x}, 0), 1)"  # of a NaN: 0
        elif (how and how != ["rn"]) or (not how and source[0] == "f" and to[0] != "f"):
            raise NotKnown(f"cvt.{'.'.join(parts)}")
        return self.put(operands[0], to, f"({C_TYPES[to]})({x})")


def _operands(text: str) -> list[str]:
    """Split at commas that are not within braces."""
    return [x.strip() for x in re.split(r",(?![^{]*})", text) if x.strip()]


def _local(name: str) -> str:
    return "local_" + name.strip("%")


def _places(declared: str) -> Iterator[tuple[str, int]]:
    """Where each parameter lies."""
    end = 0
    for size, name in re.findall(r"\.param \.[a-z](\d+) (\w+)", declared):
        bytes_ = int(size) // 8
        place = -(-end // bytes_) * bytes_
        yield name, place
        end = place + bytes_


def _shared_arrays(head: str) -> tuple[dict[str, int], int]:
    """The address of each array in shared memory, and how many bytes those take that are declared with a size."""
    found, end, last = {}, SHARED_START, None
    for extern, alignment, name, size in re.findall(
        r"(\.extern )?(?:\.visible )?\.shared \.align (\d+) \.b8 (\w+)\[(\d*)\]", head
    ):
        if extern:
            last = name, int(alignment)
            continue
        end = -(-end // int(alignment)) * int(alignment)
        found[name] = end
        end += int(size)
    if last:
        name, alignment = last
        end = -(-end // alignment) * alignment
        found[name] = end
    return found, end - SHARED_START
