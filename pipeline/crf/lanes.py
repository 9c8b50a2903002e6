"""A vector type for Numba whose value stays in registers.

LLVM may or may not vectorise a loop over the classes of a row: as far as it knows the arrays may overlap, so it reloads
what it has just stored. A value of type `Lanes` is a vector of a fixed number of float32 lanes, held in LLVM vectors of
16 or 8. Loading, multiplying or storing the whole vector is one operation, compiled to the instructions that the
machine has. (LLVM breaks vectors of other lengths, such as 24, into scalars.)

The number of lanes is the length of a tuple argument, as in `load(values, 24 * i, (0,) * 24)`: one source compiles to
one variant for each number of lanes, and Numba caches each on disk.
"""

from collections.abc import Callable
from functools import reduce
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

F32, I32 = ir.FloatType(), ir.IntType(32)


class Lanes(types.Type):
    """The Numba type of a vector of float32.

    Args:
        width: number of lanes, a multiple of 8.

    Raises:
        ValueError: The width is not a multiple of 8.
    """

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
    """Return the lengths of the LLVM vectors: 16 if they divide the width, else 8, which never straddle cache lines."""
    return [16] * (width // 16) if width % 16 == 0 else [8] * (width // 8)


def _map_parts(builder: Any, function: Callable[..., Any], *vectors: Any) -> Any:
    """Apply a function of LLVM vectors to the corresponding parts of `Lanes` values."""
    parts = range(len(vectors[0].type.elements))
    return _join(builder, [function(*(builder.extract_value(vector, i) for vector in vectors)) for i in parts])


def _join(builder: Any, parts: list[Any]) -> Any:
    """Return a `Lanes` value made of LLVM vectors."""
    vector = ir.Constant(ir.LiteralStructType([part.type for part in parts]), ir.Undefined)
    for i, part in enumerate(parts):
        vector = builder.insert_value(vector, part, i)
    return vector


def _addresses(context: Any, builder: Any, array_type: Any, array: Any, offset: Any, width: int) -> list[Any]:
    """Return pointers to the parts of a vector in a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    pointers, first = [], builder.gep(data, [offset])
    for i, n in enumerate(_parts(width)):
        start = builder.gep(first, [ir.Constant(ir.IntType(64), n * i)])
        pointers.append(builder.bitcast(start, ir.VectorType(F32, n).as_pointer()))
    return pointers


def _broadcast(builder: Any, scalar: Any, vector: ir.VectorType) -> Any:
    """Return an LLVM vector with the scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _constant(value: float, vector: ir.VectorType) -> ir.Constant:
    return ir.Constant(vector, [value] * vector.count)


def _call(builder: Any, name: str, result: Any, arguments: list[Any], **flags: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments, **flags)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a · b + c with one rounding."""
    return _call(builder, f"llvm.fma.v{a.type.count}f32", a.type, [a, b, c])


def _reduce_parts(builder: Any, vector: Any, combine: Callable[[Any, Any], Any]) -> Any:
    """Combine the parts of a `Lanes` value into one LLVM vector."""
    return reduce(combine, [builder.extract_value(vector, i) for i in range(len(vector.type.elements))])


@intrinsic
def peek(typing_context: Any, array: Any, index: Any) -> tuple[Any, Callable]:
    """Return an element of a flat array, whose index must be valid and not negative.

    Numba's own indexing also accepts negative indices. That costs three instructions for each of the dozens of numbers
    read for a pixel.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load(builder.gep(data, [arguments[1]]))

    return array.dtype(array, types.intp), generate


@intrinsic
def poke(typing_context: Any, array: Any, index: Any, value: Any) -> tuple[Any, Callable]:
    """Set an element of a flat array, whose index must be valid and not negative."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(arguments[2], builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, array.dtype), generate


@intrinsic
def load(typing_context: Any, array: Any, offset: Any, lanes: Any) -> tuple[Any, Callable]:
    """Return the vector of `len(lanes)` numbers at an offset of a flat float32 array."""
    width = len(lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _addresses(context, builder, signature.args[0], arguments[0], arguments[1], width)
        return _join(builder, [builder.load(pointer, align=4) for pointer in pointers])

    return Lanes(width)(array, types.intp, lanes), generate


@intrinsic
def store(typing_context: Any, array: Any, offset: Any, x: Any) -> tuple[Any, Callable]:
    """Write a vector to an offset of a flat float32 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointers = _addresses(context, builder, signature.args[0], arguments[0], arguments[1], x.width)
        for i, pointer in enumerate(pointers):
            builder.store(builder.extract_value(arguments[2], i), pointer, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, x), generate


@intrinsic
def broadcast(typing_context: Any, scalar: Any, lanes: Any) -> tuple[Any, Callable]:
    """Return a vector of `len(lanes)` equal numbers."""
    width = len(lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _join(builder, [_broadcast(builder, arguments[0], ir.VectorType(F32, n)) for n in _parts(width)])

    return Lanes(width)(types.float32, lanes), generate


@intrinsic
def scale_add(typing_context: Any, x: Any, scalar: Any, y: Any) -> tuple[Any, Callable]:
    """Return x · scalar + y."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        a, scalar, b = arguments
        return _map_parts(builder, lambda u, v: _fma(builder, u, _broadcast(builder, scalar, u.type), v), a, b)

    return x(x, types.float32, y), generate


@intrinsic
def multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> tuple[Any, Callable]:
    """Return x · y + z, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _map_parts(builder, lambda a, b, c: _fma(builder, a, b, c), *arguments)

    return x(x, y, z), generate


@intrinsic
def divide(typing_context: Any, x: Any, y: Any) -> tuple[Any, Callable]:
    """Return x / y, lane by lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _map_parts(builder, builder.fdiv, *arguments)

    return x(x, y), generate


@intrinsic
def lane_sum(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """Return the sum of the lanes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part = _reduce_parts(builder, arguments[0], builder.fadd)
        name = f"llvm.vector.reduce.fadd.v{part.type.count}f32"
        return _call(builder, name, F32, [ir.Constant(F32, 0.0), part], fastmath=("reassoc", "nsz"))

    return types.float32(x), generate


@intrinsic
def lane_maximum(typing_context: Any, x: Any) -> tuple[Any, Callable]:
    """Return the maximum of the lanes; none may be NaN."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        part = _reduce_parts(builder, arguments[0], lambda a, b: builder.select(builder.fcmp_ordered(">", a, b), a, b))
        name = f"llvm.vector.reduce.fmax.v{part.type.count}f32"
        return _call(builder, name, F32, [part], fastmath=("nnan", "nsz"))

    return types.float32(x), generate


# 2^f on [-1/2, 1/2]: minimax polynomial of degree 5 with a relative error of 7.5e-8.
_POWERS_OF_TWO = (1.0000000716547572, 0.6931469670586434, 0.2402211972316793, 0.05550713282892373, 0.009675541379081515,
                  0.0013276469144345823)  # fmt: skip
_LOG2_E = 1.4426950408889634
_LOWEST = -72.0  # e^-50 is 2^-72, far above the denormal numbers below 2^-126, which are slow


@intrinsic
def exponential(typing_context: Any, x: Any, shift: Any) -> tuple[Any, Callable]:
    """Return e^(x - shift), lane by lane, with a relative error of 2e-7.

    Results below e^-50 are raised to e^-50; x - shift must be less than 88.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, shift = arguments
        return _map_parts(builder, lambda part: _exponential(builder, part, shift), vector)

    return x(x, types.float32), generate


def _exponential(builder: Any, value: Any, shift: Any) -> Any:
    """Return e^(value - shift) as 2^whole · 2^fraction, where 2^whole is made from its exponent bits."""
    vector, n = value.type, value.type.count
    y = builder.fmul(builder.fsub(value, _broadcast(builder, shift, vector)), _constant(_LOG2_E, vector))
    y = _call(builder, f"llvm.maxnum.v{n}f32", vector, [y, _constant(_LOWEST, vector)], fastmath=("nnan",))
    whole = _call(builder, f"llvm.rint.v{n}f32", vector, [y])
    fraction = builder.fsub(y, whole)
    power = _constant(_POWERS_OF_TWO[-1], vector)
    for coefficient in _POWERS_OF_TWO[-2::-1]:
        power = _fma(builder, power, fraction, _constant(coefficient, vector))
    integers = ir.VectorType(I32, n)
    exponent = builder.add(builder.fptosi(whole, integers), ir.Constant(integers, [127] * n))
    scale = builder.bitcast(builder.shl(exponent, ir.Constant(integers, [23] * n)), vector)
    return builder.fmul(power, scale)


# log(1 + f) / f on [sqrt 1/2 - 1, sqrt 2 - 1]: minimax polynomial of degree 7 with an error of 1.7e-7.
_LOG = (0.9999999453083086, -0.500003651239926, 0.33335058971445425, -0.2496990904820243, 0.19900164636711076,
        -0.1725082907760408, 0.1622258720805357, -0.10106906138319266)  # fmt: skip
_BITS_OF_ROOT_HALF = 0x3F3504F3
_LN_2 = 0.6931471805599453


@intrinsic
def logarithm(typing_context: Any, x: Any, least: Any) -> tuple[Any, Callable]:
    """Return log max(x, least), lane by lane, with an error of 3e-7; `least` is a positive scalar."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, least = arguments
        return _map_parts(builder, lambda part: _logarithm(builder, part, least), vector)

    return x(x, types.float32), generate


def _logarithm(builder: Any, value: Any, least: Any) -> Any:
    """Return n log 2 + log m, where the value is 2^n m with m between sqrt 1/2 and sqrt 2."""
    vector, count = value.type, value.type.count
    integers = ir.VectorType(I32, count)

    def integer(i: int) -> ir.Constant:
        return ir.Constant(integers, [i] * count)

    floor = _broadcast(builder, least, vector)
    bits = builder.bitcast(builder.select(builder.fcmp_ordered(">", value, floor), value, floor), integers)
    n = builder.ashr(builder.sub(bits, integer(_BITS_OF_ROOT_HALF)), integer(23))
    m = builder.bitcast(builder.sub(bits, builder.shl(n, integer(23))), vector)
    f = builder.fsub(m, _constant(1.0, vector))
    quotient = _constant(_LOG[-1], vector)
    for coefficient in _LOG[-2::-1]:
        quotient = _fma(builder, quotient, f, _constant(coefficient, vector))
    return _fma(builder, builder.sitofp(n, vector), _constant(_LN_2, vector), builder.fmul(quotient, f))
