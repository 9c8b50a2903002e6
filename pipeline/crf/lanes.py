"""Vectors of float32 for Numba: a row of class scores that stays in registers.

Numba compiles loops over a row's classes, and LLVM may or may not make vector instructions of them: arrays may overlap
for all it knows, so it reloads what it has stored. A `Lanes` value is a fixed number of float32 in LLVM vectors of 16
and 8: loads, products and stores of a whole row are one operation each, in whatever instructions the machine has.
(Vectors of other lengths, such as 24, LLVM takes apart into scalars.)

The width is the length of a tuple argument, so that one source compiles to a variant per width and each is cached on
disk: `load(values, 24 * i, (0,) * 24)`.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

F32, I32 = ir.FloatType(), ir.IntType(32)


class Lanes(types.Type):
    """The Numba type of a row of `width` float32, a multiple of 8."""

    def __init__(self, width: int):
        if width % 8:
            raise ValueError(f"{width} lanes: expected a multiple of 8")
        self.width = width
        super().__init__(name=f"Lanes({width})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes):
        super().__init__(dmm, fe_type, ir.LiteralStructType([ir.VectorType(F32, n) for n in _parts(fe_type.width)]))


def _parts(width: int) -> list[int]:
    """Vectors of 16 where a row is made of them; where not, of 8, which then do not straddle cache lines."""
    return [16] * (width // 16) if width % 16 == 0 else [8] * (width // 8)


def _each(builder: Any, function: Callable[..., Any], *rows: Any) -> Any:
    """Apply a function of vectors to the parts of rows; the row of its results."""
    results = [function(*(builder.extract_value(row, i) for row in rows)) for i in range(len(rows[0].type.elements))]
    return _row(builder, results)


def _row(builder: Any, parts: list[Any]) -> Any:
    row = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for i, part in enumerate(parts):
        row = builder.insert_value(row, part, i)
    return row


def _addresses(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, width: int) -> list[Any]:
    """Pointers to the parts of a row in a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    pointers, first = [], builder.gep(data, [offset])
    for i, n in enumerate(_parts(width)):
        start = builder.gep(first, [ir.Constant(ir.IntType(64), n * i)])
        pointers.append(builder.bitcast(start, ir.VectorType(F32, n).as_pointer()))
    return pointers


def _all(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """The scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _constant(value: float, vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _call(builder: Any, name: str, result: Any, arguments: list[Any], **flags: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments, **flags)


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c."""
    return _call(builder, f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])


@intrinsic
def peek(typing_context: Any, array: Any, index: Any) -> tuple[Any, Callable]:
    """An element of a flat array; the index must be within it. Numba's own look-up also serves negative indices, which
    costs three instructions for each of the dozens of numbers that a pixel reads."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def poke(typing_context: Any, array: Any, index: Any, value: Any) -> tuple[Any, Callable]:
    """Set an element of a flat array; the index must be within it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@intrinsic
