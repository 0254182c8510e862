// Attention of one window.  Queries lie in the lanes and keys follow each other in rows, so that a softmax runs down the
// rows: L queries at a time meet all keys, and their scores stay in the first-level cache.
//
// Scores are counted in bits: with log2(e) in a factor and in the bias, their exponential is 2^score.  It is taken
// without the usual subtraction of the largest score.  Where that overflows or loses everything, which the sums show,
// the rows are worked out again with it (`exponentials_below_largest`).
//
// In the sums of 8-bit products, codes of keys and values are signed operands, and hence 128 smaller.  What that and
// the lower ends of the quantizers add to the scores of a query is the same for all keys: the softmax does not see it.
// It goes into the initial sum all the same (`starts`), which keeps the scores near zero.  Nor are large numbers left to
// cancel in floating point: the terms of the keys are counted from their mean on, and what a query gets of the values
// from the code of zero on, by a whole number in the initial sum (`Line::start`).

struct AttentionScratch {
    Word *queries, *keys;  // words x width
    Word* values;          // blocks of L words of a channel, all channels of the first L words first
    float *exponentials;   // (tokens + up to 3) x L
    float *per_key;        // term of each key's score
    float *per_channel;    // term of each output channel
    std::int32_t* starts;  // initial sum of each query's scores
    std::size_t words;

    AttentionScratch(Word* start, int size, int width) {
        std::size_t used = 0;
        const auto take = [&](int count) {
            Word* piece = start + used;
            used += (count + 15) / 16 * 16;
            return piece;
        };
        queries = take((size + 3) * width);
        keys = take((size + 3) * width);
        values = take(2 * size * width);
        exponentials = reinterpret_cast<float*>(take((width + 4) * L));
        per_key = reinterpret_cast<float*>(take(width));
        per_channel = reinterpret_cast<float*>(take(size));
        starts = reinterpret_cast<std::int32_t*>(take(width));
        words = used;
    }
};

static std::size_t attention_scratch(int channels, int heads, int width) {
    return AttentionScratch(nullptr, channels / heads, width).words;
}

constexpr float unseen = -1e30f;  // a score of no weight

// L words to where DotOf<format>::weight reads them.
template <Format format>
BITSR_INLINE void spread(Word* to, U words) {
    if (DotOf<format>::words == 1) {
        store(to, words);
    } else if (format == Format::bf16) {
        store_pairs(to, words << 16, words & 0xffff0000u);
    } else {
        typedef std::int16_t Halves __attribute__((vector_size(4 * L)));
        store_pairs(to, (U)((Halves)(words << 8) >> 8), (U)((Halves)words >> 8));
    }
}

BITSR_INLINE F float_sum(F x) { return x; }
BITSR_INLINE F float_sum(I x) { return to_float(x); }

inline Coder coder_of(const Quantizer* quantizer) { return Coder(quantizer ? *quantizer : Quantizer{0, 1, 0}); }

// The heads of a window, one after the other.
template <Format scores, Format values>
struct Heads {
    using ScoreDot = DotOf<scores>;
    using ValueDot = DotOf<values>;
    using Codes = DotOf<Format::u8>;

    const Attention a;
    const AttentionScratch scratch;
    const Coder q_code, k_code, v_code;
    const int size;         // channels of a head
    const int score_words;  // of one token
    const int value_words;  // of one channel; word i holds the tokens i, value_words + i, ...
    const int zero;         // the code of values that is nearest to 0; 128 where sums could overflow
    const float rest;       // what that code stands for
    Word ones[2];
    int first = 0;          // of this head: channels first, ..., first + size - 1
    const float* bias = nullptr;

    explicit Heads(const Attention& attention)
        : a(attention),
          scratch(a.scratch, a.channels / a.heads, a.width),
          q_code(coder_of(a.q)),
          k_code(coder_of(a.k)),
          v_code(coder_of(a.v)),
          size(a.channels / a.heads),
          score_words(planes_of(size, scores)),
          value_words(planes_of(a.tokens, values)),
          zero(zero_code(a)),
          rest(values == Format::u8 ? float(a.v->lower + double(zero) * a.v->step) : 0.0f) {
        Codes::split(0x01010101u, ones);
    }

