// From f32 planes to codes, to bf16, to the levels of a quantizer.

// Codes of one quantizer, not yet cut at 0: rint(fl(fl(x - lower) / step)), at most the number of levels.
//
// With fused multiply-add the division is two instructions: 1 / step as the sum of two floats.  The quotient then errs
// by far less than half a unit in the last place; that no code differs from the division's was checked for every
// significand of `step` around every tie of 0..255 (1.5e10 cases; powers of two change nothing).
struct Coder {
#if defined(__AVX2__) || defined(BITSR_NEON)
    F lower, levels, inverse, rest;
    explicit BITSR_INLINE Coder(const Quantizer& q) {
        const float first = 1.0f / q.step;
        lower = splat(q.lower), levels = splat(static_cast<float>(q.levels));
        inverse = splat(first), rest = splat(static_cast<float>(1.0 / q.step - first));
    }
    BITSR_INLINE F quotient(F x) const { return fma(x, inverse, x * rest); }
#else
    F lower, levels, step;
    explicit BITSR_INLINE Coder(const Quantizer& q)
        : lower(splat(q.lower)), levels(splat(static_cast<float>(q.levels))), step(splat(q.step)) {}
    BITSR_INLINE F quotient(F x) const { return x / step; }
#endif
    BITSR_INLINE I operator()(F x) const { return round_to_int(min(quotient(x - lower), levels)); }
};

// Words of channels 0, ..., present - 1, which `at` gives; the other bytes are zero.
template <int present, class At>
BITSR_INLINE U code_words(const Coder& code, At at) {
    I codes[4] = {};
    for (int c = 0; c < present; ++c) codes[c] = code(at(c));
    return pack_codes(codes[0], codes[1], codes[2], codes[3]);
}

template <int n>
struct Number {};

template <int present, class At>
BITSR_INLINE U code_words(const Coder& code, Number<present>, At at) {
    return code_words<present>(code, at);
}

template <class At>
BITSR_INLINE U code_words(const Coder& code, int present, At at) {
    switch (present) {
        case 1: return code_words<1>(code, at);
        case 2: return code_words<2>(code, at);
        case 3: return code_words<3>(code, at);
        default: return code_words<4>(code, at);
    }
}

template <bool scaled>
BITSR_INLINE void quantize_planes(Planes x, Planes codes, int channels, int width, const Coder& code,
                                  const float* scale) {
    for (int p = 0; p < channels; p += 4) {
        Word* to = codes.words(p / 4);
        const auto words = [&](int i, auto present) {
            return code_words(code, present, [&](int c) {
                const F v = load<F>(x.floats(p + c) + i);
                return scaled ? rounded_product(v * splat(scale[p + c])) : v;
            });
        };
        if (channels - p >= 4) {
            for (int i = 0; i < width; i += L) store(to + i, words(i, Number<4>{}));
        } else {
            for (int i = 0; i < width; i += L) store(to + i, words(i, channels - p));
        }
    }
}

static void quantize(Planes x, Planes codes, int channels, int width, Quantizer quantizer, const float* scale) {
    if (scale)
        quantize_planes<true>(x, codes, channels, width, Coder(quantizer), scale);
    else
        quantize_planes<false>(x, codes, channels, width, Coder(quantizer), nullptr);
}

static void to_bf16(Planes x, Planes y, int channels, int width) {
    for (int c = 0; c < channels; c += 2) {
        const float* low = x.floats(c);
        Word* to = y.words(c / 2);
        if (c + 1 < channels) {
            const float* high = x.floats(c + 1);
            for (int i = 0; i < width; i += L) store(to + i, pair_bf16(load<F>(low + i), load<F>(high + i)));
        } else {
            for (int i = 0; i < width; i += L) store(to + i, pair_bf16(load<F>(low + i), F{}));
        }
    }
}

struct Rounder {
    Coder code;
    F lower, step;
    explicit BITSR_INLINE Rounder(const Quantizer& q) : code(q), lower(splat(q.lower)), step(splat(q.step)) {}
    BITSR_INLINE F operator()(F x) const {
        return rounded_product(to_float(max(code(x), I{})) * step) + lower;
    }
};

static void round_to(Planes x, Planes y, int channels, int width, Quantizer quantizer) {
    const Rounder rounded(quantizer);
    for (int c = 0; c < channels; ++c) {
        const float* from = x.floats(c);
        float* to = y.floats(c);
        for (int i = 0; i < width; i += L) store(to + i, rounded(load<F>(from + i)));
    }
}
