"""exp, log, tanh, sigmoid and erf of one number, written so that LLVM vectorizes the loops around
them.

A loop over `math.exp` calls a library once per element. These functions have no call, no branch and
no table, only arithmetic and selections, so the compiler works on 8 or 16 elements at once. For use
inside compiled kernels:

    @jit
    def loop(x, out):
        for i in range(x.size):
            out[i] = exp(x[i])

Method, of all of them: reduce the argument to a small interval, evaluate a polynomial there, undo the
reduction. exp follows Cody & Waite, "Software Manual for the Elementary Functions", 1980, chapter 6.
With n = round(x / ln 2) and r = x - n ln 2 in [-ln 2 / 2, ln 2 / 2]:

    e^x = 2^n e^r,     e^r = 1 + r + r^2 Q(r)

ln 2 is subtracted in two parts, the larger one short enough that n times it is exact: r keeps all its
digits. 2^n is made by writing n into the exponent's bits.

Each polynomial is the one whose largest RELATIVE error of the function is least (Remez' exchange
algorithm, in 60-digit arithmetic, on the interval named beside it); "2^-29" there is that error.
Rounding comes on top: every function is within 2 units in the last place of the true value, for all
float32 numbers and subnormal results too (tests/kernels/test_elementary.py). Nothing but fused
multiply-adds is left to the compiler ("contract"): reassociation would undo the two-part subtraction.
"""

import inspect

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

CONTRACT = frozenset({"contract"})

# Functions of this module are typed for float32 and float64 alike; these pick the constants.
FLOATS = {types.float32: np.float32, types.float64: np.float64}


def polynomial(coefficients):
    """A compiled function x -> c0 + c1 x + c2 x^2 + ... by Horner's rule, without a loop.

    coefficients: {types.float32: (c0, c1, ...), types.float64: (c0, c1, ...)}; the precision wanted
    decides how many there are.
    """

    @intrinsic
    def evaluate(typing_context, x):
        element = ir.FloatType() if x == types.float32 else ir.DoubleType()
        constants = [ir.Constant(element, float(FLOATS[x](c))) for c in coefficients[x]]

        def emit(context, builder, signature, arguments):
            result = constants[-1]
            for constant in constants[-2::-1]:
                product = builder.fmul(result, arguments[0], flags=("contract",))
                result = builder.fadd(product, constant, flags=("contract",))
            return result

        return x(x), emit

    return evaluate


@intrinsic
def bits(typing_context, x):
    """The bits of a floating-point number as an integer of the same width."""
    integer = types.int32 if x == types.float32 else types.int64

    def emit(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(integer.bitwidth))

    return integer(x), emit


@intrinsic
def number(typing_context, pattern):
    """The floating-point number with these bits."""
    real = types.float32 if pattern == types.int32 else types.float64

    def emit(context, builder, signature, arguments):
        element = ir.FloatType() if real == types.float32 else ir.DoubleType()
        return builder.bitcast(arguments[0], element)

    return real(pattern), emit


class Format:
    """What the functions must know about a floating-point format."""

    def __init__(self, real, integer, mantissa_bits, ln2_high, ln2_low):
        self.real = real
        self.integer = integer
        self.mantissa_bits = integer(mantissa_bits)
        self.bias = integer(np.finfo(real).maxexp - 1)
        self.sign_bit = integer(np.iinfo(integer).min)
        self.all_but_sign = integer(np.iinfo(integer).max)
        self.exponent_mask = integer(self.bias * 2 + 1 << mantissa_bits)
        self.sign_place = integer(np.iinfo(integer).bits - 1)
        # Adding 1.5 * 2^mantissa_bits to a number leaves no room for a fraction: it is rounded to an
        # integer, which stands in the low bits of the sum.
        self.rounder = real(1.5 * 2.0**mantissa_bits)
        self.rounder_bits = self.rounder.view(integer)
        self.ln2_high, self.ln2_low = real(ln2_high), real(ln2_low)
        # Below exp_low, e^x rounds to 0; above exp_high, to infinity.
        self.exp_low = real(-104 if real is np.float32 else -746)
        self.exp_high = real(89 if real is np.float32 else 710)
        self.exp_small = real(-80 if real is np.float32 else -700)  # e^x is still a normal number


