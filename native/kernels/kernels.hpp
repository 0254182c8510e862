// What the engine asks of an instruction set: one table of functions, filled once per set (table.hpp) and chosen at
// run time (dispatch.cpp).
//
// Everything works on "planes": a map of C channels is an array of 32-bit words in which a word holds one float, two
// bf16, four 8-bit codes or 32 signs of neighbouring channels of one pixel, and the words of neighbouring pixels lie
// side by side.  Vectors run along pixels, so that sums over channels, norms and softmaxes need no horizontal step and
// no number of channels wastes a lane.  Widths are counted in words and are multiples of 16; planes start at any word.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bitsr {

using Word = std::uint32_t;

enum class Format { f32, bf16, u8, bits };  // bits: signs, 1 for +1; the lowest is that of the first channel

// Channels per word.
constexpr int channels_per_word(Format format) {
    switch (format) {
        case Format::f32: return 1;
        case Format::bf16: return 2;
        case Format::u8: return 4;
        default: return 32;
    }
}
constexpr int planes_of(int channels, Format format) {
    return (channels + channels_per_word(format) - 1) / channels_per_word(format);
}

// Planes of words: plane p begins at data + p * pitch.
struct Planes {
    Word* data;
    std::ptrdiff_t pitch;
    float* floats(int plane) const { return reinterpret_cast<float*>(data + plane * pitch); }
    Word* words(int plane) const { return data + plane * pitch; }
};

// Affine quantizer: code = clip(rint((x - lower) / step), 0, levels), value lower + step * code.
struct Quantizer {
    float lower, step;
    int levels;
};

// y[n][x] = scale[n] * acc[n][x] + mid[n] * sums[group of n][x] + bias[n],
// acc[n][x] = sum over t, p of dot(weights[n][t][p], input[p * pitch + taps[t] + x]); and to that `added` where it is
// not null, which may lie where the output does.
struct Gemm {
    Format format;          // of both operands; u8 multiplies unsigned codes with signed 8-bit weights
    const Word* weights;    // rows x taps x planes words as `pack` leaves them
    int rows, taps, planes;
    const std::ptrdiff_t* offsets;  // of each tap, in words
    const Word* input;
    std::ptrdiff_t pitch;   // of the input's planes
    int width;              // words
    Planes output;          // f32; without `scale`, format u8 leaves its int32 sums instead
    const float* scale;     // rows; null: 1
    const float* bias;      // rows; null: 0
    const float* mid;       // rows; null: 0
    const std::int32_t* sums;  // per group of rows `width` sums of codes; used with `mid`
    int rows_per_group;
    Planes added;           // f32
};

// y[n][x] = start[n] + sum over terms t of -2 scale[n][t] * (ones of (input[offsets[t] + x] ^ signs[n][t]) & mask[n][t]).
// With the sum of all scale * (ones of mask) in `start`, that is the product with weights of -1, 0 and +1.  `added` as
// in Gemm.
struct Binary {
    const Word* weights;  // rows x terms x {signs, mask, -2 scale}
    int rows, terms;
    const std::ptrdiff_t* offsets;  // of each term, in words
    const Word* input;
    int width;            // words
    Planes output;        // f32
    const float* start;   // rows
    Planes added;         // f32
};

enum class Function { relu, leaky_relu, gelu, sigmoid, tanh, clip, softplus };

// Attention of the queries of one window, head after head; tokens are words, channels planes.  There may be more keys
// and values than queries, which then are the first of the tokens.
// score = (scale q) k^T + bias, of no weight where regions differ; output = softmax(score) v.  With `row_scale`, for
// values of u8 alone, the weights of a query are divided by the largest of them before they become codes, and the output
// is multiplied by it.
struct Attention {
    Planes qkv;             // f32: C planes of queries, C of keys, C of values; 16 words behind them are read
    Planes output;          // f32: C planes
    int channels, heads, tokens, width;  // width: tokens rounded up to 16
    int queries, query_width;            // likewise
    float scale;
    // Times log2(e).  That of a head h, a key j and the queries i, i + 1, ... of a vector lies side by side, from
    // bias + h * bias_pitch + query_bias[i] + key_bias[j] on.
    const float* bias;
    std::ptrdiff_t bias_pitch;
    const std::int32_t *query_bias, *key_bias;  // query_width, of which those that begin a vector are read; tokens
    const std::int32_t* regions;  // width numbers, or null: all tokens see each other
    Format scores, values;  // of the operands of both products
    const Quantizer *q, *k, *attention, *v;  // null: not quantized; both of a pair where that product is u8
    bool row_scale;
    Word* scratch;          // attention_scratch(...) words, 64-byte aligned
};

