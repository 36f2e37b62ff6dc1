/*
 * Integer layers: sums[o] = bias[o] + sum over i of x[i] * w[o][i], where bias has the zero point of x folded in.
 * `in` is a multiple of 4. Packed kernels write a multiple of 16 sums, and with `skip` leave out groups of four inputs
 * at level 0.
 */
#if POLICY_WEIGHTS == POLICY_WEIGHTS_BITS
#define POLICY_PACKED 0
#elif POLICY_LAYOUT == POLICY_LAYOUT_AUTO
#define POLICY_PACKED (POLICY_KERNEL >= POLICY_NEON)
#else
#define POLICY_PACKED (POLICY_LAYOUT == POLICY_LAYOUT_PACKED)
#endif

/* Whether rows hold weights of few bits, as dense_bits.h unpacks them. */
#if POLICY_WEIGHTS == POLICY_WEIGHTS_AUTO
#define POLICY_FEW_BITS (!POLICY_PACKED && !POLICY_VECTORIZES)
#else
#define POLICY_FEW_BITS (POLICY_WEIGHTS == POLICY_WEIGHTS_BITS)
#endif
#define POLICY_BLOCK 128

/* NEON multiplies signed by signed: levels are stored less 128, and the bias makes up for it. */
#if POLICY_KERNEL == POLICY_NEON && POLICY_PACKED && !POLICY_SKIP_ZEROS
#define POLICY_SIGNED 1
#define POLICY_FLIP 0x80u
#else
#define POLICY_SIGNED 0
#define POLICY_FLIP 0x00u
#endif

POLICY_INLINE uint32_t policy_word(const void *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* The groups of four inputs that are not all at level 0. */
POLICY_INLINE int policy_nonzero_groups(const uint8_t *x, int groups, uint16_t *list)
{
    int count = 0;
    for (int k = 0; k < groups; k++) {
        list[count] = (uint16_t)k;
        count += policy_word(x + 4 * k) != 0;
    }
    return count;
}

/* Number of the n-th group to add; without a list every group is. */
POLICY_INLINE int policy_group(const uint16_t *list, int n) { return list ? list[n] : n; }

#if POLICY_KERNEL == POLICY_SMLAD
/* Four products: x as two words of u16 pairs, w as a word of s8. */
POLICY_INLINE int32_t policy_smlad4(uint32_t x_even, uint32_t x_odd, uint32_t w, int32_t sum)
{
    int16x2_t w_odd;
    sum = __smlad((int16x2_t)x_even, __sxtb16((int8x4_t)w), sum);
    /* gcc 12 makes two instructions of the rotated form. */
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(w_odd) : "r"(w));
    return __smlad((int16x2_t)x_odd, w_odd, sum);
}
#endif

#if !POLICY_PACKED && !POLICY_FEW_BITS