FORMATS = {
    types.float32: Format(np.float32, np.int32, 23, 0.693145751953125, 1.4286068203094173e-06),
    types.float64: Format(np.float64, np.int64, 52, 0.6931471803691238, 1.9082149292705877e-10),
}


def elementary(function):
    """Make `function(format)`, which returns the code for one format, known to the compiler under
    the name of the stub that replaces it. The type of the first argument decides the format."""

    def stub(*numbers):
        raise TypeError(f"{function.__name__} of numbers can be called from compiled code only")

    stub.__name__ = stub.__qualname__ = function.__name__
    stub.__doc__ = function.__doc__

    def choose(*argument_types):
        first = argument_types[0]
        return function(FORMATS[first]) if first in FORMATS else None

    choose.__signature__ = inspect.signature(function(FORMATS[types.float32]))
    # A call that is not inlined would keep the loop around it from being vectorized.
    options = {"fastmath": set(CONTRACT), "error_model": "numpy", "forceinline": True}
    overload(stub, jit_options=options)(choose)
    return stub


# e^r = 1 + r + r^2 Q(r) for |r| <= ln 2 / 2, error relative to e^r - 1: 2^-26, 2^-55.
_exp_tail = polynomial(
    {
        types.float32: (
            0.49999998144128954, 0.1666654317802069, 0.04166720176057808, 0.008366580340859167,
            0.0013882511298214113,
        ),
        types.float64: (
            0.5000000000000006, 0.16666666666666588, 0.04166666666657611, 0.008333333333389962,
            0.0013888888931794944, 0.00019841269718334206, 2.4801504978878156e-05,
            2.755740787212198e-06, 2.7626161440265013e-07, 2.5053774292813266e-08,
        ),
    }
)  # fmt: skip


@elementary
def exp(fmt):
    """e^x."""
    real, integer, shift = fmt.real, fmt.integer, fmt.mantissa_bits
    low, high, small, one = fmt.exp_low, fmt.exp_high, fmt.exp_small, fmt.real(1)
    per_ln2, ln2_high, ln2_low = real(1.4426950408889634), fmt.ln2_high, fmt.ln2_low
    rounder = fmt.rounder
    # e^x may be subnormal, or so large that 2^n is not a number although e^x is. So the power of two
    # is multiplied in two steps, of which only the second can round or overflow.
    first, rest = integer(fmt.bias - 1 - fmt.rounder_bits), real(2)
    first_small, rest_small = integer(first + 64), real(2.0**-63)

    def code(x):
        x = high if x > high else x  # NaN fails every comparison and so goes through
        x = low if x < low else x
        shifted = x * per_ln2 + rounder
        n = shifted - rounder
        r = (x - n * ln2_high) - n * ln2_low
        power = one + (r + r * r * _exp_tail(r))
        offset = first_small if x < small else first
        factor = rest_small if x < small else rest
        return power * number(integer((bits(shifted) + offset) << shift)) * factor

    return code


@elementary
def sigmoid(fmt):
    """1 / (1 + e^-x), from e^-|x| so that nothing overflows and small results keep their digits."""
    zero, one = fmt.real(0), fmt.real(1)

    def code(x):
        e = exp(-abs(x))
        divisor = one + e
        lost = e - (divisor - one)  # what rounding took from the divisor
        y = (e if x < zero else one) / divisor
        inverse = one - y if x < zero else y  # 1 / divisor
        return y - y * (lost * inverse)

    return code


@elementary
def quick_sigmoid(fmt):
    """The same without the correction, within 3 ulp: for products, whose own rounding hides it."""
    zero, one = fmt.real(0), fmt.real(1)

    def code(x):
        e = exp(-abs(x))
        return (e if x < zero else one) / (one + e)

    return code


