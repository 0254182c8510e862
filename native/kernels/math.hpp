// Elementary functions as polynomials; coefficients are minimax fits of the quantity that the comment names.
//
// They take several vectors at a time and finish each operation for all of them before the next: one vector alone would
// wait for its own results.

constexpr float log2e = 1.44269504f;

// Coefficients from the highest power down.
template <int many, int terms>
BITSR_INLINE void polynomial(const F (&x)[many], F (&y)[many], const float (&coefficients)[terms]) {
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) y[v] = fma(x[v], splat(coefficients[0]), splat(coefficients[1]));
#pragma GCC unroll 16
    for (int n = 2; n < terms; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < many; ++v) y[v] = fma(y[v], x[v], splat(coefficients[n]));
}

// 2^x for each x, relative error 2e-7; with `rough` up to a common factor 1 + 3e-6 and within 3e-6 of it.
template <bool rough = false, int many>
BITSR_INLINE void exp2(F (&x)[many]) {
    F fractions[many], y[many];
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) x[v] = exponent_in_range(x[v]);
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) fractions[v] = fraction(x[v]);
    if (rough) {
        polynomial(fractions, y, {0.013534167699f, 0.052011461028f, 0.24144275664f, 0.69300383452f, 1.0000025934f});
    } else {
        polynomial(fractions, y, {0.0018775766580f, 0.0089893401321f, 0.055826318014f, 0.24015361706f,
                                  0.69315307320f, 0.99999992506f});
    }
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) x[v] = times_power_of_two(y[v], x[v]);
}

BITSR_INLINE F exp2(F x) {
    F one[1] = {x};
    exp2(one);
    return one[0];
}

// x P(x) = max(x, 0) - t P(-t) with t = |x| and the normal distribution P.  The 16th root of P(-t) is nearly straight:
// degree 5 gives 8e-7, absolute.  At t = 5.6 the rest is 6e-8.
template <int many>
BITSR_INLINE void gelu(F (&x)[many]) {
    F t[many], power[many];
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) t[v] = magnitude(x[v], splat(5.6f));
    polynomial(t, power, {-4.5520293497e-05f, 0.00069223658647f, -0.0013962453231f, -0.01776715368f, -0.047779846936f,
                          0.95760571957f});
#pragma GCC unroll 4
    for (int n = 0; n < 4; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < many; ++v) power[v] *= power[v];
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) x[v] = fma(-t[v], power[v], max(x[v], F{}));
}

BITSR_INLINE F sigmoid(F x) { return 1.0f / (1.0f + exp2(x * -log2e)); }

// max(x, 0) + log(1 + e^-|x|), the logarithm as the series of 2 artanh(u / (2 + u)), u = e^-|x|: absolute error 1e-7.
BITSR_INLINE F softplus(F x) {
    const F u = exp2(magnitude(x, splat(87.0f)) * -log2e);
    const F s = u / (2.0f + u);
    const F square[1] = {s * s};
    F series[1];
    polynomial(square, series, {1 / 13.0f, 1 / 11.0f, 1 / 9.0f, 1 / 7.0f, 1 / 5.0f, 1 / 3.0f, 1.0f});
    return fma(2.0f * s, series[0], max(x, F{}));
}

BITSR_INLINE F tanh(F x) {
    const F e = exp2(magnitude(x, splat(20.0f)) * (-2.0f * log2e));
    const U sign = as_unsigned(x) & 0x80000000u;
    return as_float(as_unsigned((1.0f - e) / (1.0f + e)) | sign);
}