    void take(int number) {
        first = number * size;
        bias = a.bias + number * a.bias_pitch;
        prepare_queries(prepare_keys());
        prepare_values();
    }

    static int zero_code(const Attention& a) {
        if (values != Format::u8 || a.tokens > 0x7fffffff / (255 * 255)) return 128;
        const float place = -a.v->lower / a.v->step;
        return place >= 255.0f ? 255 : place <= 0.0f ? 0 : int(place + 0.5f);
    }

    BITSR_INLINE F query(int c, int i) const { return rounded_product(load<F>(a.qkv.floats(first + c) + i) * a.scale); }
    BITSR_INLINE F key(int c, int i) const { return load<F>(a.qkv.floats(a.channels + first + c) + i); }
    BITSR_INLINE F value(int c, int i) const { return load<F>(a.qkv.floats(2 * a.channels + first + c) + i); }

    // Floats that `at` gives, moved to the levels of the quantizer where there is one, times `factor`; the word of a pair
    // or of one.
    template <Format format, class At>
    static BITSR_INLINE U float_words(const Quantizer* quantizer, int present, At at, float factor = 1.0f) {
        const auto level = [&](int n) { return (quantizer ? Rounder(*quantizer)(at(n)) : at(n)) * factor; };
        if (format == Format::f32) return as_unsigned(level(0));
        return pair_bf16(level(0), present > 1 ? level(1) : F{});
    }

    // `common`: the part of the sums of keys' codes that all have.
    BITSR_INLINE void prepare_queries(int common) const {
        if constexpr (scores == Format::u8) {
            const float lower = a.k->lower / a.k->step;
            const F factor = splat(lower + 128.0f), offset = splat((common + lower * size) * a.q->lower / a.q->step);
            const F limit = splat(4194304.0f);  // exact as float, together with the sum of products
            for (int i = 0; i < a.width; i += L) {
                I sum = {};
                for (int w = 0; w < score_words; ++w) {
                    const U words = code_words(q_code, size - 4 * w, [&](int c) { return query(4 * w + c, i); });
                    Codes::dot(sum, Codes::input(words), Codes::weight(ones));
                    store(scratch.queries + w * a.width + i, words);
                }
                const F start = fma(to_float(sum), factor, offset);
                store(scratch.starts + i, round_to_int(min(max(start, -limit), limit)));
            }
        } else {
            constexpr int pack = channels_per_word(scores);
            for (int w = 0; w < score_words; ++w)
                for (int i = 0; i < a.width; i += L) {
                    const auto at = [&](int c) { return query(pack * w + c, i); };
                    store(scratch.queries + w * a.width + i, float_words<scores>(a.q, size - pack * w, at, log2e));
                }
        }
    }

    // Returns the mean of the sums of keys' codes, without which `per_key` is worked out.
    BITSR_INLINE int prepare_keys() const {
        constexpr int words = ScoreDot::words;
        if constexpr (scores == Format::u8) {
            for (int i = 0; i < a.width; i += L) {
                I sum = {};
                for (int w = 0; w < score_words; ++w) {
                    const U here = code_words(k_code, size - 4 * w, [&](int c) { return key(4 * w + c, i); });
                    Codes::dot(sum, Codes::input(here), Codes::weight(ones));
                    spread<scores>(scratch.keys + (w * a.width + i) * words, here ^ 0x80808080u);
                }
                store(scratch.per_key + i, sum);
            }
            const std::int32_t* sums = reinterpret_cast<const std::int32_t*>(scratch.per_key);
            std::int64_t whole = 0;
            for (int j = 0; j < a.tokens; ++j) whole += sums[j];
            const int mean = int(float(whole) * (1.0f / float(a.tokens)));  // or a number near it: it cancels
            const F factor = splat(a.q->lower * a.k->step * log2e);
            for (int i = 0; i < a.width; i += L)
                store(scratch.per_key + i, to_float(load<I>(sums + i) - mean) * factor);
            return mean;
        } else {
            constexpr int pack = channels_per_word(scores);
            for (int w = 0; w < score_words; ++w)
                for (int i = 0; i < a.width; i += L) {
                    const auto at = [&](int c) { return key(pack * w + c, i); };
                    const U here = float_words<scores>(a.k, size - pack * w, at);
                    spread<scores>(scratch.keys + (w * a.width + i) * words, here);
                }
            return 0;
        }
    }

