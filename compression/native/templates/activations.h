/*
 * Hidden activations beyond ReLU and tanh, in ONNX Runtime's order of operations. Any float may come in: NaN counts as
 * 0, and what lies beyond 1e9 as 1e9.
 */

/* 2 to the power of n, for n from -126 to 127. */
POLICY_INLINE float policy_power_of_2(int32_t n)
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

POLICY_INLINE float policy_leaky_relu(float v)
{
    v = policy_bounded(v);
    return v >= 0.0f ? v : 0.01f * v;
}

/*
 * exp(v) - 1 for negative v, with Eigen's exp as it is without fused multiply-adds. ONNX Runtime takes libm's for the
 * last units of a layer whose width is no multiple of 4: up to 6e-8 apart.
 */
POLICY_INLINE float policy_elu(float v)
{
    v = policy_bounded(v);
    /* Differences and sums with zero where a choice would do: gcc makes vectors of them. exp(-87) + 1 is 1. */
    const float positive = policy_relu(v);
    const float x = policy_clamp(v, -87.0f, 1e9f) - positive;
    const float scaled = x * 1.44269504f + 0.5f;
    const int32_t truncated = (int32_t)scaled;
    const int32_t n = truncated - (scaled < (float)truncated); /* rounded down */
    const float whole = (float)n;
    const float r = whole * 2.12194440e-4f + (whole * -0.693359375f + x);
    const float r2 = r * r;
    const float odd = r2 * 8.36894475e-3f + 0.166665182f;
    const float even = r2 * (r2 * 1.37449638e-3f + 4.16696519e-2f) + 0.499999881f;
    const float exponential = (r2 * (r * odd + even) + (r + 1.0f)) * policy_power_of_2(n);
    return positive + (exponential - 1.0f);
}

/* v times the logistic function, a rational function of degree 9/10 clamped at +-18. */
POLICY_INLINE float policy_silu(float v)
{
    v = policy_bounded(v);
    const float x = policy_clamp(v, -18.0f, 18.0f);
    const float x2 = x * x;
    float p = policy_fma(x2, 4.37031012579801e-11f, 1.15627324459942e-07f);
    float q = policy_fma(x2, 6.10247389755681e-13f, 5.76102136993427e-09f);
    p = policy_fma(p, x2, 6.08574864600143e-05f);
    p = policy_fma(p, x2, 8.51377133304701e-03f);
    p = policy_fma(p, x2, 2.48287947061529e-01f);
    q = policy_fma(q, x2, 6.29106785017040e-06f);
    q = policy_fma(q, x2, 1.70198817374094e-03f);
    q = policy_fma(q, x2, 1.16817656904453e-01f);
    q = policy_fma(q, x2, 9.93151921023180e-01f);
    return v * policy_clamp(x * p / q + 0.5f, 0.0f, 1.0f);
}

/* exp(x) for x from -87 to 0. */
POLICY_INLINE float policy_exp(float x)
{
    const float whole = policy_fma(x, 1.44269504f, 12582912.0f) - 12582912.0f;
    const float r = policy_fma(whole, -1.42860677e-6f, policy_fma(whole, -0.693145752f, x));
    float y = policy_fma(1.38319808e-3f, r, 8.37550033e-3f);
    y = policy_fma(y, r, 4.16689515e-2f);
    y = policy_fma(y, r, 0.166664466f);
    y = policy_fma(y, r, 0.499999851f);
    y = policy_fma(y, r, 1.0f);
    y = policy_fma(y, r, 1.0f);
    return y * policy_power_of_2((int32_t)whole);
}

/* erf(a) for a of 0 and more: a polynomial below 0.92, 1 - exp of one above. */
POLICY_INLINE float policy_erf(float a)
{
    a = policy_clamp(a, 0.0f, 3.925f);
    const float a2 = a * a;
    float small = policy_fma(-5.99104969e-4f, a2, 4.99339588e-3f);
    float big = policy_fma(1.72948930e-5f, a, -3.83208680e-4f);
    small = policy_fma(small, a2, -2.67667342e-2f);
    small = policy_fma(small, a2, 1.12818025e-1f);
    small = policy_fma(small, a2, -3.76124859e-1f);
    small = policy_fma(small, a2, 1.28379151e-1f);
    big = policy_fma(big, a, 3.88393435e-3f);
    big = policy_fma(big, a, -2.42545605e-2f);
    big = policy_fma(big, a, 1.06777847e-1f);
    big = policy_fma(big, a, 6.34846687e-1f);
    big = policy_fma(big, a, 1.28717512e-1f);
    small = policy_fma(small, a, a);
    big = 1.0f - policy_exp(-policy_fma(big, a, a));
    return a > 0.921875f ? big : small;
}

/* v (1 + erf(v / sqrt 2)) / 2. */
POLICY_INLINE float policy_gelu(float v)
{
    v = policy_bounded(v);
    const float x = v * 0.707106781f;
    const float erf_of_size = policy_erf(x < 0.0f ? -x : x);
    return 0.5f * v * ((x < 0.0f ? -erf_of_size : erf_of_size) + 1.0f);
}