#if POLICY_KERNEL == POLICY_SMLAD
POLICY_DENSE void policy_dense(const uint8_t *x, const int8_t *w, const int32_t *bias, int32_t *sums, int in, int out,
                               const int skip)
{
    (void)skip;
    const int fours = out / 4 * 4;
    for (int o = 0; o < fours; o += 4, w += 4 * in) {
        int32_t s0 = bias[o], s1 = bias[o + 1], s2 = bias[o + 2], s3 = bias[o + 3];
        const int8_t *row = w;
        for (int i = 0; i < in; i += 4, row += 4) {
            const uint32_t levels = policy_word(x + i);
            const uint32_t even = levels & 0x00ff00ffu;
            const uint32_t odd = levels >> 8 & 0x00ff00ffu;
            s0 = policy_smlad4(even, odd, policy_word(row), s0);
            s1 = policy_smlad4(even, odd, policy_word(row + in), s1);
            s2 = policy_smlad4(even, odd, policy_word(row + 2 * in), s2);
            s3 = policy_smlad4(even, odd, policy_word(row + 3 * in), s3);
        }
        sums[o] = s0;
        sums[o + 1] = s1;
        sums[o + 2] = s2;
        sums[o + 3] = s3;
    }
    for (int o = fours; o < out; o++, w += in) {
        int32_t sum = bias[o];
        for (int i = 0; i < in; i += 4) {
            const uint32_t levels = policy_word(x + i);
            sum = policy_smlad4(levels & 0x00ff00ffu, levels >> 8 & 0x00ff00ffu, policy_word(w + i), sum);
        }
        sums[o] = sum;
    }
}
#else
POLICY_DENSE void policy_dense(const uint8_t *x, const int8_t *w, const int32_t *bias, int32_t *sums, int in, int out,
                               const int skip)
{
    (void)skip;
    int o = 0;
#if !POLICY_VECTORIZES
    /* Four outputs at a time, so that an input is loaded once for them. */
    for (; o < out / 4 * 4; o += 4, w += 4 * in) {
        int32_t s0 = bias[o], s1 = bias[o + 1], s2 = bias[o + 2], s3 = bias[o + 3];
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
#endif
    for (; o < out; o++, w += in) {
        int32_t sum = bias[o];
        for (int i = 0; i < in; i++)
            sum += x[i] * w[i];
        sums[o] = sum;
    }
}
#endif

#elif POLICY_PACKED

/*
 * policy_block: some neighbouring outputs of a block. `w` points at their weights for group 0, and `stride` bytes
 * further on are those for group 1. `wide` is the number of vectors of sums.
 */
#if POLICY_KERNEL == POLICY_VNNI
#define POLICY_WIDEST 8
#define POLICY_LANES 16
POLICY_INLINE void policy_block(const uint8_t *x, const uint16_t *list, int count, const int8_t *w, int stride,
                                const int32_t *bias, int32_t *sums, const int wide)
{
    /* Few vectors would wait for each other: several sums for each output. */
    const int chains = wide >= 4 ? 1 : wide == 1 ? 4 : 2;
    __m512i sum[POLICY_WIDEST];
    POLICY_UNROLL
    for (int r = 0; r < wide * chains; r++)
        sum[r] = r < wide ? _mm512_loadu_si512(bias + 16 * r) : _mm512_setzero_si512();
    int n = 0;
    for (; n + chains <= count; n += chains) {
        POLICY_UNROLL
        for (int c = 0; c < chains; c++) {
            const int k = policy_group(list, n + c);
            const __m512i levels = _mm512_set1_epi32((int)policy_word(x + 4 * k));
            POLICY_UNROLL
            for (int r = 0; r < wide; r++) {
                const __m512i weights = _mm512_loadu_si512(w + (long)k * stride + 64 * r);
                sum[c * wide + r] = _mm512_dpbusd_epi32(sum[c * wide + r], levels, weights);
            }
        }
    }
    for (; n < count; n++) {
        const int k = policy_group(list, n);
        const __m512i levels = _mm512_set1_epi32((int)policy_word(x + 4 * k));
        POLICY_UNROLL
        for (int r = 0; r < wide; r++)
            sum[r] = _mm512_dpbusd_epi32(sum[r], levels, _mm512_loadu_si512(w + (long)k * stride + 64 * r));
    }
    POLICY_UNROLL
    for (int r = wide; r < wide * chains; r++)
        sum[r % wide] = _mm512_add_epi32(sum[r % wide], sum[r]);
    POLICY_UNROLL
    for (int r = 0; r < wide; r++)
        _mm512_storeu_si512(sums + 16 * r, sum[r]);
}

#elif POLICY_KERNEL == POLICY_AVX2
#define POLICY_WIDEST 4
#define POLICY_LANES 8
/* Two vectors of four outputs at a time: products of 16 bits, added in pairs; vpmaddubsw would saturate. */
POLICY_INLINE void policy_block(const uint8_t *x, const uint16_t *list, int count, const int8_t *w, int stride,
                                const int32_t *bias, int32_t *sums, const int wide)
{
    __m256i sum[2 * POLICY_WIDEST];
    POLICY_UNROLL
    for (int r = 0; r < 2 * wide; r++)
        sum[r] = _mm256_setzero_si256();
    for (int n = 0; n < count; n++) {
        const int k = policy_group(list, n);
        const __m128i four = _mm_cvtepu8_epi16(_mm_cvtsi32_si128((int)policy_word(x + 4 * k)));
        const __m256i levels = _mm256_broadcastq_epi64(four);
        POLICY_UNROLL
        for (int r = 0; r < 2 * wide; r++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(w + (long)k * stride + 16 * r));
            sum[r] = _mm256_add_epi32(sum[r], _mm256_madd_epi16(levels, _mm256_cvtepi8_epi16(bytes)));
        }
    }
    POLICY_UNROLL
    for (int r = 0; r < wide; r++) {
        const __m256i pairs = _mm256_hadd_epi32(sum[2 * r], sum[2 * r + 1]);
        const __m256i start = _mm256_loadu_si256((const __m256i *)(const void *)(bias + 8 * r));
        const __m256i total = _mm256_add_epi32(start, _mm256_permute4x64_epi64(pairs, 0xd8));
        _mm256_storeu_si256((__m256i *)(void *)(sums + 8 * r), total);
    }
}