constexpr int kScanChannels = 16;  // that a scan works on side by side

// h = exp(delta * decay) h + delta x b, y = sum of c h + skip x, pixel after pixel: `channels` planes of x, delta and y,
// `states` planes of b and c.  Arrays of kScanChannels hold one number per channel.
struct Scan {
    Planes x, delta, b, c, y;
    int channels, states, pixels;
    const float* decay;  // states x kScanChannels, times log2(e)
    const float* skip;   // kScanChannels
    float* state;        // states x kScanChannels: before the first pixel, left as it is after the last
    float* scratch;      // 2 x pixels x kScanChannels
};

struct Kernels {
    const char* name;       // "portable", "avx2", ...
    int lanes;              // floats per vector

    // Reorders rows x words (rows major; words = taps x planes) to the packed_words(...) words that `gemm` reads.
    void (*pack)(Format, const Word* plain, int rows, int words, Word* packed);
    std::size_t (*packed_words)(Format, int rows, int words);
    void (*gemm)(const Gemm&);
    // Multiplies and adds words without loading inputs, for benchmarks; returns how many.
    std::int64_t (*products)(Format, std::int64_t steps);

    void (*binary)(const Binary&);
    // Bit c of a word: whether channel c (of its 32) is at least its threshold or, unless `below` is null, at most that.
    void (*signs)(Planes x, Planes bits, int channels, int width, const float* thresholds, const float* below);
    // As `products`, for `binary`.
    std::int64_t (*binary_products)(std::int64_t steps);

    std::size_t (*attention_scratch)(int channels, int heads, int width);  // words
    void (*attention)(const Attention&);

    // Over the channels of each pixel, biased variance.
    void (*layer_norm)(Planes x, Planes y, int channels, int width, const float* weight, const float* bias, float eps);
    // Channels, times `scale` where that is not null, to codes: four per word, missing channels of the last word are 0.
    void (*quantize)(Planes x, Planes codes, int channels, int width, Quantizer, const float* scale);
    // Two channels per word.
    void (*to_bf16)(Planes x, Planes y, int channels, int width);
    // To the levels of the quantizer, still f32.
    void (*round)(Planes x, Planes y, int channels, int width, Quantizer);
    void (*activate)(Function, float slope, Planes x, Planes y, int channels, int width);
    void (*add)(Planes a, Planes b, Planes y, int channels, int width);
    // A pitch of 0 repeats one plane for all channels.
    void (*multiply)(Planes a, Planes b, Planes y, int channels, int width);
    // y[c] = x[c] * scale[c * stride] + shift[c * stride]; shift may be null
    void (*affine)(Planes x, Planes y, int channels, int width, const float* scale, const float* shift,
                   std::ptrdiff_t stride);
    // Of each channel the mean of `pixels` numbers and the sum of squares about it; `pitch` floats between channels.
    void (*moments)(Planes x, int channels, int pixels, float* mean, float* squares, std::ptrdiff_t pitch);
    // The number of the largest channel, the first one of equals.
    void (*argmax)(Planes x, Planes y, int channels, int width);
    // The mean of |x| over the channels of each pixel.
    void (*magnitude)(Planes x, Planes y, int channels, int width);
    // y[r] = the sum of values[n] * x[columns[n]] for n from starts[r] up to starts[r + 1].
    void (*sparse)(Planes x, Planes y, int rows, int width, const std::int32_t* starts, const std::int32_t* columns,
                   const float* values);
    void (*scan)(const Scan&);
};

// The best table for this CPU, or the one that BITSR_ISA names; throws std::runtime_error where that does not exist.
const Kernels& kernels();
// A table by name, or null where this build or this CPU does not have it.
const Kernels* kernels_named(const std::string& name);
// Names of the tables that this build and this CPU have, best first.
std::vector<std::string> available_isas();

}  // namespace bitsr
