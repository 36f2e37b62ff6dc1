/*
 * Kernels for one observation at a time: dense layers and what stands between them.
 *
 * The integer layers compute what ONNX Runtime's QGemm computes, bit for bit: u8 inputs, s8 weights, exact int32
 * sums, one float32 product, round half to even.
 *
 * Tables of weights have one of two layouts:
 *   rows     [out][in]                       in padded to 4, from 64 on to 16; for plain C and microcontrollers
 *   packed   [out / block][in / 4][block][4] in padded to 4, out to 16, block 128 (the last one what is left over);
 *            for vector units. float32: [out / 64][in][64], out padded to 16
 * Padding is zero, so that sums do not change. Weights of fewer than eight bits may be packed: dense_bits.h says how.
 */
#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "compile without -ffast-math: rounding and NaN must be as written"
#endif

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Which tables of weights are there: both (the target chooses), or one. */
#define POLICY_LAYOUT_AUTO 0
#define POLICY_LAYOUT_ROWS 1
#define POLICY_LAYOUT_PACKED 2

/* What a weight takes: a byte, its bits, or (auto) its bits where the target has no vector units. */
#define POLICY_WEIGHTS_AUTO 0
#define POLICY_WEIGHTS_BYTES 1
#define POLICY_WEIGHTS_BITS 2
#ifndef POLICY_WEIGHTS
#define POLICY_WEIGHTS POLICY_WEIGHTS_BYTES
#endif

/* Kernels by number, for -DPOLICY_KERNEL=<name>; without it the best one that the target has. */
#define POLICY_PLAIN 0
#define POLICY_SMLAD 1
#define POLICY_NEON 2
#define POLICY_AVX2 3
#define POLICY_VNNI 4

#ifndef POLICY_KERNEL
#if !defined(__GNUC__) || !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#define POLICY_KERNEL POLICY_PLAIN
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__)
#define POLICY_KERNEL POLICY_VNNI
#elif defined(__AVX2__)
#define POLICY_KERNEL POLICY_AVX2
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__)
#define POLICY_KERNEL POLICY_NEON
#elif defined(__ARM_FEATURE_SIMD32) && defined(__ARM_ARCH_PROFILE) && __ARM_ARCH_PROFILE == 'M'
#define POLICY_KERNEL POLICY_SMLAD
#else
#define POLICY_KERNEL POLICY_PLAIN
#endif
#endif

#if POLICY_KERNEL == POLICY_VNNI || POLICY_KERNEL == POLICY_AVX2
#include <immintrin.h>
#elif POLICY_KERNEL == POLICY_NEON
#include <arm_neon.h>
#elif POLICY_KERNEL == POLICY_SMLAD
#include <arm_acle.h>
#endif

/* Whether compilers turn plain loops into vector instructions here. */
#if defined(__x86_64__) || defined(_M_X64) || defined(__aarch64__) || defined(_M_ARM64)
#define POLICY_VECTORIZES 1
#else
#define POLICY_VECTORIZES 0
#endif

/* Vectors like whole cache lines; elsewhere the gaps between tables would only cost flash. */
#if defined(__GNUC__) && POLICY_VECTORIZES
#define POLICY_ALIGNED __attribute__((aligned(64)))
#elif defined(__GNUC__)
#define POLICY_ALIGNED __attribute__((aligned(4)))
#else
#define POLICY_ALIGNED
#endif

#if defined(__GNUC__)
#define POLICY_INLINE static inline __attribute__((always_inline, unused))
#else
#define POLICY_INLINE static
#endif

/* Widths are literals at every call: a copy of the kernel for each layer is faster, one for all is smaller. */
#if defined(__OPTIMIZE_SIZE__) && defined(__GNUC__)
#define POLICY_DENSE static __attribute__((noinline, unused))
#else
#define POLICY_DENSE POLICY_INLINE
#endif
#if defined(__clang__)
#define POLICY_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define POLICY_UNROLL _Pragma("GCC unroll 16")
#else
#define POLICY_UNROLL
#endif

/* Fused multiply-add a * b + c, which ONNX Runtime's tanh, SiLU and GELU are made of. */
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__FP_FAST_FMAF)
#define POLICY_FUSES 1
POLICY_INLINE float policy_fma(float a, float b, float c) { return fmaf(a, b, c); }
#elif defined(__SSE2__) || defined(_M_X64) || (defined(__riscv_flen) && __riscv_flen >= 64)
/* The product of two floats is exact in double; rounding twice changes about one result in 2^29. */
#define POLICY_FUSES 1
POLICY_INLINE float policy_fma(float a, float b, float c) { return (float)((double)a * (double)b + (double)c); }
#else
#define POLICY_FUSES 0
POLICY_INLINE float policy_fma(float a, float b, float c) { return a * b + c; }
#endif

/* Whether integer policies give the bits of ONNX Runtime; x87 registers round twice. */
#if POLICY_FUSES && defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD == 0
#define POLICY_EXACT 1
#else
#define POLICY_EXACT 0
#endif

/* v between low and high; low where v is NaN. */
POLICY_INLINE float policy_clamp(float v, float low, float high)
{
    v = v > low ? v : low;
    return v < high ? v : high;
}

/* v between low and high; NaN stays. */
POLICY_INLINE float policy_clip(float v, float low, float high)
{
    v = v < low ? low : v;
    return v > high ? high : v;
}

/* An observation as a number that cannot overflow a float network; 0 where it is NaN. */
POLICY_INLINE float policy_bounded(float v)
{
    v = v == v ? v : 0.0f;
    return policy_clamp(v, -1e9f, 1e9f);
}

/*
 * tanh as the rational function of degree 13/6 that Eigen and ONNX Runtime use. -1 for NaN.
 * Error below 4e-7; with fused multiply-adds the same bits as ONNX Runtime.
 */
POLICY_INLINE float policy_tanh(float v)
{
    const float x = policy_clamp(v, -9.0f, 9.0f);
    const float x2 = x * x;
    float p = policy_fma(x2, -2.76076847742355e-16f, 2.00018790482477e-13f);
    float q = policy_fma(x2, 1.19825839466702e-06f, 1.18534705686654e-04f);
    p = policy_fma(x2, p, -8.60467152213735e-11f);
    p = policy_fma(x2, p, 5.12229709037114e-08f);
    p = policy_fma(x2, p, 1.48572235717979e-05f);
    p = policy_fma(x2, p, 6.37261928875436e-04f);
    p = policy_fma(x2, p, 4.89352455891786e-03f);
    q = policy_fma(x2, q, 2.26843463243900e-03f);
    q = policy_fma(x2, q, 4.89352518554385e-03f);
    return x * p / q;
}

/* 0 for NaN, so that nothing undefined leaves a layer. */
POLICY_INLINE float policy_relu(float v) { return v > 0.0f ? v : 0.0f; }

/*
 * The level of v on a grid from 0 to `last`, v already divided by its step: clamped, rounded half to even, counted from
 * the level `zero`.
 * Adding 1.5 * 2^23 leaves the rounded integer in the low bits of the float.
 */
POLICY_INLINE uint8_t policy_level(float v, int32_t zero, int32_t last)
{
    const float shifted = policy_clamp(v, (float)-zero, (float)(last - zero)) + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (uint8_t)(bits + (uint32_t)zero);
}