#elif POLICY_SIGNED
#define POLICY_WIDEST 8
#define POLICY_LANES 4
POLICY_INLINE void policy_block(const uint8_t *x, const uint16_t *list, int count, const int8_t *w, int stride,
                                const int32_t *bias, int32_t *sums, const int wide)
{
    int32x4_t sum[POLICY_WIDEST];
    POLICY_UNROLL
    for (int r = 0; r < wide; r++)
        sum[r] = vld1q_s32(bias + 4 * r);
    for (int n = 0; n < count; n++) {
        const int k = policy_group(list, n);
        const int8x16_t levels = vreinterpretq_s8_u32(vdupq_n_u32(policy_word(x + 4 * k)));
        POLICY_UNROLL
        for (int r = 0; r < wide; r++)
            sum[r] = vdotq_s32(sum[r], levels, vld1q_s8(w + (long)k * stride + 16 * r));
    }
    POLICY_UNROLL
    for (int r = 0; r < wide; r++)
        vst1q_s32(sums + 4 * r, sum[r]);
}

#else
#define POLICY_WIDEST 1
#define POLICY_LANES 4
POLICY_INLINE void policy_block(const uint8_t *x, const uint16_t *list, int count, const int8_t *w, int stride,
                                const int32_t *bias, int32_t *sums, const int wide)
{
    (void)wide;
    int32_t s0 = bias[0], s1 = bias[1], s2 = bias[2], s3 = bias[3];
    for (int n = 0; n < count; n++) {
        const int k = policy_group(list, n);
        const int8_t *const weights = w + (long)k * stride;
#if POLICY_KERNEL == POLICY_SMLAD
        const uint32_t levels = policy_word(x + 4 * k);
        const uint32_t even = levels & 0x00ff00ffu;
        const uint32_t odd = levels >> 8 & 0x00ff00ffu;
        s0 = policy_smlad4(even, odd, policy_word(weights), s0);
        s1 = policy_smlad4(even, odd, policy_word(weights + 4), s1);
        s2 = policy_smlad4(even, odd, policy_word(weights + 8), s2);
        s3 = policy_smlad4(even, odd, policy_word(weights + 12), s3);
#else
        for (int i = 0; i < 4; i++) {
            const int32_t level = x[4 * k + i];
            s0 += level * weights[i];
            s1 += level * weights[4 + i];
            s2 += level * weights[8 + i];
            s3 += level * weights[12 + i];
        }
#endif
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}
#endif

POLICY_DENSE void policy_dense(const uint8_t *x, const int8_t *w, const int32_t *bias, int32_t *sums, int in, int out,
                               const int skip)
{
    uint16_t nonzero[POLICY_SKIP_ZEROS ? POLICY_WIDTH / 4 : 1];
    const uint16_t *const list = skip ? nonzero : 0;
    const int count = skip ? policy_nonzero_groups(x, in / 4, nonzero) : in / 4;
    const int padded = (out + 15) / 16 * 16;
    for (int start = 0; start < padded; start += POLICY_BLOCK) {
        const int width = padded - start < POLICY_BLOCK ? padded - start : POLICY_BLOCK;
        const int8_t *block = w + (long)start * in;
        const int32_t *from = bias + start;
        int32_t *to = sums + start;
        int o = 0;
        for (; o + POLICY_WIDEST * POLICY_LANES <= width; o += POLICY_WIDEST * POLICY_LANES)
            policy_block(x, list, count, block + 4 * o, 4 * width, from + o, to + o, POLICY_WIDEST);
        if (POLICY_WIDEST * POLICY_LANES > 64 && width - o >= 64) {
            policy_block(x, list, count, block + 4 * o, 4 * width, from + o, to + o, 64 / POLICY_LANES);
            o += 64;
        }
        if (POLICY_WIDEST * POLICY_LANES > 32 && width - o >= 32) {
            policy_block(x, list, count, block + 4 * o, 4 * width, from + o, to + o, 32 / POLICY_LANES);
            o += 32;
        }
        if (POLICY_WIDEST * POLICY_LANES > 16 && width - o >= 16)
            policy_block(x, list, count, block + 4 * o, 4 * width, from + o, to + o, 16 / POLICY_LANES);
    }
}
#endif
