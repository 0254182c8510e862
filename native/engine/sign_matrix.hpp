// Weights of a layer of signs, as the kernels want them; immutable and shared by plans.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.hpp"

namespace bitsr {

// y = sum over groups of inputs of scale * (sum of sign * weight) + bias; a weight is -1, 0 or +1.
class SignMatrix {
public:
    struct Term {  // what one word of input and one scale have to do with each other
        int tap, plane;
    };

    // weights: rows x taps x channels; scale: rows x groups; sizes: channels of each group, the same for every tap;
    // bias: rows, or null.  Throws std::invalid_argument.
    SignMatrix(int rows, int taps, int channels, const std::int8_t* weights, const std::vector<int>& sizes,
               const float* scale, const float* bias);

    int rows, taps, channels;
    std::vector<Term> terms;
    std::vector<Word> words;          // rows x terms x {signs, mask, -2 scale}, as `Binary` has them
    std::vector<float> start;         // of each row
    std::vector<float> beyond;        // rows x taps: what a tap adds too little where it meets no pixel (all signs -1)
};

}  // namespace bitsr
