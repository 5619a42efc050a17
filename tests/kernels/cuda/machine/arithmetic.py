"""What instructions compute, as expressions in C."""

from __future__ import annotations

from collections.abc import Callable

C_TYPES = {
    "pred": "uint8_t", "b8": "uint8_t", "u8": "uint8_t", "s8": "int8_t",
    "b16": "uint16_t", "u16": "uint16_t", "s16": "int16_t",
    "b32": "uint32_t", "u32": "uint32_t", "s32": "int32_t", "f32": "float",
    "b64": "uint64_t", "u64": "uint64_t", "s64": "int64_t", "f64": "double",
}  # fmt: skip
WIDER = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def size_of(kind: str) -> int:
    return 1 if kind == "pred" else int(kind[1:]) // 8


def unsigned(kind: str) -> str:
    return f"b{8 * size_of(kind)}"


def family(kind: str) -> str:
    return "float" if kind[0] == "f" else "pred" if kind == "pred" else "integer"


def _c_function(name: str) -> Callable:
    return lambda kind, *x: f"{name}{'f' if kind == 'f32' else ''}({', '.join(x)})"


def shifted(which: str, kind: str, x: str, by: str) -> str:
    bits = 8 * size_of(kind)
    if which == "shl":
        return f"{by} < {bits} ? ({x}) << ({by}) : 0"
    beyond = f"({x}) < 0 ? -1 : 0" if kind[0] == "s" else "0"
    return f"{by} < {bits} ? ({x}) >> ({by}) : {beyond}"


def _upper(kind: str, x: str, y: str) -> str:
    wide = {"s32": "int64_t", "u32": "uint64_t", "s64": "__int128", "u64": "unsigned __int128"}[
        kind
    ]
    return f"({wide})({x}) * ({wide})({y}) >> {8 * size_of(kind)}"


def _wrapped(symbol: str) -> Callable:
    """Computed without a sign, so that C knows what happens beyond the largest number."""
    return lambda kind, x, y: (
        f"({C_TYPES[unsigned(kind)]})({x}) {symbol} ({C_TYPES[unsigned(kind)]})({y})"
    )


def _inserted(kind: str, x: str, y: str, place: str, count: str) -> str:
    mask = f"((1ull << ({count})) - 1 << ({place}))"
    return f"(({y}) & ~{mask}) | ((uint64_t)({x}) << ({place}) & {mask})"


INFIX = {"and": "&", "or": "|", "xor": "^"}
OPERATIONS: dict[tuple[str, str], Callable[..., str]] = {
    ("mov", "integer"): lambda kind, x: x,
    ("mov", "float"): lambda kind, x: x,
    ("mov", "pred"): lambda kind, x: x,
    ("cvta.to.global", "integer"): lambda kind, x: x,
    ("add", "integer"): _wrapped("+"),
    ("sub", "integer"): _wrapped("-"),
    ("mul.lo", "integer"): _wrapped("*"),
    ("mad.lo", "integer"): lambda kind, x, y, z: f"({_wrapped('*')(kind, x, y)}) + ({z})",
    ("mul.hi", "integer"): _upper,
    ("div", "integer"): lambda kind, x, y: f"({y}) ? ({x}) / ({y}) : -1",
    ("rem", "integer"): lambda kind, x, y: f"({y}) ? ({x}) % ({y}) : -1",
    ("min", "integer"): lambda kind, x, y: f"({x}) < ({y}) ? ({x}) : ({y})",
    ("max", "integer"): lambda kind, x, y: f"({x}) > ({y}) ? ({x}) : ({y})",
    ("neg", "integer"): lambda kind, x: f"-({C_TYPES[unsigned(kind)]})({x})",
    ("abs", "integer"): lambda kind, x: f"({x}) < 0 ? -({x}) : ({x})",
    ("not", "integer"): lambda kind, x: f"~({x})",
    ("not", "pred"): lambda kind, x: f"!({x})",
    ("bfi", "integer"): _inserted,
    ("add", "float"): lambda kind, x, y: f"({x}) + ({y})",
    ("sub", "float"): lambda kind, x, y: f"({x}) - ({y})",
    ("mul", "float"): lambda kind, x, y: f"({x}) * ({y})",
    ("div.rn", "float"): lambda kind, x, y: f"({x}) / ({y})",
    ("rcp.rn", "float"): lambda kind, x: f"1 / ({x})",
    ("add.rz", "float"): lambda kind, x, y: f"rounded(FE_TOWARDZERO, {x}, 1, {y})",
    ("fma.rm", "float"): lambda kind, x, y, z: f"rounded(FE_DOWNWARD, {x}, {y}, {z})",
    ("fma.rn", "float"): _c_function("fma"),
    ("sqrt.rn", "float"): _c_function("sqrt"),
    ("neg", "float"): lambda kind, x: f"-({x})",
    ("abs", "float"): _c_function("fabs"),
    ("min", "float"): _c_function("fmin"),
    ("max", "float"): _c_function("fmax"),
    ("copysign", "float"): lambda kind, sign, x: _c_function("copysign")(kind, x, sign),
    ("ex2.approx.ftz", "float"): lambda kind, x: f"flushed(exp2f(flushed({x})))",
    ("rcp.approx.ftz", "float"): lambda kind, x: (
        f"flushed(1 / flushed({x}))" if kind == "f32" else f"of_bits64(bits_of64(1 / ({x})) & ~0xffffffffull)"
    ),
    **{
        (name, family): lambda kind, x, y, symbol=symbol: f"({x}) {symbol} ({y})"
        for name, symbol in INFIX.items()
        for family in ("integer", "pred")
    },
}  # fmt: skip
