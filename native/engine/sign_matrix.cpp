#include "engine/sign_matrix.hpp"

#include <algorithm>
#include <cstring>

#include "engine/checks.hpp"

namespace bitsr {

namespace {

constexpr int kMost = 1 << 16;
constexpr std::int64_t kMostProducts = 1 << 28;

Word bits_of(float x) {
    Word bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

// A run of channels within one word and one group.
struct Run {
    int begin, end, group;
};

std::vector<Run> runs_of(const std::vector<int>& sizes) {
    std::vector<Run> runs;
    int begin = 0;
    for (int group = 0; group < int(sizes.size()); ++group)
        for (const int stop = begin + sizes[group]; begin < stop; begin = runs.back().end)
            runs.push_back({begin, std::min(stop, (begin / 32 + 1) * 32), group});
    return runs;
}

}  // namespace

SignMatrix::SignMatrix(int rows, int taps, int channels, const std::int8_t* weights, const std::vector<int>& sizes,
                       const float* scale, const float* bias)
    : rows(rows), taps(taps), channels(channels) {
    require(rows >= 1 && rows <= kMost && taps >= 1 && taps <= kMost && channels >= 1 && channels <= kMost,
            "signs must be 1..65536 rows x taps x channels");
    const std::int64_t count = std::int64_t{rows} * taps * channels;
    require(std::int64_t{rows} * taps * (channels + 32) <= kMostProducts, "the signs are too many");
    require(std::all_of(weights, weights + count, [](std::int8_t w) { return w >= -1 && w <= 1; }),
            "signs must be -1, 0 or 1");
    std::int64_t grouped = 0;
    for (int size : sizes) {
        require(size >= 1 && size <= channels, "groups have 1..channels channels");
        grouped += size;
    }
    require(grouped == channels, "the groups must cover the channels");
    require_finite(scale, std::size_t(rows) * sizes.size(), "scales must be finite");
    if (bias) require_finite(bias, rows, "the bias must be finite");

    const std::vector<Run> runs = runs_of(sizes);
    for (int tap = 0; tap < taps; ++tap)
        for (const Run& run : runs) terms.push_back({tap, run.begin / 32});
    words.reserve(rows * terms.size() * 3);
    for (int row = 0; row < rows; ++row) {
        double first = bias ? bias[row] : 0.0;
        for (int tap = 0; tap < taps; ++tap) {
            double sum = 0.0;
            for (const Run& run : runs) {
                const std::int8_t* w = weights + (std::int64_t{row} * taps + tap) * channels;
                const float s = scale[std::size_t(row) * sizes.size() + run.group];
                Word signs = 0, mask = 0;
                for (int c = run.begin; c < run.end; ++c) {
                    if (w[c] > 0) signs |= Word{1} << c % 32;
                    if (w[c] != 0) mask |= Word{1} << c % 32;
                    first += w[c] != 0 ? double(s) : 0.0;
                    sum += double(s) * w[c];
                }
                words.insert(words.end(), {signs, mask, bits_of(-2.0f * s)});
            }
            beyond.push_back(float(sum));
        }
        start.push_back(float(first));
    }
    require_finite(start.data(), start.size(), "sums of scales must be finite");
}

}  // namespace bitsr
