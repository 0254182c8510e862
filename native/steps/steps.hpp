// How steps are made.  Every function checks its arguments completely, notes in the group which maps the step touches,
// and throws std::invalid_argument before anything could go wrong at run time.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "engine/group.hpp"
#include "engine/matrix.hpp"
#include "engine/sign_matrix.hpp"

namespace bitsr {

// io.cpp
StepPointer make_input(Group&, const Value& y, const Shape& picture);
StepPointer make_output(Group&, const Value& x, const Shape& picture);

// windows.cpp
StepPointer make_gather(Group&, const Value& x, const Value& y);
StepPointer make_scatter(Group&, const Value& x, const Value& y);

// fill_border.cpp
StepPointer make_fill_border(Group&, const Value& x);

using Numbers = std::vector<float>;
// Refuses numbers that are not finite or not `count`, one for each channel.
void check_numbers(const Numbers&, std::size_t count);

// product.cpp
// To the products comes `added`, if there is such a value; it may be y.
StepPointer make_gemm(Group&, const Value& x, const std::optional<Value>& added, const Value& y,
                      std::shared_ptr<const Matrix>);
struct SparseRows {  // as `Kernels::sparse` takes them
    std::vector<std::int32_t> starts, columns;
    std::vector<float> values;
};
StepPointer make_sparse(Group&, const Value& x, const Value& y, SparseRows);
struct Convolution {
    int kernel_height, kernel_width, stride, padding;
};
StepPointer make_conv2d(Group&, const Value& x, const Value& y, std::shared_ptr<const Matrix>, Convolution);

// binary.cpp
// `below` may be empty.
StepPointer make_signs(Group&, const Value& x, const Value& y, Numbers thresholds, Numbers below);
// `added` as of make_gemm.
StepPointer make_binary(Group&, const Value& x, const std::optional<Value>& added, const Value& y,
                        std::shared_ptr<const SignMatrix>);
StepPointer make_binary_conv2d(Group&, const Value& x, const Value& y, std::shared_ptr<const SignMatrix>, Convolution);

// attention.cpp
struct AttentionOptions {
    int heads, window;
    int extent;  // shift of the windows; margin of those of keys and values
    float scale;
    const float* bias;  // heads x distances in y x distances in x of queries from keys, from the most negative on
    int bias_heads, bias_rows, bias_columns;
    Format scores, values;
    std::optional<Quantizer> q, k, attention, v;
    bool row_scale;
};
StepPointer make_attention(Group&, const Value& x, const Value& y, const AttentionOptions&);
StepPointer make_overlapping_attention(Group&, const Value& x, const Value& y, const AttentionOptions&);

// pointwise.cpp
StepPointer make_layer_norm(Group&, const Value& x, const Value& y, Numbers weight, Numbers bias, float eps);
StepPointer make_activation(Group&, const Value& x, const Value& y, Function, float slope);
StepPointer make_prelu(Group&, const Value& x, const Value& y, Numbers slopes);
StepPointer make_add(Group&, const Value& a, const Value& b, const Value& y);
StepPointer make_multiply(Group&, const Value& a, const Value& b, const Value& y);
StepPointer make_affine(Group&, const Value& x, const Value& y, Numbers scale, Numbers shift);

StepPointer make_argmax(Group&, const Value& x, const Value& y);
StepPointer make_magnitude(Group&, const Value& x, const Value& y);

// reorder.cpp: the values of classes are cut to 0..count - 1
struct Table {
    int rows, channels;
    const float* numbers;  // rows x channels
};
StepPointer make_lookup(Group&, const Value& x, const Value& y, const Table&);
StepPointer make_sort_pixels(Group&, const Value& classes, const Value& y, int count, bool back);
StepPointer make_gather_pixels(Group&, const Value& x, const Value& order, const Value& y);

// scan.cpp
struct Decays {
    int channels, states;
    const float* numbers;  // channels x states
};
StepPointer make_scan(Group&, const Value& x, const Value& delta, const Value& b, const Value& c, const Value& y,
                      const Decays&, const Numbers& skip);

// quantize.cpp
StepPointer make_quantize(Group&, const Value& x, const Value& y, const Quantizer&, Numbers scale);
StepPointer make_to_bf16(Group&, const Value& x, const Value& y);
StepPointer make_round(Group&, const Value& x, const Value& y, const Quantizer&);

// copy.cpp
StepPointer make_copy(Group&, const Value& x, const Value& y, int start, int to, int count);

// pixel_shuffle.cpp
StepPointer make_pixel_shuffle(Group&, const Value& x, const Value& y, int factor);
StepPointer make_pixel_unshuffle(Group&, const Value& x, const Value& y, int factor);

// resample.cpp: `taps` rows of `size` numbers
struct Axis {
    int taps, size;
    const std::int32_t* index;
    const float* weight;
};
StepPointer make_resample(Group&, const Value& x, const Value& y, const Axis& rows, const Axis& columns);

// pool.cpp
StepPointer make_max_pool(Group&, const Value& x, const Value& y, int kernel, int stride);
enum class Statistic { mean, deviation };
StepPointer make_moments(Group&, const Value& x, const Value& y);
StepPointer make_global_pool(Group&, const Value& x, const Value& y, int width, Statistic);

}  // namespace bitsr
