// Products of signs over planes (`Binary` of kernels.hpp), and the signs of planes.
//
// A word holds the signs of 32 channels of one pixel, so a vector of words is that many pixels: no horizontal step.
// A term compares one word with one word of weights under a mask; its scale multiplies the count of differing bits.

// (a ^ b) & mask
BITSR_INLINE U differing(U a, U b, U mask) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    return (U)_mm512_ternarylogic_epi32((__m512i)a, (__m512i)b, (__m512i)mask, 0x28);
#else
    return (a ^ b) & mask;
#endif
}

// Ones in each word.
BITSR_INLINE I count_ones(U x) {
#if defined(__AVX512VPOPCNTDQ__) && BITSR_LANES == 16
    return (I)_mm512_popcnt_epi32((__m512i)x);
#elif defined(__AVX512F__) && BITSR_LANES == 16
    const __m512i of_nibble = _mm512_set4_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100);
    const __m512i low = (__m512i)(x & 0x0f0f0f0fu), high = (__m512i)((x >> 4) & 0x0f0f0f0fu);
    const __m512i bytes = _mm512_add_epi8(_mm512_shuffle_epi8(of_nibble, low), _mm512_shuffle_epi8(of_nibble, high));
    return (I)_mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes, _mm512_set1_epi8(1));
#elif defined(__AVX2__) && BITSR_LANES == 8
    const __m256i of_nibble = _mm256_broadcastsi128_si256(_mm_set_epi32(0x04030302, 0x03020201, 0x03020201, 0x02010100));
    const __m256i low = (__m256i)(x & 0x0f0f0f0fu), high = (__m256i)((x >> 4) & 0x0f0f0f0fu);
    const __m256i bytes = _mm256_add_epi8(_mm256_shuffle_epi8(of_nibble, low), _mm256_shuffle_epi8(of_nibble, high));
    return (I)_mm256_madd_epi16(_mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
#elif defined(BITSR_NEON)
    return (I)vpaddlq_u16(vpaddlq_u8(vcntq_u8((uint8x16_t)x)));
#else
    x -= (x >> 1) & 0x55555555u;
    x = (x & 0x33333333u) + ((x >> 2) & 0x33333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0fu;
    return (I)((x * 0x01010101u) >> 24);
#endif
}

// R rows by V vectors of pixels; T terms, or as many as there are where T is 0.
template <int R, int V, int T>
BITSR_INLINE void binary_block(const Binary& b, int row, int x) {
    const int terms = T ? T : b.terms;
    const std::ptrdiff_t words = std::ptrdiff_t{terms} * 3;
    const Word* weights = b.weights + row * words;
    F sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = splat(b.start[row + r]);
#pragma GCC unroll 4
    for (int term = 0; term < terms; ++term, weights += 3) {
        const Word* input = b.input + b.offsets[term] + x;
        U signs[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) signs[v] = load<U>(input + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const Word* of_row = weights + r * words;
            const U weight = splat(of_row[0]);
            U mask = splat(of_row[1]);
            touch(mask);  // else it is loaded for each vector
            float scale;
            __builtin_memcpy(&scale, of_row + 2, sizeof scale);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) {
                const F count = to_float(count_ones(differing(signs[v], weight, mask)));
                sums[r][v] = fma(count, splat(scale), sums[r][v]);
            }
        }
    }
    if (b.added.data)
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sums[r][v] += load<F>(b.added.floats(row + r) + x + v * L);
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(b.output.floats(row + r) + x + v * L, sums[r][v]);
}

template <int V, int T>
BITSR_INLINE void binary_columns(const Binary& b, int x) {
    constexpr int R = L == 16 ? 4 : 2;
    int row = 0;
    for (; row + R <= b.rows; row += R) binary_block<R, V, T>(b, row, x);
    for (; row < b.rows; ++row) binary_block<1, V, T>(b, row, x);
}

template <int T>
void binary_terms(const Binary& b) {
    constexpr int V = L == 16 ? 4 : 2;
    int x = 0;
    for (; x + V * L <= b.width; x += V * L) binary_columns<V, T>(b, x);
    for (; x < b.width; x += L) binary_columns<1, T>(b, x);
}

// Layers of up to 32, 64 and 128 inputs have no loop over terms.
inline void binary(const Binary& b) {
    switch (b.terms) {
        case 1: return binary_terms<1>(b);
        case 2: return binary_terms<2>(b);
        case 4: return binary_terms<4>(b);
        default: return binary_terms<0>(b);
    }
}

// The same instructions with nothing to load, as a yardstick: compares, counts and adds words and returns how many.
inline std::int64_t binary_products(std::int64_t steps) {
    constexpr int count = L == 16 ? 16 : 4;  // independent sums
    U weight{}, mask{}, input{};
    F scale{}, sums[count] = {};
    touch(weight), touch(mask), touch(scale), touch(sums);
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
        for (int i = 0; i < count; ++i) {
            touch(input);  // else it is counted once
            sums[i] = fma(to_float(count_ones(differing(input, weight, mask))), scale, sums[i]);
        }
    }
    touch(sums);
    return steps * count * L;
}

// `word`, with `bit` set where a >= b.
BITSR_INLINE U with_bit(U word, U bit, F a, F b) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    const __mmask16 where = _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
    return (U)_mm512_mask_or_epi32((__m512i)word, where, (__m512i)word, (__m512i)bit);
#else
    return word | ((U)(a >= b) & bit);
#endif
}

template <bool valley>
void signs_of(Planes x, Planes bits, int channels, int width, const float* thresholds, const float* below) {
    for (int first = 0; first < channels; first += 32) {
        const int count = channels - first < 32 ? channels - first : 32;
        for (int i = 0; i < width; i += L) {
            U word = {};
            for (int c = 0; c < count; ++c) {
                const F here = load<F>(x.floats(first + c) + i);
                const U bit = splat(Word{1} << c);
                word = with_bit(word, bit, here, splat(thresholds[first + c]));
                if (valley) word = with_bit(word, bit, splat(below[first + c]), here);
            }
            store(bits.words(first / 32) + i, word);
        }
    }
}

inline void signs(Planes x, Planes bits, int channels, int width, const float* thresholds, const float* below) {
    (below ? signs_of<true> : signs_of<false>)(x, bits, channels, width, thresholds, below);
}
