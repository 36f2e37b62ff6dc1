/*
 * Integer layers with packed weights of POLICY_WEIGHT_BITS bits, 6, 4, 3 or 2, which are unpacked as they are read.
 *
 * Rows [out][in]. A row is made of groups, each of some 32-bit words; a word has a low and a high half, and in each a
 * few fields. Two fields at the same place are a pair: the codes of two inputs, which one shift and one mask make ready
 * for a product of two 16-bit numbers. Pair p of a group is of its inputs 4 (p / 2) + p % 2 and two further on, in the
 * order in which bytes of inputs come out of a word.
 *   bits   inputs, words of a group   bits of a half that are left over
 *   2      16, 1                      -
 *   3      32, 3                      1: the three words together hold pair 15, one bit each
 *   4      8, 1                       -
 *   6      16, 3                      4: pair 6 is in words 0 and 1, pair 7 in words 2 and 1
 * A code is the weight plus half of the codes there are: sum x * w = sum x * code - half * sum x.
 */
#if POLICY_WEIGHT_BITS == 2
#define POLICY_GROUP_INPUTS 16
#define POLICY_GROUP_WORDS 1
#elif POLICY_WEIGHT_BITS == 3
#define POLICY_GROUP_INPUTS 32
#define POLICY_GROUP_WORDS 3
#elif POLICY_WEIGHT_BITS == 4
#define POLICY_GROUP_INPUTS 8
#define POLICY_GROUP_WORDS 1
#else
#define POLICY_GROUP_INPUTS 16
#define POLICY_GROUP_WORDS 3
#endif
#define POLICY_FIELDS (16 / POLICY_WEIGHT_BITS) /* whole ones in half a word */
#define POLICY_FIELD_MASK (((1u << POLICY_WEIGHT_BITS) - 1u) * 0x00010001u)
#define POLICY_HALF_OF_CODES (1u << (POLICY_WEIGHT_BITS - 1))

/* Rows at a time, so that inputs are loaded once for them. */
#ifndef POLICY_ROWS
#if defined(__OPTIMIZE_SIZE__)
#define POLICY_ROWS 2
#else
#define POLICY_ROWS 4
#endif
#endif

/* Pairs whose levels are held while rows pass by: more would not fit the registers of a Cortex-M. */
#if POLICY_KERNEL == POLICY_SMLAD
#define POLICY_PAIRS 4
#else
#define POLICY_PAIRS 2
#endif

/* The mask of a pair, in a register: gcc would take two instructions for a shift and a literal. */
POLICY_INLINE uint32_t policy_field_mask(void)
{
    uint32_t mask = POLICY_FIELD_MASK;
#if POLICY_KERNEL == POLICY_SMLAD
    __asm__("" : "+r"(mask));
#endif
    return mask;
}

/* The codes of pair `p` of a group. */
POLICY_INLINE uint32_t policy_codes(const uint32_t *group, const int p, uint32_t mask)
{
#if POLICY_WEIGHT_BITS == 3
    if (p == 15)
        return (group[0] >> 15 & 0x00010001u) | (group[1] >> 14 & 0x00020002u) | (group[2] >> 13 & 0x00040004u);
#elif POLICY_WEIGHT_BITS == 6
    if (p >= 6)
        return (group[p == 6 ? 0 : 2] >> 12 & 0x000f000fu) | (group[1] >> (p == 6 ? 8 : 10) & 0x00300030u);
#endif
    return group[p / POLICY_FIELDS] >> p % POLICY_FIELDS * POLICY_WEIGHT_BITS & mask;
}

/* The levels of pair `p`, of a group whose inputs begin at `x`. */
POLICY_INLINE uint32_t policy_levels(const uint8_t *x, const int p)
{
#if POLICY_KERNEL == POLICY_SMLAD
    return policy_word(x + p / 2 * 4) >> p % 2 * 8 & 0x00ff00ffu;
#else
    x += p / 2 * 4 + p % 2;
    return (uint32_t)x[0] | (uint32_t)x[2] << 16;
#endif
}

/* sum + two products; on the way sums may leave 31 bits, which unsigned numbers may. */
POLICY_INLINE uint32_t policy_pair(uint32_t levels, uint32_t codes, uint32_t sum)
{
#if POLICY_KERNEL == POLICY_SMLAD
    return (uint32_t)__smlad((int16x2_t)levels, (int16x2_t)codes, (int32_t)sum);
#else
    return sum + (levels & 0xffffu) * (codes & 0xffffu) + (levels >> 16) * (codes >> 16);
#endif
}

/* Some neighbouring outputs; `correction` is what the codes have too much. */
POLICY_INLINE void policy_rows(const uint8_t *x, const uint32_t *w, const POLICY_BIAS *bias, int32_t *sums, int in,
                               uint32_t correction, const int rows)
{
    const int row_words = in / POLICY_GROUP_INPUTS * POLICY_GROUP_WORDS;
    const uint32_t mask = policy_field_mask();
    uint32_t sum[POLICY_ROWS];
    POLICY_UNROLL
    for (int r = 0; r < rows; r++)
        sum[r] = (uint32_t)bias[r] - correction;
    for (int i = 0; i < in; i += POLICY_GROUP_INPUTS, w += POLICY_GROUP_WORDS) {
        POLICY_UNROLL
        for (int first = 0; first < POLICY_GROUP_INPUTS / 2; first += POLICY_PAIRS) {
            uint32_t levels[POLICY_PAIRS];
            POLICY_UNROLL
            for (int p = 0; p < POLICY_PAIRS; p++)
                levels[p] = policy_levels(x + i, first + p);
            POLICY_UNROLL
            for (int r = 0; r < rows; r++) {
                POLICY_UNROLL
                for (int p = 0; p < POLICY_PAIRS; p++)
                    sum[r] = policy_pair(levels[p], policy_codes(w + r * row_words, first + p, mask), sum[r]);
#if POLICY_KERNEL == POLICY_SMLAD
                /* One row after the other: gcc would mix them and run out of registers. */
                __asm__("" : "+r"(w) : "r"(sum[r]));
#endif
            }
        }
    }
    POLICY_UNROLL
    for (int r = 0; r < rows; r++)
        sums[r] = (int32_t)sum[r];
}

/* The sum of all levels. */
POLICY_INLINE uint32_t policy_total(const uint8_t *x, int in)
{
    uint32_t total = 0;
#if POLICY_KERNEL == POLICY_SMLAD
    for (int i = 0; i < in; i += 4)
        total = __usada8((uint8x4_t)policy_word(x + i), (uint8x4_t)0, total);
#else
    for (int i = 0; i < in; i++)
        total += x[i];
#endif
    return total;
}

POLICY_DENSE void policy_dense(const uint8_t *x, const uint32_t *w, const POLICY_BIAS *bias, int32_t *sums, int in,
                               int out, const int skip)
{
    (void)skip;
    const int row_words = in / POLICY_GROUP_INPUTS * POLICY_GROUP_WORDS;
    const uint32_t correction = policy_total(x, in) * POLICY_HALF_OF_CODES;
    const int whole = out / POLICY_ROWS * POLICY_ROWS;
    for (int o = 0; o < whole; o += POLICY_ROWS, w += POLICY_ROWS * row_words)
        policy_rows(x, w, bias + o, sums + o, in, correction, POLICY_ROWS);
    for (int o = whole; o < out; o++, w += row_words)
        policy_rows(x, w, bias + o, sums + o, in, correction, 1);
}
