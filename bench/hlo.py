"""Reads the text of a compiled program: what each kernel moves and computes, and how often it runs.

XLA prints a program as computations, one of which is the entry, each a list of instructions. A
fusion is an instruction that calls another computation, and is one kernel. A loop's body runs as
often as its condition says, once if that is not known before it runs.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

_BYTES = {"bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_BYTES |= {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2}
# These launch nothing.
_FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id "
    "optimization-barrier add-dependency".split()
)
_MOVES = frozenset(
    "copy transpose slice dynamic-slice dynamic-update-slice pad concatenate broadcast convert "
    "reshape gather scatter reverse iota copy-start copy-done slice-start slice-done".split()
)
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "collective-permute", "all-to-all")
_PARTS = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      shape: as printed, e.g. `bf16[64,197,768]{2,1,0}`, or several in brackets.
      rest: what follows the operands: attributes and metadata.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    @property
    def source(self) -> str:
        """The path of the JAX operation that it comes from, "" if it has none."""
        return _found(r'op_name="([^"]*)"', self.rest)

    def attribute(self, name: str) -> str:
        """The name of the computation in such an attribute, "" if there is none."""
        return _found(rf"\b{name}=%?([\w.\-]+)", self.rest)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instruction that runs on the device, `times` times.

    Attributes:
      kind: what it mainly does: "products", "attention", "collectives", "reductions", "copies" or
        "elementwise".
      moved: bytes that it reads and writes, each time.
      operations: floating-point operations of its products, each time.
      cycles: that the compiler expects, each time; 0 if it does not say.
    """

    instruction: Instruction
    kind: str
    times: int
    moved: int
    operations: int
    cycles: int

    @property
    def stage(self) -> str:
        """The part of a step: "forward", "again" (for the backward pass), "backward" or "other"."""
        source = self.instruction.source
        if "transpose(" in source:
            return "again" if "rematted" in source.split("transpose(")[-1] else "backward"
        return "forward" if "jvp(" in source or "ViT" in source else "other"


