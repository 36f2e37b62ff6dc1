/*
 * Float layers: sums[o] = bias[o] + sum over i of x[i] * w[o][i]. Packed kernels write a multiple of 16 sums,
 * and with `skip` leave out inputs that are zero.
 */
#if POLICY_LAYOUT == POLICY_LAYOUT_AUTO
#define POLICY_PACKED POLICY_VECTORIZES
#else
#define POLICY_PACKED (POLICY_LAYOUT == POLICY_LAYOUT_PACKED)
#endif
#define POLICY_BLOCK 64

/* The inputs that are not zero: the others add nothing to a sum. */
POLICY_INLINE int policy_nonzero_inputs(const float *x, int in, uint16_t *list)
{
    int count = 0;
    for (int i = 0; i < in; i++) {
        list[count] = (uint16_t)i;
        count += x[i] != 0.0f;
    }
    return count;
}

#if !POLICY_PACKED
/* Four outputs at a time, so that an input is loaded once for them. */
POLICY_DENSE void policy_dense(const float *x, const float *w, const float *bias, float *sums, int in, int out,
                               const int skip)
{
    (void)skip;
    const int fours = out / 4 * 4;
    for (int o = 0; o < fours; o += 4, w += 4 * in) {
        float s0 = bias[o], s1 = bias[o + 1], s2 = bias[o + 2], s3 = bias[o + 3];
        for (int i = 0; i < in; i++) {
            s0 += x[i] * w[i];
            s1 += x[i] * w[in + i];
            s2 += x[i] * w[2 * in + i];
            s3 += x[i] * w[3 * in + i];
        }
        sums[o] = s0;
        sums[o + 1] = s1;
        sums[o + 2] = s2;
        sums[o + 3] = s3;
    }
    for (int o = fours; o < out; o++, w += in) {
        float sum = bias[o];
        for (int i = 0; i < in; i++)
            sum += x[i] * w[i];
        sums[o] = sum;
    }
}

#else /* POLICY_PACKED */

/*
 * policy_block: `wide` vectors of neighbouring outputs, whose weights for one input lie beside each other. As many
 * floats in a vector as the target has, and as many vectors as it keeps in registers.
 */
#if defined(__GNUC__) && POLICY_KERNEL != POLICY_PLAIN
#if defined(__AVX512F__)
#define POLICY_LANES 16
#define POLICY_WIDEST 4
#elif defined(__AVX__)
#define POLICY_LANES 8
#define POLICY_WIDEST 8
#else
#define POLICY_LANES 4
#define POLICY_WIDEST 16
#endif
typedef float policy_vector __attribute__((vector_size(4 * POLICY_LANES), aligned(4), may_alias));

POLICY_INLINE void policy_block(const float *x, const uint16_t *list, int count, const float *w, int stride,
                                const float *bias, float *sums, const int wide)
{
    /* Few vectors would wait for each other: several sums for each output. */
    const int chains = wide >= 4 ? 1 : 4 / wide;
    policy_vector sum[POLICY_WIDEST];
    POLICY_UNROLL
    for (int r = 0; r < wide * chains; r++)
        sum[r] = r < wide ? *(const policy_vector *)(bias + POLICY_LANES * r) : (policy_vector){0};
    int n = 0;
    for (; n + chains <= count; n += chains) {
        POLICY_UNROLL
        for (int r = 0; r < wide * chains; r++) {
            const int i = list ? list[n + r / wide] : n + r / wide;
            const float *const weights = w + (long)i * stride + POLICY_LANES * (r % wide);
            sum[r] += x[i] * *(const policy_vector *)weights;
        }
    }
    for (; n < count; n++) {
        const int i = list ? list[n] : n;
        POLICY_UNROLL
        for (int r = 0; r < wide; r++)
            sum[r] += x[i] * *(const policy_vector *)(w + (long)i * stride + POLICY_LANES * r);
    }
    POLICY_UNROLL
    for (int r = wide; r < wide * chains; r++)
        sum[r % wide] += sum[r];
    POLICY_UNROLL
    for (int r = 0; r < wide; r++)
        *(policy_vector *)(sums + POLICY_LANES * r) = sum[r];
}
#else
#define POLICY_LANES 16
POLICY_INLINE void policy_block(const float *x, const uint16_t *list, int count, const float *w, int stride,
                                const float *bias, float *sums, const int wide)
{
    float sum[64];
    for (int o = 0; o < 16 * wide; o++)
        sum[o] = bias[o];
    for (int n = 0; n < count; n++) {
        const int i = list ? list[n] : n;
        for (int o = 0; o < 16 * wide; o++)
            sum[o] += x[i] * w[(long)i * stride + o];
    }
    memcpy(sums, sum, (size_t)wide * 16 * sizeof sum[0]);
}
#endif

POLICY_DENSE void policy_dense(const float *x, const float *w, const float *bias, float *sums, int in, int out,
                               const int skip)
{
    uint16_t nonzero[POLICY_SKIP_ZEROS ? POLICY_WIDTH : 1];
    const uint16_t *const list = skip ? nonzero : 0;
    const int count = skip ? policy_nonzero_inputs(x, in, nonzero) : in;
    const int padded = (out + 15) / 16 * 16;
    for (int start = 0; start < padded; start += POLICY_BLOCK) {
        const int width = padded - start < POLICY_BLOCK ? padded - start : POLICY_BLOCK;
        const float *block = w + (long)start * in;
        const float *from = bias + start;
        float *to = sums + start;
        int o = 0;
        if (width == POLICY_BLOCK) {
            policy_block(x, list, count, block, width, from, to, 64 / POLICY_LANES);
            continue;
        }
        if (width >= 32) {
            policy_block(x, list, count, block, width, from, to, 32 / POLICY_LANES);
            o = 32;
        }
        if (width - o >= 16)
            policy_block(x, list, count, block + o, width, from + o, to + o, 16 / POLICY_LANES);
    }
}
#endif