# tanh x = x + x z P(z) with z = x^2, for |x| < 0.55: 2^-29, 2^-54.
_tanh_small = polynomial(
    {
        types.float32: (
            -0.3333333333333333, 0.13333018301808786, -0.05389034995989681, 0.021206624639115226,
            -0.0064419657689264356,
        ),
        types.float64: (
            -0.3333333333333333, 0.13333333333286956, -0.05396825392384331, 0.021869486928563733,
            -0.008863205346023787, 0.0035917945060412997, -0.0014535360209069876,
            0.0005799606697868834, -0.0002114796311843594, 5.17371303681475e-05,
        ),
    }
)  # fmt: skip


@elementary
def tanh(fmt):
    """A polynomial near 0, where the quotient would lose digits; else 1 - 2 / (e^2|x| + 1) with the
    sign of x."""
    near, one, two = fmt.real(0.55), fmt.real(1), fmt.real(2)
    sign_bit, integer = fmt.sign_bit, fmt.integer

    def code(x):
        magnitude = abs(x)
        z = x * x
        # Both are computed before one is chosen: inside the choice they would become a branch.
        small = magnitude + magnitude * (z * _tanh_small(z))
        large = one - two / (exp(two * magnitude) + one)
        y = small if magnitude < near else large
        return number(integer(bits(y) | (bits(x) & sign_bit)))

    return code


# log((1 + s) / (1 - s)) = 2 s + s z R(z) with z = s^2. For log, |s| <= (sqrt 2 - 1) / (sqrt 2 + 1):
# 2^-29, 2^-58. For log1p of [0, 1], s <= 1/3: 2^-32, 2^-58.
_log_tail = polynomial(
    {
        types.float32: (0.6666666666666666, 0.39988189400346386, 0.29632197118199943),
        types.float64: (
            0.6666666666666666, 0.3999999999979832, 0.28571428668676874, 0.22222205172755255,
            0.18183262481694426, 0.15320898025827462, 0.14734800541485968,
        ),
    }
)  # fmt: skip
_log1p_tail = polynomial(
    {
        types.float32: (
            0.6666666666666666, 0.39999547765494503, 0.28600834053434865, 0.2158235100629834,
            0.23779058897726618,
        ),
        types.float64: (
            0.6666666666666666, 0.4000000000004204, 0.2857142856057142, 0.22222223276740263,
            0.18181765395697674, 0.15386156560479128, 0.13305656368681126, 0.12073250254608386,
            0.08467564299436102, 0.16808286989061208,
        ),
    }
)  # fmt: skip


@elementary
def log(fmt):
    """Natural logarithm: -inf at 0, NaN below.

    x = m 2^k with m in [sqrt(1/2), sqrt 2), f = m - 1, s = f / (2 + f), so that m = (1+s) / (1-s):
    log x = k ln 2 + f - (f^2/2 - s (f^2/2 + z R(z))), the terms in the order of their size.
    """
    real, integer, shift = fmt.real, fmt.integer, fmt.mantissa_bits
    zero, half, one, two = (real(value) for value in (0, 0.5, 1, 2))
    infinity, not_a_number, smallest = real(np.inf), real(np.nan), np.finfo(real).tiny
    ln2_high, ln2_low = fmt.ln2_high, fmt.ln2_low
    up = real(2.0 ** int(shift))
    half_root = integer(real(np.sqrt(0.5)).view(integer))

    def code(x):
        # A subnormal number gets a full mantissa first.
        y = x * up if x < smallest else x
        # Counting from the bits of sqrt(1/2), the exponent field is k, floored as wanted.
        k = (bits(y) - half_root) >> shift
        f = number(integer(bits(y) - (k << shift))) - one
        n = real(integer(k)) - (real(shift) if x < smallest else zero)
        s = f / (two + f)
        z = s * s
        square = half * f * f
        result = n * ln2_high - ((square - (s * (square + z * _log_tail(z)) + n * ln2_low)) - f)
        result = -infinity if x == zero else result
        result = x if x == infinity else result
        return result if x >= zero else not_a_number

    return code