def parse(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns the computations of a program by name, and the name of the entry."""
    computations: dict[str, list[Instruction]] = {}
    current, entry = [], ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{", line):
            current = computations[header[2]] = []
            entry = header[2] if header[1] else entry
        elif found := re.match(
            r"\s+(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([a-z][\w\-]*)\((.*)$", line
        ):
            root, name, shape, opcode, after = found.groups()
            inside = _to_closing_bracket(after)
            operands = tuple(re.findall(r"%([\w.\-]+)", inside))
            rest = after[len(inside) :]
            if opcode == "parameter":
                operands = (inside,)  # its number
            if opcode == "constant":
                operands, rest = (), inside
            current.append(Instruction(name, shape, opcode, operands, rest, bool(root)))
    return computations, entry


def kernels(text: str) -> list[Kernel]:
    """Lists all kernels of a program, those of loops with the number of their trips."""
    computations, entry = parse(text)
    return list(_kernels(computations, entry, 1))


def size(shape: str) -> int:
    """The bytes of a printed shape, of all its parts together."""
    parts = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(_BYTES.get(dtype, 0) * math.prod(_numbers(sides)) for dtype, sides in parts)


def _kernels(computations, name: str, times: int) -> Iterator[Kernel]:
    shapes = {i.name: i.shape for i in computations[name]}
    for i in computations[name]:
        if i.opcode == "while":
            trips = _trips(i, computations)
            yield from _kernels(computations, i.attribute("body"), times * trips)
        elif i.opcode in ("call", "async-start"):
            called = i.attribute("to_apply") or i.attribute("calls")
            yield from _kernels(computations, called, times)
        elif i.opcode not in _FREE and not i.opcode.endswith("-done"):
            kind, moved, operations = _cost(i, shapes, computations)
            cycles = int(_found(r'estimated_cycles":"(\d+)"', i.rest) or 0)
            yield Kernel(i, kind, times, moved, operations, cycles)


def _trips(loop: Instruction, computations) -> int:
    """The number of trips: as the compiler knows, or as the condition compares; else 1."""
    if known := _found(r'known_trip_count":\{"n":"(\d+)"', loop.rest):
        return int(known)
    condition = computations[loop.attribute("condition")]
    limits = [_found(r"^(\d+)$", i.rest) for i in condition if i.opcode == "constant"]
    compared = any(i.opcode == "compare" and i.root for i in condition)
    return int(limits[0]) if compared and len(limits) == 1 and limits[0] else 1


def _cost(i: Instruction, shapes, computations) -> tuple[str, int, int]:
    """The kind of a kernel, the bytes that it moves, and the operations of its products."""
    moved = size(i.shape) + sum(size(shapes.get(name, "")) for name in i.operands)
    if i.opcode == "fusion":
        body = computations[i.attribute("calls")]
        operations = sum(map(_product, body, [{x.name: x.shape for x in body}] * len(body)))
        return _kind_of_fusion(body), _moved_by_fusion(body), operations
    if i.opcode == "custom-call":
        target = _found(r'custom_call_target="([^"]*)"', i.rest)
        if "fmha" in target:
            return "attention", moved, 0
        return (
            ("products" if re.search("gemm|matmul", target) else "copies"),
            moved,
            _gemm(i, shapes),
        )
    if i.opcode.removesuffix("-start") in COLLECTIVES:
        return "collectives", moved, 0
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return "copies", 2 * size(i.shape), 0
    if i.opcode == "dynamic-update-slice":
        return "copies", 2 * size(shapes.get(i.operands[1], "")), 0
    kind = {"dot": "products", "convolution": "products", "reduce": "reductions"}.get(i.opcode)
    kind = kind or ("copies" if i.opcode in _MOVES else "elementwise")
    return kind, moved, _product(i, shapes)


def _kind_of_fusion(body: Sequence[Instruction]) -> str:
    opcodes = {i.opcode for i in body} - _FREE
    if opcodes & {"dot", "convolution"}:
        return "products"
    if opcodes & {"reduce", "reduce-window"}:
        return "reductions"
    return "copies" if opcodes <= _MOVES else "elementwise"


def _moved_by_fusion(body: Sequence[Instruction]) -> int:
    """Bytes read and written; of what is only sliced or updated in place, that part."""
    by_name = {i.name: i for i in body}
    users = collections.defaultdict(list)
    for i in body:
        for name in i.operands:
            users[name].append(i)

    def used(name):
        """Pairs of an instruction and the name by which it uses the value."""
        for user in users[name]:
            yield from used(user.name) if user.opcode == "bitcast" else [(user, name)]

    def written(i):
        if i.opcode == "tuple":
            return sum(written(by_name[name]) for name in i.operands)
        if i.opcode == "bitcast" and i.operands[0] in by_name:
            return written(by_name[i.operands[0]])
        return size(by_name[i.operands[1]].shape if i.opcode == "dynamic-update-slice" else i.shape)

    def read(parameter):
        uses = list(used(parameter.name))
        if uses and all(u.opcode in _PARTS and u.operands[0] == name for u, name in uses):
            return sum(size(user.shape) for user, _ in uses)
        in_place = (
            u.opcode == "dynamic-update-slice" and u.operands[0] == name for u, name in uses
        )
        return 0 if uses and all(in_place) else size(parameter.shape)

    total = sum(written(i) for i in body if i.root)
    return total + sum(read(i) for i in body if i.opcode == "parameter")


def _product(i: Instruction, shapes) -> int:
    """The operations of a dot; 0 for all else, even for a TPU's products, its convolutions."""
    if i.opcode != "dot":
        return 0
    left = _sides(shapes.get(i.operands[0], ""))
    axes = _numbers(_found(r"lhs_contracting_dims=\{([\d,]*)\}", i.rest))
    return 2 * math.prod(left[axis] for axis in axes) * math.prod(_sides(i.shape))


def _gemm(i: Instruction, shapes) -> int:
    """The operations of a call of a library for products."""
    axes = _found(r'"lhs_contracting_dimensions":\[([^\]]*)\]', i.rest).replace('"', "")
    if not axes:
        return 0
    left = _sides(shapes[i.operands[0]])
    return 2 * math.prod(left[axis] for axis in _numbers(axes)) * math.prod(_sides(i.shape))


def _sides(shape: str) -> list[int]:
    """The sides of the first array of a printed shape."""
    return _numbers(_found(r"\[([\d,]*)\]", shape))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _to_closing_bracket(text: str) -> str:
    depth = 1
    for end, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:end]
    return text
