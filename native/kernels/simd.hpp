// Vectors of one instruction set.  Included by each isa_*.cpp inside its own namespace after BITSR_LANES is set; most
// operations are the compiler's own on vector types (GCC and Clang: + - * / & | ^ << >> and comparisons), the few that
// are not have one line per instruction set here.
//
// No include guard and no includes: isa_*.cpp includes this once, with <immintrin.h> or <arm_neon.h> before it.

constexpr int L = BITSR_LANES;  // floats per vector

typedef float F __attribute__((vector_size(4 * L)));
typedef std::int32_t I __attribute__((vector_size(4 * L)));
typedef std::uint32_t U __attribute__((vector_size(4 * L)));

#define BITSR_INLINE inline __attribute__((always_inline))

template <class V, class T>
BITSR_INLINE V load(const T* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);  // an unaligned load
    return v;
}
template <class V, class T>
BITSR_INLINE void store(T* p, V v) {
    __builtin_memcpy(p, &v, sizeof v);
}
BITSR_INLINE F splat(float x) { return x - F{}; }
BITSR_INLINE I splat(std::int32_t x) { return x - I{}; }
BITSR_INLINE U splat(std::uint32_t x) { return x - U{}; }

BITSR_INLINE F as_float(U x) { return (F)x; }
BITSR_INLINE F as_float(I x) { return (F)x; }
BITSR_INLINE U as_unsigned(F x) { return (U)x; }
BITSR_INLINE I as_int(F x) { return (I)x; }
BITSR_INLINE F to_float(I x) { return __builtin_convertvector(x, F); }

#if defined(__AVX512F__) && BITSR_LANES == 16