@elementary
def log1p(fmt):
    """log(1 + x), for x in [0, 1] only, where no reduction is needed: s = x / (2 + x)."""
    two = fmt.real(2)

    def code(x):
        s = x / (two + x)
        z = s * s
        return x - s * (x - z * _log1p_tail(z))

    return code


# erf(x) = x + x P(x^2) for |x| <= 3/4: 2^-29, 2^-60.
_erf_small = polynomial(
    {
        types.float32: (
            0.1283791654964599, -0.376126187567982, 0.11283376575192867, -0.026834624606322896,
            0.005114345620837807, -0.0006749513709311206,
        ),
        types.float64: (
            0.1283791670955126, -0.37612638903183715, 0.11283791670952481, -0.026866170644402474,
            0.005223977615122196, -0.0008548326169084353, 0.00012055288776941489,
            -1.4924176630550645e-05, 1.6430388124397056e-06, -1.5937599339626548e-07,
            1.1463755713858674e-08,
        ),
    }
)  # fmt: skip

# (a + c) e^(a^2) erfc(a) = T(q), q = (a - c) / (a + c), for all a >= 0 whose erfc is not 0
# (the substitution of Shepherd & Laframboise, Mathematics of Computation 36, 1981): 2^-26 with
# c = 2.5, 2^-56 with c = 3.5.
_erfc_center = {types.float32: 2.5, types.float64: 3.5}
_erfc_scaled = polynomial(
    {
        types.float32: (
            1.0540318184840791, -0.8046517201701142, 0.4539142059809625, -0.17125489739037486,
            0.028359817118336763, 0.008422530226923715, -0.004799909912194986,
            -0.000525989608995599, 0.0006229340574914482, 0.00013891946195589933,
        ),
        types.float64: (
            1.08705558926226, -0.9377997245671119, 0.6941136466346454, -0.43525602671689984,
            0.2257386216473643, -0.09231870663816684, 0.02651861988262269, -0.003177050346829086,
            -0.0013053547020111893, 0.0007145317151128326, -4.20621012001725e-05,
            -7.477720959427802e-05, 1.8646944986786055e-05, 7.244439357290842e-06,
            -3.391433115556341e-06, -7.966972777989863e-07, 5.496554418953282e-07,
            1.1621704194529064e-07, -8.279831739838774e-08, -2.1595371645673487e-08,
            8.795059924453472e-09, 3.1874759685501847e-09,
        ),
    }
)  # fmt: skip


@elementary
def erfc_and_gaussian(fmt):
    """(erfc(a), e^(-a^2)) for a = x >= 0; accurate relative to 1, not to erfc where it is tiny."""
    real = fmt.real
    center = real(_erfc_center[types.float32 if real is np.float32 else types.float64])
    limit = real(10.5 if real is np.float32 else 27.5)  # both results round to 0 there

    def code(x):
        a = limit if x > limit else x
        gaussian = exp(-a * a)
        sum_ = a + center
        return gaussian * _erfc_scaled((a - center) / sum_) / sum_, gaussian

    return code


@elementary
def erf(fmt):
    """2 / sqrt(pi) * integral of e^(-t^2) from 0 to x: a polynomial near 0, else 1 - erfc."""
    one, near, sign_bit, integer = fmt.real(1), fmt.real(0.75), fmt.sign_bit, fmt.integer

    def code(x):
        magnitude = abs(x)
        small = magnitude + magnitude * _erf_small(x * x)
        large = one - erfc_and_gaussian(magnitude)[0]
        y = small if magnitude < near else large
        return number(integer(bits(y) | (bits(x) & sign_bit)))

    return code


@elementary
def normal(fmt):
    """The standard normal distribution's integral up to x, and its density at x: Phi(x), phi(x)."""
    root_half, half = fmt.real(np.sqrt(0.5)), fmt.real(0.5)
    zero, one, peak = fmt.real(0), fmt.real(1), fmt.real(1 / np.sqrt(2 * np.pi))

    def code(x):
        erfc, gaussian = erfc_and_gaussian(abs(x) * root_half)
        tail = half * erfc
        rest = one - tail
        return (tail if x < zero else rest), peak * gaussian

    return code
