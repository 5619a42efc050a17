/* Numbers as instructions of PTX have them. */

static float of_bits(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static uint32_t bits_of(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }
static double of_bits64(uint64_t bits) { double x; memcpy(&x, &bits, 8); return x; }
static uint64_t bits_of64(double x) { uint64_t bits; memcpy(&bits, &x, 8); return bits; }
static float flushed(float x) { return fabsf(x) < 0x1p-126f ? copysignf(0, x) : x; }

static uint32_t to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static float rounded(int how, float x, float y, float z) /* x y + z */
{
    volatile float a = x, b = y, c = z, result;
    fesetround(how);
    result = fmaf(a, b, c);
    fesetround(FE_TONEAREST);
    return result;
}
