// What the instructions of the products reach with nothing to load but one weight in L1: the yardstick of the kernel
// benchmark.

template <Format format>
std::int64_t products_of(std::int64_t steps) {
    using Dot = DotOf<format>;
    constexpr int count = BITSR_VECTORS * most_rows(format);  // independent sums, as in gemm's blocks
    Word plain[4] = {};
    __asm__ volatile("" : "+m"(plain));  // else products with 0 are known
    const typename Dot::Weight weight = Dot::weight(plain);
    typename Dot::Input input = Dot::input(U{});
    typename Dot::Sum sums[count] = {};
#pragma GCC unroll 32
    for (int i = 0; i < count; ++i) touch(sums[i]);  // else all are one to the compiler
    for (std::int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 32
        for (int i = 0; i < count; ++i) {
            touch(input);  // else a product is formed once
            Dot::dot(sums[i], input, weight);
        }
    }
#pragma GCC unroll 32
    for (int i = 0; i < count; ++i) touch(sums[i]);
    return steps * count * L;
}

// Multiplies and adds words and returns how many.
inline std::int64_t products(Format format, std::int64_t steps) {
    switch (format) {
        case Format::f32: return products_of<Format::f32>(steps);
        case Format::bf16: return products_of<Format::bf16>(steps);
        case Format::u8: return products_of<Format::u8>(steps);
        case Format::bits: break;
    }
    return 0;
}