    BITSR_INLINE void prepare_values() const {
        const int stride = value_words;
        const auto put = [&](int c, int i, U words) {
            spread<values>(scratch.values + (i * size + c * L) * ValueDot::words, words);
        };
        for (int c = 0; c < size; ++c) scratch.per_channel[c] = 0;
        if constexpr (values == Format::u8) {
            const float lower = a.attention->lower;
            for (int c = 0; c < size; ++c) {
                I sums = {};  // of the codes of all tokens, for the term of `lower`
                for (int i = 0; i < stride; i += L) {
                    const U words = code_words<4>(v_code, [&](int n) { return value(c, n * stride + i); });
                    if (lower != 0) Codes::dot(sums, Codes::input(present(words, i)), Codes::weight(ones));
                    put(c, i, words ^ 0x80808080u);
                }
                if (lower != 0) {
                    const float sum = total(to_float(sums)) - float(a.tokens * zero);  // whole numbers below 2^24
                    scratch.per_channel[c] = lower * (sum * a.v->step + a.tokens * rest);
                }
            }
        } else {
            for (int c = 0; c < size; ++c)
                for (int i = 0; i < stride; i += L) {
                    U words = float_words<values>(a.v, 2, [&](int n) { return value(c, n * stride + i); });
                    if (values == Format::bf16 && a.tokens % 2 && i + L >= stride)
                        words[stride - 1 - i] &= 0xffffu;  // no such token
                    put(c, i, words);
                }
        }
    }

    // Words i, ... of the values without the bytes that stand for no token.
    BITSR_INLINE U present(U words, int i) const {
        if (a.tokens % (4 * L) == 0) return words;
        const I word = lane_numbers() + i;
        U bytes = {};
        for (int n = 0; n < 4; ++n)
            bytes |= (U)((word < value_words) & (word + n * value_words < a.tokens)) & (0xffu << 8 * n);
        return words & bytes;
    }

