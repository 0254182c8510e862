// Products of the three formats as inner loops use them: what stays in registers of an input vector (`Input`), how a
// weight comes to all its lanes (`Weight`), and `dot`, which adds the product of one word of each to a sum.
//
// Instruction sets without a dot product of words split both operands into halves.  Weights are split once, when they
// are packed (`split`, `words` per word); inputs when they are loaded, which several rows of weights share.
//
// AVX-512 multiplies with a weight in memory that the instruction itself repeats: one micro-operation per product.
// Written as assembler because GCC 12 neither folds a broadcast that has several uses nor keeps the sums of its VNNI
// intrinsics in registers.

#if defined(__AVX512F__) && BITSR_LANES == 16
#define BITSR_REPEATED(instruction, sum, x, w) \
    __asm__(instruction " %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(x), "m"(*(w)))
#endif

struct DotF32 {
    using Sum = F;
    using Input = F;
    static constexpr int words = 1;
    static void split(Word plain, Word* packed) { *packed = plain; }
    static BITSR_INLINE Input input(U x) { return as_float(x); }
#ifdef BITSR_REPEATED
    using Weight = const Word*;
    static BITSR_INLINE Weight weight(const Word* w) { return w; }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) { BITSR_REPEATED("vfmadd231ps", sum, x, w); }
#else
    using Weight = F;
    static BITSR_INLINE Weight weight(const Word* w) { return splat(load<float>(w)); }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) { sum = fma(x, w, sum); }
#endif
};

#if defined(__AVX512BF16__) && BITSR_LANES == 16

struct DotBf16 {
    using Sum = F;
    using Input = U;
    using Weight = const Word*;
    static constexpr int words = 1;
    static void split(Word plain, Word* packed) { *packed = plain; }
    static BITSR_INLINE Input input(U x) { return x; }
    static BITSR_INLINE Weight weight(const Word* w) { return w; }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) { BITSR_REPEATED("vdpbf16ps", sum, x, w); }
};

#else

struct DotBf16 {
    using Sum = F;
    struct Input {
        F low, high;
    };
    struct Weight {
        DotF32::Weight low, high;
    };
    static constexpr int words = 2;
    static void split(Word plain, Word* packed) {
        packed[0] = plain << 16;
        packed[1] = plain & 0xffff0000u;
    }
    static BITSR_INLINE Input input(U x) { return {as_float(x << 16), as_float(x & 0xffff0000u)}; }
    static BITSR_INLINE Weight weight(const Word* w) { return {DotF32::weight(w), DotF32::weight(w + 1)}; }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) {
        DotF32::dot(sum, x.low, w.low);
        DotF32::dot(sum, x.high, w.high);
    }
};

#endif

#if defined(__AVX512VNNI__) && BITSR_LANES == 16

struct DotU8 {
    using Sum = I;
    using Input = U;
    using Weight = const Word*;
    static constexpr int words = 1;
    static void split(Word plain, Word* packed) { *packed = plain; }
    static BITSR_INLINE Input input(U x) { return x; }
    static BITSR_INLINE Weight weight(const Word* w) { return w; }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) { BITSR_REPEATED("vpdpbusd", sum, x, w); }
};

#else

// Bytes 0 and 2, then bytes 1 and 3, as 16-bit numbers.
BITSR_INLINE void split_signed(Word bytes, Word* halves) {
    const auto half = [bytes](int byte) { return Word{static_cast<std::uint16_t>(std::int8_t(bytes >> 8 * byte))}; };
    halves[0] = half(0) | half(2) << 16;
    halves[1] = half(1) | half(3) << 16;
}

#ifdef BITSR_NEON

struct DotU8 {
    using Sum = I;
    struct Input {
        int16x4_t byte[4];
    };
    using Weight = int16x4_t;  // bytes 0, 2, 1, 3
    static constexpr int words = 2;
    static void split(Word plain, Word* packed) { split_signed(plain, packed); }
    static BITSR_INLINE Input input(U x) {
        const auto narrow = [](U v) { return vreinterpret_s16_u16(vmovn_u32((uint32x4_t)v)); };
        return {{narrow(x & 255u), narrow(x >> 8 & 255u), narrow(x >> 16 & 255u), narrow(x >> 24)}};
    }
    static BITSR_INLINE Weight weight(const Word* w) { return load<int16x4_t>(w); }
    static BITSR_INLINE void dot(Sum& sum, const Input& x, Weight w) {
        int32x4_t s = (int32x4_t)sum;
        s = vmlal_lane_s16(s, x.byte[0], w, 0);
        s = vmlal_lane_s16(s, x.byte[1], w, 2);
        s = vmlal_lane_s16(s, x.byte[2], w, 1);
        s = vmlal_lane_s16(s, x.byte[3], w, 3);
        sum = (I)s;
    }
};

#else

struct DotU8 {
    using Sum = I;
    struct Input {
        U even, odd;
    };
    struct Weight {
        U even, odd;
    };
    static constexpr int words = 2;
    static void split(Word plain, Word* packed) { split_signed(plain, packed); }
    static BITSR_INLINE Input input(U x) { return {x & 0x00ff00ffu, x >> 8 & 0x00ff00ffu}; }
    static BITSR_INLINE Weight weight(const Word* w) { return {splat(w[0]), splat(w[1])}; }
    static BITSR_INLINE void dot(Sum& sum, Input x, Weight w) {
        sum += dot_i16(x.even, w.even);
        sum += dot_i16(x.odd, w.odd);
    }
};

#endif
#endif

template <Format>
struct DotOf;
template <>
struct DotOf<Format::f32> : DotF32 {};
template <>
struct DotOf<Format::bf16> : DotBf16 {};
template <>
struct DotOf<Format::u8> : DotU8 {};