BITSR_INLINE F fma(F a, F b, F c) { return (F)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
BITSR_INLINE F max(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
BITSR_INLINE F min(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
BITSR_INLINE I max(I a, I b) { return (I)_mm512_max_epi32((__m512i)a, (__m512i)b); }
BITSR_INLINE I min(I a, I b) { return (I)_mm512_min_epi32((__m512i)a, (__m512i)b); }
BITSR_INLINE F sqrt(F a) { return (F)_mm512_sqrt_ps((__m512)a); }
BITSR_INLINE I round_to_int(F x) { return (I)_mm512_cvtps_epi32((__m512)x); }  // half to even
BITSR_INLINE F round(F x) { return (F)_mm512_roundscale_ps((__m512)x, 8); }    // half to even, no exceptions
// x - floor(x)
BITSR_INLINE F fraction(F x) { return (F)_mm512_reduce_ps((__m512)x, 9); }
// What times_power_of_two can do with n: cut where that makes no normal number.
BITSR_INLINE F exponent_in_range(F n) { return n; }
// x 2^floor(n) for x from 1 to 2
BITSR_INLINE F times_power_of_two(F x, F n) { return (F)_mm512_scalef_ps((__m512)x, (__m512)n); }
// min(|x|, limit)
BITSR_INLINE F magnitude(F x, F limit) { return (F)_mm512_range_ps((__m512)x, (__m512)limit, 10); }

#elif defined(__AVX2__) && BITSR_LANES == 8

BITSR_INLINE F fma(F a, F b, F c) { return (F)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
BITSR_INLINE F max(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
BITSR_INLINE F min(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
BITSR_INLINE I max(I a, I b) { return (I)_mm256_max_epi32((__m256i)a, (__m256i)b); }
BITSR_INLINE I min(I a, I b) { return (I)_mm256_min_epi32((__m256i)a, (__m256i)b); }
BITSR_INLINE F sqrt(F a) { return (F)_mm256_sqrt_ps((__m256)a); }
BITSR_INLINE I round_to_int(F x) { return (I)_mm256_cvtps_epi32((__m256)x); }
BITSR_INLINE F round(F x) { return (F)_mm256_round_ps((__m256)x, 8); }

#elif defined(BITSR_NEON)

BITSR_INLINE F fma(F a, F b, F c) { return (F)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
BITSR_INLINE F max(F a, F b) { return (F)vmaxq_f32((float32x4_t)a, (float32x4_t)b); }
BITSR_INLINE F min(F a, F b) { return (F)vminq_f32((float32x4_t)a, (float32x4_t)b); }
BITSR_INLINE I max(I a, I b) { return (I)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }
BITSR_INLINE I min(I a, I b) { return (I)vminq_s32((int32x4_t)a, (int32x4_t)b); }
BITSR_INLINE F sqrt(F a) { return (F)vsqrtq_f32((float32x4_t)a); }
BITSR_INLINE I round_to_int(F x) { return (I)vcvtnq_s32_f32((float32x4_t)x); }
BITSR_INLINE F round(F x) { return (F)vrndnq_f32((float32x4_t)x); }

#else

BITSR_INLINE F fma(F a, F b, F c) { return a * b + c; }
BITSR_INLINE F max(F a, F b) { return a > b ? a : b; }
BITSR_INLINE F min(F a, F b) { return a < b ? a : b; }
BITSR_INLINE I max(I a, I b) { return a > b ? a : b; }
BITSR_INLINE I min(I a, I b) { return a < b ? a : b; }
BITSR_INLINE F sqrt(F a) {
    for (int i = 0; i < L; ++i) a[i] = __builtin_sqrtf(a[i]);
    return a;
}
BITSR_INLINE F round(F x) {  // numbers beyond 2^22 are returned as they are
    const F big = splat(12582912.0f);  // 1.5 * 2^23: its neighbours are whole numbers
    __asm__("" : "+m"(x));  // else a product in x is contracted with the sum and escapes its own rounding
    const F rounded = (x + big) - big;
    const F magnitude = as_float(as_unsigned(x) & 0x7fffffffu);
    return magnitude < splat(4194304.0f) ? rounded : x;
}
BITSR_INLINE I round_to_int(F x) { return __builtin_convertvector(round(x), I); }

#endif

#if !(defined(__AVX512F__) && BITSR_LANES == 16)

BITSR_INLINE F floor(F x) {
#if defined(__AVX2__) && BITSR_LANES == 8
    return (F)_mm256_floor_ps((__m256)x);
#elif defined(BITSR_NEON)
    return (F)vrndmq_f32((float32x4_t)x);
#else
    const F whole = to_float(__builtin_convertvector(x, I));  // towards 0
    return whole > x ? whole - 1.0f : whole;
#endif
}
BITSR_INLINE F fraction(F x) { return x - floor(x); }
BITSR_INLINE F exponent_in_range(F n) { return max(min(n, splat(127.0f)), splat(-126.0f)); }
BITSR_INLINE F times_power_of_two(F x, F n) {
    return as_float(as_int(x) + (__builtin_convertvector(floor(n), I) << 23));
}
BITSR_INLINE F magnitude(F x, F limit) { return min(as_float(as_unsigned(x) & 0x7fffffffu), limit); }

#endif

#ifndef BITSR_NEON
// Per word: dot of two signed 16-bit numbers of a and of b.
BITSR_INLINE I dot_i16(U a, U b) {
#if defined(__AVX2__) && BITSR_LANES == 8
    return (I)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif defined(__SSE2__) && BITSR_LANES == 4
    return (I)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
    const I x = (I)a, y = (I)b;
    return (x << 16 >> 16) * (y << 16 >> 16) + (x >> 16) * (y >> 16);
#endif
}
#endif

// Two floats to the words (low: a, high: b) of bf16, rounded half to even.
BITSR_INLINE U pair_bf16(F a, F b) {
#if defined(__AVX512BF16__) && BITSR_LANES == 16
    const __m512i halves = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);  // of a, then of b
    const U order = U{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15} * 0x10001u + 0x100000u;
    return (U)_mm512_permutexvar_epi16((__m512i)order, halves);
#else
    const U x = as_unsigned(a), y = as_unsigned(b);
    const U low = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
    const U high = (y + 0x7fffu + ((y >> 16) & 1u)) & 0xffff0000u;
    return low | high;
#endif
}

// x, which the compiler may no longer contract with the sum that it goes into.
BITSR_INLINE F rounded_product(F x) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(x));
#elif defined(__SSE2__)
    __asm__("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#else
    __asm__("" : "+m"(x));
#endif
    return x;
}

// Numbers cut to 0..255, as the words (lowest byte: a).
BITSR_INLINE U pack_codes(I a, I b, I c, I d) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    const __m512i low = _mm512_packs_epi32((__m512i)a, (__m512i)b), high = _mm512_packs_epi32((__m512i)c, (__m512i)d);
    const __m512i order = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    return (U)_mm512_shuffle_epi8(_mm512_packus_epi16(low, high), order);
#elif defined(__AVX2__) && BITSR_LANES == 8
    const __m256i low = _mm256_packs_epi32((__m256i)a, (__m256i)b), high = _mm256_packs_epi32((__m256i)c, (__m256i)d);
    const __m256i order = _mm256_broadcastsi128_si256(_mm_set_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400));
    return (U)_mm256_shuffle_epi8(_mm256_packus_epi16(low, high), order);
#else
    const auto cut = [](I x) { return (U)max(min(x, splat(std::int32_t{255})), splat(std::int32_t{0})); };
    return cut(a) | cut(b) << 8 | cut(c) << 16 | cut(d) << 24;
#endif
}

// a[0], b[0], a[1], b[1], ...
BITSR_INLINE void store_pairs(Word* p, U a, U b) {
#if BITSR_LANES == 16
    store(p, __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    store(p + 16, __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31));
#elif BITSR_LANES == 8
    store(p, __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11));
    store(p + 8, __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15));
#else
    store(p, __builtin_shufflevector(a, b, 0, 4, 1, 5));
    store(p + 4, __builtin_shufflevector(a, b, 2, 6, 3, 7));
#endif
}

// Byte by byte.
BITSR_INLINE U min_bytes(U a, U b) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    return (U)_mm512_min_epu8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__) && BITSR_LANES == 8
    return (U)_mm256_min_epu8((__m256i)a, (__m256i)b);