    // Scores of the queries i, ... and the keys j, ..., j + many - 1, in bits.  `words` words of the queries stay in
    // registers; 0: all are loaded again.
    template <int words, int many>
    BITSR_INLINE void score(int i, int j, const typename ScoreDot::Input (&inputs)[words + 1], F (&x)[many]) const {
        const float* add = bias + a.query_bias[i];
        typename ScoreDot::Sum sums[many];
        if constexpr (scores == Format::u8) {
            const I start = load<I>(scratch.starts + i);
            for (auto& sum : sums) sum = start;
        } else {
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n) sums[n] = load<F>(add + a.key_bias[j + n]);
        }
        const int count = words ? words : score_words;
#pragma GCC unroll 4
        for (int w = 0; w < count; ++w) {
            const auto input = words ? inputs[w] : ScoreDot::input(load<U>(scratch.queries + w * a.width + i));
            const Word* key = scratch.keys + (w * a.width + j) * ScoreDot::words;
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n) ScoreDot::dot(sums[n], input, ScoreDot::weight(key + n * ScoreDot::words));
        }
        if constexpr (scores == Format::u8) {
            const F factor = splat(a.q->step * a.k->step * log2e);
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n)
                x[n] = fma(to_float(sums[n]), factor, load<F>(add + a.key_bias[j + n])) + splat(scratch.per_key[j + n]);
        } else {
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n) x[n] = sums[n];
        }
        if (a.regions) {
            const I here = load<I>(a.regions + i);
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n) x[n] = here == a.regions[j + n] ? x[n] : splat(unseen);
        }
    }

    // Gives all scores of the queries i, ..., some keys at a time, to `use` and stores what that makes of them.
    template <int words, class Use>
    BITSR_INLINE void score_all(int i, Use use) const {
        constexpr int many = L == 16 ? 8 : 4;
        const Heads here(*this);  // what lies on the stack no store can change
        typename ScoreDot::Input inputs[words + 1];
        for (int w = 0; w < words; ++w) inputs[w] = ScoreDot::input(load<U>(scratch.queries + w * a.width + i));
        int j = 0;
        for (; j + many <= here.a.tokens; j += many) {
            F x[many];
            here.template score<words>(i, j, inputs, x);
            use(x);
#pragma GCC unroll 16
            for (int n = 0; n < many; ++n) store(here.scratch.exponentials + (j + n) * L, x[n]);
        }
        for (; j < here.a.tokens; ++j) {
            F x[1];
            here.template score<words>(i, j, inputs, x);
            use(x);
            store(here.scratch.exponentials + j * L, x[0]);
        }
    }

    static constexpr bool rough = values != Format::f32;

    // Rows of 2^score; returns their sum.
    template <int words>
    F exponentials(int i) const {
        F sums[2] = {};
        score_all<words>(i, [&](auto& x) {
            exp2<rough>(x);
            int n = 0;
            for (const F& y : x) sums[n++ % 2] += y;
        });
        const F sum = sums[0] + sums[1];
        F proven = sum;
        for (int lane = a.queries - i; lane < L; ++lane) proven[lane] = 1.0f;  // no such query
        return all((proven > splat(1e-20f)) & (proven < splat(1e30f))) ? sum : exponentials_below_largest(i);
    }

    __attribute__((noinline)) F exponentials_below_largest(int i) const {
        F largest = splat(-3e38f), sum = {};
        score_all<0>(i, [&](auto& x) {
            for (const F& y : x) largest = max(y, largest);
        });
        for (int j = 0; j < a.tokens; ++j) {
            F y[1] = {load<F>(scratch.exponentials + j * L) - largest};
            exp2<rough>(y);
            sum += y[0];
            store(scratch.exponentials + j * L, y[0]);
        }
        return sum;
    }

    // What the sums of products with the values begin with, and what they become:
    // factor * sum + offset + share * per_channel.
    struct Line {
        F factor, offset, share;
        typename ValueDot::Sum start;
    };

    // Of each query; rows are those of whole words.
    BITSR_INLINE F largest_exponential() const {
        F largest[4] = {};
        for (int j = 0; j < 4 * value_words; j += 4)
            for (int n = 0; n < 4; ++n) largest[n] = max(load<F>(scratch.exponentials + (j + n) * L), largest[n]);
        return max(max(largest[0], largest[1]), max(largest[2], largest[3]));
    }

    // From exponentials to what multiplies the values, in their place.
    BITSR_INLINE Line weigh(F sum) const {
        float* rows = scratch.exponentials;
        const int stride = value_words;
        const F inverse = 1.0f / sum, one = splat(1.0f);
        if constexpr (values == Format::u8) {
            const Quantizer& q = *a.attention;
            for (int j = a.tokens; j < 4 * stride; ++j) store(rows + j * L, splat(-1e30f));  // code 0
            F share = one, to_code = inverse * (1.0f / q.step);
            if (a.row_scale) {
                const F largest = largest_exponential();
                share = largest * inverse;
                to_code = 1.0f / (largest * q.step);
            }
            const F shift = splat(-q.lower / q.step);
            const U levels = splat(Word(q.levels) * 0x01010101u);
            I total = {};
            for (int i = 0; i < stride; ++i) {
                I codes[4];
                for (int n = 0; n < 4; ++n)
                    codes[n] = round_to_int(fma(load<F>(rows + (i + n * stride) * L), to_code, shift));
                const U words = min_bytes(pack_codes(codes[0], codes[1], codes[2], codes[3]), levels);
                Codes::dot(total, Codes::input(words), Codes::weight(ones));
                store(rows + i * L, words);
            }
            const F offset = to_float(total) * (q.step * rest);
            return {share * (q.step * a.v->step), share * offset, share, total * (128 - zero)};
        } else {
            if (a.attention) {
                const Rounder rounded(*a.attention);
                for (int j = 0; j < a.tokens; ++j)
                    store(rows + j * L, rounded(rounded_product(load<F>(rows + j * L) * inverse)));
            }
            if (values == Format::bf16) {
                if (a.tokens % 2) store(rows + a.tokens * L, F{});
                for (int i = 0; i < stride; ++i)
                    store(rows + i * L, pair_bf16(load<F>(rows + i * L), load<F>(rows + (i + stride) * L)));
            }
            return {a.attention ? one : inverse, F{}, one, F{}};
        }
    }

    template <int many>
    BITSR_INLINE void multiply_values(int i, int c, const Line& line) const {
        constexpr int words = ValueDot::words;
        typename ValueDot::Sum sums[many];
        for (auto& sum : sums) sum = line.start;
        for (int block = 0; block < value_words; block += L) {
            const Word* value = scratch.values + (block * size + c * L) * words;
            const float* weight = scratch.exponentials + block * L;
            const int count = value_words - block < L ? value_words - block : L;
            for (int j = 0; j < count; ++j, value += words, weight += L) {
                const auto input = ValueDot::input(load<U>(weight));
#pragma GCC unroll 16
                for (int n = 0; n < many; ++n) ValueDot::dot(sums[n], input, ValueDot::weight(value + n * L * words));
            }
        }
#pragma GCC unroll 16
        for (int n = 0; n < many; ++n) {
            const F rest = fma(splat(scratch.per_channel[c + n]), line.share, line.offset);
            const F y = fma(float_sum(sums[n]), line.factor, rest);
            store(a.output.floats(first + c + n) + i, y);
        }
    }

    static constexpr int most_channels = L == 16 ? 16 : 10;  // that are worked on at a time

    // multiply_values<count>, count <= many.
    template <int many>
    BITSR_INLINE void multiply_values_of(int count, int i, int c, const Line& line) const {
        if (count == many) return multiply_values<many>(i, c, line);
        if constexpr (many > 1) multiply_values_of<many - 1>(count, i, c, line);
    }

    template <int words>
    void run() const {
        const int blocks = (size + most_channels - 1) / most_channels;
        for (int i = 0; i < a.queries; i += L) {
            const Line line = weigh(exponentials<words>(i));
            for (int block = 0, c = 0; block < blocks; ++block) {  // of nearly equal size
                const int count = size / blocks + (block < size % blocks);
                multiply_values_of<most_channels>(count, i, c, line);
                c += count;
            }
        }
    }
};

template <Format scores, Format values>
static void run_heads(const Attention& a) {
    Heads<scores, values> heads(a);
    for (int number = 0; number < a.heads; ++number) {
        heads.take(number);
        if (scores == Format::u8 && heads.score_words == 2) {
            heads.template run<2>();
        } else if (scores == Format::u8 && heads.score_words == 3) {
            heads.template run<3>();
        } else {
            heads.template run<0>();
        }
    }
}

template <Format scores>
static void run_heads(const Attention& a) {
    switch (a.values) {
        case Format::f32: return run_heads<scores, Format::f32>(a);
        case Format::bf16: return run_heads<scores, Format::bf16>(a);
        case Format::u8: return run_heads<scores, Format::u8>(a);
        case Format::bits: return;  // has no products with numbers
    }
}

static void attention(const Attention& a) {
    switch (a.scores) {
        case Format::f32: return run_heads<Format::f32>(a);
        case Format::bf16: return run_heads<Format::bf16>(a);
        case Format::u8: return run_heads<Format::u8>(a);
        case Format::bits: return;
    }
}