def load(typing_context: Any, array: Any, offset: Any, lanes: Any) -> tuple[Any, Callable]:
    """The row of `len(lanes)` numbers at an offset of a flat float32 array."""
    width = len(lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _addresses(context, builder, signature.args[0], arguments[0], arguments[1], width)
        return _row(builder, [builder.load(pointer, align=4) for pointer in pointers])

    return Lanes(width)(array, types.intp, lanes), generate


@intrinsic
def store(typing_context: Any, array: Any, offset: Any, x: Any) -> tuple[Any, Callable]:
    """Write a row at an offset of a flat float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _addresses(context, builder, signature.args[0], arguments[0], arguments[1], x.width)
        for i, pointer in enumerate(pointers):
            builder.store(builder.extract_value(arguments[2], i), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def row_of(typing_context: Any, scalar: Any, lanes: Any) -> tuple[Any, Callable]:
    """The row of `len(lanes)` equal numbers."""
    width = len(lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _row(builder, [_all(builder, arguments[0], ir.VectorType(F32, n)) for n in _parts(width)])

    return Lanes(width)(types.float32, lanes), generate


@intrinsic
def scale_add(typing_context: Any, x: Any, scalar: Any, y: Any) -> tuple[Any, Callable]:
    """x · scalar + y."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, scalar, b = arguments
        return _each(builder, lambda u, v: _fused(builder, u, _all(builder, scalar, u.type), v), a, b)

    return x(x, types.float32, y), generate


@intrinsic
def multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> tuple[Any, Callable]:
    """x · y + z, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, lambda a, b, c: _fused(builder, a, b, c), *arguments)

    return x(x, y, z), generate


@intrinsic
def divide(typing_context: Any, x: Any, y: Any) -> tuple[Any, Callable]:
    """x / y, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _each(builder, builder.fdiv, *arguments)

    return x(x, y), generate


@intrinsic
def total(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """The sum of the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part = _folded(builder, arguments[0], builder.fadd)
        name = f"llvm.vector.reduce.fadd.v{part.type.count}f32"
        return _call(builder, name, F32, [ir.Constant(F32, 0.0), part], fastmath=("reassoc", "nsz"))

    return types.float32(x), generate


@intrinsic
def largest(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """The largest of the lanes; none may be NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part = _folded(builder, arguments[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
        name = f"llvm.vector.reduce.fmax.v{part.type.count}f32"
        return _call(builder, name, F32, [part], fastmath=("nnan", "nsz"))

    return types.float32(x), generate


def _folded(builder: Any, row: Any, both: Callable[[Any, Any], Any]) -> Any:
    """The row's parts folded into one."""
    return reduce(both, [builder.extract_value(row, i) for i in range(len(row.type.elements))])


# 2^f on [-1/2, 1/2] to within 7.5e-8 of it, the polynomial of degree 5 with the least relative error.
_POWERS_OF_TWO = (1.0000000716547572, 0.6931469670586434, 0.2402211972316793, 0.05550713282892373, 0.009675541379081515,
                  0.0013276469144345823)  # fmt: skip
_LOG2_E = 1.4426950408889634
_LOWEST = -72.0  # e^-50 is 2^-72; denormal numbers, which begin at 2^-126, are slow


@intrinsic
def exponential(typing_context: Any, x: Any, shift: Any) -> tuple[Any, Callable]:
    """e^(x - shift), for results from e^-50 (what would be less is that) to e^88, to within 2e-7."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, shift = arguments
        return _each(builder, lambda part: _exponential(builder, part, shift), row)

    return x(x, types.float32), generate


def _exponential(builder: Any, value: Any, shift: Any) -> Any:
    vector, n = value.type, value.type.count
    y = builder.fmul(builder.fsub(value, _all(builder, shift, vector)), _constant(_LOG2_E, vector))
    y = _call(builder, f"llvm.maxnum.v{n}f32", vector, [y, _constant(_LOWEST, vector)], fastmath=("nnan",))
    whole = _call(builder, f"llvm.rint.v{n}f32", vector, [y])
    part = builder.fsub(y, whole)
    power = _constant(_POWERS_OF_TWO[-1], vector)
    for coefficient in _POWERS_OF_TWO[-2::-1]:
        power = _fused(builder, power, part, _constant(coefficient, vector))
    integers = ir.VectorType(I32, n)
    exponent = builder.add(builder.fptosi(whole, integers), ir.Constant(integers, [127] * n))
    two = builder.bitcast(builder.shl(exponent, ir.Constant(integers, [23] * n)), vector)
    return builder.fmul(power, two)


# log(1 + f) / f on [sqrt 1/2 - 1, sqrt 2 - 1] to within 1.7e-7 of it, the polynomial of degree 7 with the least error.
_LOG = (0.9999999453083086, -0.500003651239926, 0.33335058971445425, -0.2496990904820243, 0.19900164636711076,
        -0.1725082907760408, 0.1622258720805357, -0.10106906138319266)  # fmt: skip
_BITS_OF_ROOT_HALF = 0x3F3504F3
_LN_2 = 0.6931471805599453


@intrinsic
def logarithm(typing_context: Any, x: Any, least: Any) -> tuple[Any, Callable]:
    """The natural logarithm of the lanes, or of the positive scalar where they are less, to within 3e-7."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        row, least = arguments
        return _each(builder, lambda part: _logarithm(builder, part, least), row)

    return x(x, types.float32), generate


def _logarithm(builder: Any, value: Any, least: Any) -> Any:
    """x = 2^n m with m from sqrt 1/2 to sqrt 2: log x = n log 2 + log m."""
    vector, count = value.type, value.type.count
    integers = ir.VectorType(I32, count)

    def integer(i: int) -> ir.Constant:
        return ir.Constant(integers, [i] * count)

    floor = _all(builder, least, vector)
    bits = builder.bitcast(builder.select(builder.fcmp_ordered(">", value, floor), value, floor), integers)
    n = builder.ashr(builder.sub(bits, integer(_BITS_OF_ROOT_HALF)), integer(23))
    m = builder.bitcast(builder.sub(bits, builder.shl(n, integer(23))), vector)
    f = builder.fsub(m, _constant(1.0, vector))
    quotient = _constant(_LOG[-1], vector)
    for coefficient in _LOG[-2::-1]:
        quotient = _fused(builder, quotient, f, _constant(coefficient, vector))
    return _fused(builder, builder.sitofp(n, vector), _constant(_LN_2, vector), builder.fmul(quotient, f))
