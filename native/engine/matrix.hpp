// Weights of a layer, packed once for the instruction set in use; immutable and shared by plans.
#pragma once

#include <vector>

#include "engine/memory.hpp"

namespace bitsr {

// Rows (output channels) of a linear layer or convolution as the caller has them.
struct Weights {
    Format format;
    int rows, taps, channels;  // channels: those that one row sees
    const std::int8_t* codes;  // rows x taps x channels, u8
    const float* numbers;      // the same, f32 and bf16
};

// Rows packed in `groups` equal groups.  A group reads the words that hold its channels; where it shares a word with
// its neighbour, the weights of foreign channels are 0.
class PackedRows {
public:
    PackedRows() = default;
    PackedRows(const Weights&, int groups);

    int rows = 0, taps = 0, channels = 0, groups = 1;  // channels: of all groups
    int planes = 0;          // words that a group reads per tap
    std::vector<int> first;  // of these, per group
    int rows_per_group() const { return rows / groups; }
    const Word* group(int index) const { return packed_.data() + index * group_words_; }

private:
    std::size_t group_words_ = 0;
    Memory packed_;
};

class Matrix {
public:
    // Null or `rows` numbers each, but `sums`: sum_rows x taps x channels of 0 or 1, given exactly with `mid`.
    // Throws std::invalid_argument.
    Matrix(const Weights&, int groups, const float* scale, const float* bias, const float* mid,
           const std::int8_t* sums, int sum_rows);

    Format format;
    PackedRows weights;
    PackedRows sums;  // no rows without `mid`
    std::vector<float> scale, bias, mid;  // empty where not given
};

}  // namespace bitsr
