// The selective scan of a few channels: channels lie in the lanes, and pixels follow each other.  The states of a channel
// do not wait for one another, so that they hide each other's latency.

constexpr int scan_vectors = kScanChannels / L;

// 2^x within one rounding and without a bias: what a decay is wrong by adds up over all pixels that a state remembers,
// which may be thousands.  Most decays are near 1, where the sum 1 + x P(x) rounds once.
template <int many>
BITSR_INLINE void unbiased_exp2(F (&x)[many]) {
    F whole[many], part[many], y[many];
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) x[v] = exponent_in_range(x[v]);
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) whole[v] = round(x[v]);
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) part[v] = x[v] - whole[v];
    polynomial(part, y, {0.00015461447765f, 0.0013390866807f, 0.0096180569381f, 0.055503569543f, 0.24022650719f,
                         0.69314718246f});
#pragma GCC unroll 16
    for (int v = 0; v < many; ++v) x[v] = times_power_of_two(fma(y[v], part[v], splat(1.0f)), whole[v]);
}

// `states` states at a time, from `first` on, of one pixel: their next values, and what they add to the outputs.
template <int states>
BITSR_INLINE void scan_states(const Scan& s, int first, int pixel, const F (&delta)[scan_vectors],
                              const F (&added)[scan_vectors], F (&sums)[scan_vectors]) {
    F kept[states * scan_vectors];
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n)
#pragma GCC unroll 4
        for (int v = 0; v < scan_vectors; ++v)
            kept[n * scan_vectors + v] = delta[v] * load<F>(s.decay + (first + n) * kScanChannels + v * L);
    unbiased_exp2(kept);
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) {
        const F b = splat(s.b.floats(first + n)[pixel]), c = splat(s.c.floats(first + n)[pixel]);
        float* state = s.state + (first + n) * kScanChannels;
#pragma GCC unroll 4
        for (int v = 0; v < scan_vectors; ++v) {
            const F h = fma(kept[n * scan_vectors + v], load<F>(state + v * L), added[v] * b);
            store(state + v * L, h);
            sums[v] = fma(h, c, sums[v]);
        }
    }
}

// In `scratch` pixels lie one after the other, each with its channels: delta, and delta x, which y takes the place of.
static void scan(const Scan& s) {
    constexpr int together = scan_vectors >= 4 ? 1 : 4 / scan_vectors;
    float *deltas = s.scratch, *inputs = s.scratch + s.pixels * kScanChannels;
    for (int c = 0; c < kScanChannels; ++c) {
        if (c >= s.channels) {
            for (int i = 0; i < s.pixels; ++i) deltas[i * kScanChannels + c] = inputs[i * kScanChannels + c] = 0;
            continue;
        }
        const float *x = s.x.floats(c), *delta = s.delta.floats(c);
        for (int i = 0; i < s.pixels; ++i) {
            deltas[i * kScanChannels + c] = delta[i];
            inputs[i * kScanChannels + c] = delta[i] * x[i];
        }
    }
    for (int i = 0; i < s.pixels; ++i) {
        F delta[scan_vectors], added[scan_vectors], sums[scan_vectors] = {};
        for (int v = 0; v < scan_vectors; ++v) {
            delta[v] = load<F>(deltas + i * kScanChannels + v * L);
            added[v] = load<F>(inputs + i * kScanChannels + v * L);
        }
        int n = 0;
        for (; n + together <= s.states; n += together) scan_states<together>(s, n, i, delta, added, sums);
        for (; n < s.states; ++n) scan_states<1>(s, n, i, delta, added, sums);
        for (int v = 0; v < scan_vectors; ++v) store(inputs + i * kScanChannels + v * L, sums[v]);
    }
    for (int c = 0; c < s.channels; ++c) {
        const float* x = s.x.floats(c);
        float* y = s.y.floats(c);
        for (int i = 0; i < s.pixels; ++i) y[i] = inputs[i * kScanChannels + c] + s.skip[c] * x[i];
    }
}
