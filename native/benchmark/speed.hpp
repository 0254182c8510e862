// Speed of the kernels of one instruction set, in cache.
#pragma once

#include <string>
#include <vector>

namespace bitsr {

struct Speed {
    std::string kernel, format, shape, unit;
    double rate;  // in 10^9 units per second; the median of the repetitions
    double peak;  // of the instructions that multiply, measured between the repetitions; 0 where nothing is multiplied
    double share;  // median of rate / peak of the same repetition; 0 without a peak
};

// Throws std::runtime_error for an instruction set that is not there.
std::vector<Speed> benchmark_kernels(const std::string& isa, int repetitions);

}  // namespace bitsr