#else
    typedef std::uint8_t Bytes __attribute__((vector_size(4 * L)));
    return (U)((Bytes)a < (Bytes)b ? (Bytes)a : (Bytes)b);
#endif
}

// 0, 1, 2, ...
BITSR_INLINE I lane_numbers() {
    I numbers;
    for (int i = 0; i < L; ++i) numbers[i] = i;
    return numbers;
}

// The sum of the lanes.
BITSR_INLINE float total(F x) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    return _mm512_reduce_add_ps((__m512)x);
#else
    float sum = 0;
    for (int i = 0; i < L; ++i) sum += x[i];
    return sum;
#endif
}

// Whether the condition (-1 or 0) holds in every lane.
BITSR_INLINE bool all(I condition) {
#if defined(__AVX512F__) && BITSR_LANES == 16
    return _mm512_movepi32_mask((__m512i)condition) == 0xffff;
#elif defined(__AVX2__) && BITSR_LANES == 8
    return _mm256_movemask_ps((__m256)condition) == 0xff;
#else
    std::int32_t lanes = -1;
    for (int i = 0; i < L; ++i) lanes &= condition[i];
    return lanes != 0;
#endif
}

// Tells the compiler that vectors are read and may be changed here.
template <class T>
BITSR_INLINE void touch(T& vectors) {
    constexpr int count = sizeof(T) / sizeof(U);
    U parts[count];
    __builtin_memcpy(parts, &vectors, sizeof parts);
#pragma GCC unroll 4
    for (int i = 0; i < count; ++i) {
#if defined(__x86_64__)
        __asm__ volatile("" : "+v"(parts[i]));
#elif defined(__aarch64__)
        __asm__ volatile("" : "+w"(parts[i]));
#else
        __asm__ volatile("" : "+m"(parts[i]));
#endif
    }
    __builtin_memcpy(&vectors, parts, sizeof parts);
}
