// Matrix products and convolutions over planes (`Gemm` of kernels.hpp).
//
// A block of R rows by V vectors of pixels keeps its sums in registers; every step (one word of one tap) loads V
// vectors of input and R repeated weights for R * V products.  Rows are dealt to blocks of nearly equal size: of at most
// 24 rows, 50 make 17 + 17 + 16, not 24 + 24 and a slow block of 2.  Packed weights lie in the order of use: block after
// block, and in a block step after step the words of its rows.

constexpr int most_rows(Format format) {
    return format == Format::f32 ? BITSR_ROWS_F32 : format == Format::bf16 ? BITSR_ROWS_BF16 : BITSR_ROWS_U8;
}

// Calls body(first row, rows) for each block.
template <class Body>
BITSR_INLINE void for_blocks(Format format, int rows, const Body& body) {
    const int blocks = (rows + most_rows(format) - 1) / most_rows(format);
    for (int block = 0; block < blocks; ++block) {
        const int first = block * (rows / blocks) + (block < rows % blocks ? block : rows % blocks);
        body(first, rows / blocks + (block < rows % blocks));
    }
}

template <Format format>
void pack_matrix(const Word* plain, int rows, int words, Word* packed) {
    using Dot = DotOf<format>;
    for_blocks(format, rows, [&](int first, int count) {
        for (int word = 0; word < words; ++word)
            for (int row = first; row < first + count; ++row, packed += Dot::words)
                Dot::split(plain[std::ptrdiff_t{row} * words + word], packed);
    });
}

inline void pack(Format format, const Word* plain, int rows, int words, Word* packed) {
    switch (format) {
        case Format::f32: return pack_matrix<Format::f32>(plain, rows, words, packed);
        case Format::bf16: return pack_matrix<Format::bf16>(plain, rows, words, packed);
        case Format::u8: return pack_matrix<Format::u8>(plain, rows, words, packed);
        case Format::bits: return;  // `binary` multiplies those
    }
}

inline std::size_t packed_words(Format format, int rows, int words) {
    const int copies = format == Format::f32 ? DotF32::words : format == Format::bf16 ? DotBf16::words : DotU8::words;
    return std::size_t(rows) * words * copies;
}

// What null pointers of `Gemm` stand for, for the rows of a block.
constexpr int longest_block = BITSR_ROWS_F32;  // no other format has more
struct Constants {
    float ones[longest_block], zeros[longest_block];
    constexpr Constants() : ones(), zeros() {
        for (float& one : ones) one = 1.0f;
    }
};
constexpr Constants constants;

// To the next row; out of the compiler's sight, which would otherwise work out all rows before the first is written.
template <class Row>
BITSR_INLINE void advance(Row& row, std::ptrdiff_t pitch) {
    row += pitch;
    __asm__("" : "+r"(row));
}

// Scales and writes the sums of R rows from `row` on, V vectors from pixel x on.
template <Format format, int R, int V, class Sum>
BITSR_INLINE void finish(const Gemm& g, const Sum (&sums)[R][V], int row, int x) {
    const float* scale = g.scale ? g.scale + row : constants.ones;
    const float* bias = g.bias ? g.bias + row : constants.zeros;
    float* output = g.output.floats(row) + x;
    const std::ptrdiff_t pitch = g.output.pitch;
    const float* added = g.added.data ? g.added.floats(row) + x : nullptr;
    const auto put = [&](int v, F y) { store(output + v * L, added ? y + load<F>(added + v * L) : y); };
    const auto next_row = [&] {
        advance(output, pitch);
        if (added) advance(added, g.added.pitch);
    };
    if constexpr (format == Format::u8) {
        if (!g.scale) {
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r, advance(output, pitch))
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) store(output + v * L, sums[r][v]);
            return;
        }
        if (g.mid) {
            const float* mid = g.mid + row;
            const int group = row / g.rows_per_group, per_group = g.rows_per_group;
            const std::int32_t* codes = g.sums + std::ptrdiff_t{group} * g.width + x;
            int change = 0, next = (group + 1) * per_group - row;  // rows of the block where other sums are needed
            F sum[V];
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r, next_row()) {
                if (r == change) {
#pragma GCC unroll 8
                    for (int v = 0; v < V; ++v) sum[v] = to_float(load<I>(codes + v * L));
                    codes += g.width;
                    change = next;
                    next += per_group;
                }
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) {
                    const F y = fma(to_float(sums[r][v]), splat(scale[r]), splat(bias[r]));
                    put(v, fma(sum[v], splat(mid[r]), y));
                }
            }
            return;
        }
    }
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r, next_row())
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) {
            F y;
            if constexpr (format == Format::u8)
                y = to_float(sums[r][v]);
            else
                y = sums[r][v];
            put(v, fma(y, splat(scale[r]), splat(bias[r])));
        }
}

template <Format format, int R, int V>
void block(const Gemm& g, const Word* weights, int row, int x) {
    using Dot = DotOf<format>;
    typename Dot::Sum sums[R][V] = {};
    for (int tap = 0; tap < g.taps; ++tap) {
        const Word* input = g.input + g.offsets[tap] + x;
#pragma GCC unroll 2
        for (int plane = 0; plane < g.planes; ++plane) {
            typename Dot::Input vectors[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) vectors[v] = Dot::input(load<U>(input + v * L));
#pragma GCC unroll 32
            for (int r = 0; r < R; ++r) {
                const typename Dot::Weight weight = Dot::weight(weights + r * Dot::words);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) Dot::dot(sums[r][v], vectors[v], weight);
            }
            input += g.pitch;
            weights += R * Dot::words;
        }
    }
    finish<format>(g, sums, row, x);
}

// block<format, rows, V>, rows <= R.
template <Format format, int V, int R>
BITSR_INLINE void block_of(int rows, const Gemm& g, const Word* weights, int row, int x) {
    if (rows == R) return block<format, R, V>(g, weights, row, x);
    if constexpr (R > 1) block_of<format, V, R - 1>(rows, g, weights, row, x);
}

// Pixels go by the outer loop, so that their input stays in L1 while the weights, read in order, stream by.
template <Format format>
void multiply_matrix(const Gemm& g) {
    constexpr int most = most_rows(format), base = BITSR_VECTORS;
    const std::ptrdiff_t words = std::ptrdiff_t{g.taps} * g.planes * DotOf<format>::words;
    for (int x = 0; x < g.width;) {
        const int left = (g.width - x) / L;
        if (g.rows <= most / 4 && left >= 4 * base) {  // few rows: more vectors, to hide the latency of the products
            block_of<format, 4 * base, most / 4>(g.rows, g, g.weights, 0, x);
            x += 4 * base * L;
        } else if (g.rows <= most / 2 && left >= 2 * base) {
            block_of<format, 2 * base, most / 2>(g.rows, g, g.weights, 0, x);
            x += 2 * base * L;
        } else {
            for_blocks(format, g.rows, [&](int first, int count) {
                block_of<format, base, most>(count, g, g.weights + first * words, first, x);
            });
            x += base * L;
        }
    }
}

inline void gemm(const Gemm& g) {
    switch (g.format) {
        case Format::f32: return multiply_matrix<Format::f32>(g);
        case Format::bf16: return multiply_matrix<Format::bf16>(g);
        case Format::u8: return multiply_matrix<Format::u8>(g);
        case Format::bits: return;
    }
}
