// Maxima over windows of pixels, means and deviations over all (bitsr.program.maps).
#include <algorithm>
#include <cmath>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct MaxPool : Step {
    Value x, y;
    int kernel, stride;

    // Down the columns that the tile needs, then along.
    void run(const Tile& tile) const override {
        float* maxima = reinterpret_cast<float*>(tile.temporary);
        const Planes from = tile.pixel(x, std::ptrdiff_t{tile.y} * stride, std::ptrdiff_t{tile.x} * stride);
        const Planes to = tile.at(y);
        const int needed = (tile.pixels - 1) * stride + kernel;
        for (int c = 0; c < y.channels; ++c) {
            const float* row = from.floats(c);
            std::copy_n(row, needed, maxima);
            for (int i = 1; i < kernel; ++i) {
                row += x.row;
                for (int k = 0; k < needed; ++k) maxima[k] = std::max(maxima[k], row[k]);
            }
            float* output = to.floats(c);
            for (int k = 0; k < tile.pixels; ++k)
                output[k] = *std::max_element(maxima + k * stride, maxima + k * stride + kernel);
        }
    }
};

// The sum of a row of (x - centre) ** power; sixteen sums side by side keep the processor busy and the digits.
template <bool kSquares>
double row_sum(const float* row, int count, float centre) {
    constexpr int kSums = 16;
    float sums[kSums] = {};
    const auto term = [centre](float x) { return kSquares ? (x - centre) * (x - centre) : x; };
    int i = 0;
    for (; i + kSums <= count; i += kSums)
        for (int k = 0; k < kSums; ++k) sums[k] += term(row[i + k]);
    double total = 0;
    for (; i < count; ++i) total += term(row[i]);
    for (const float sum : sums) total += sum;
    return total;
}

// A tile is a plane.
struct GlobalPool : Step {
    Value x, y;
    Statistic statistic;

    void run(const Tile& tile) const override {
        const float average = mean<false>(tile, 0);
        *tile.pixel(y, 0, 0).floats(tile.x) =
            statistic == Statistic::mean ? average : std::sqrt(mean<true>(tile, average));
    }

    template <bool kSquares>
    float mean(const Tile& tile, float centre) const {
        double total = 0;
        for (int row = 0; row < x.height; ++row)
            total += row_sum<kSquares>(tile.pixel(x, row, 0).floats(tile.x), x.width, centre);
        return float(total / (double(x.height) * x.width));
    }
};

template <class Made>
std::unique_ptr<Made> make(const Value& x, const Value& y) {
    auto step = std::make_unique<Made>();
    step->x = x;
    step->y = y;
    return step;
}

void check(const Checks& checks, const Value& x, const Value& y) {
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.same_channels(x, y);
    checks.disjoint(x, y);
}

}  // namespace

StepPointer make_max_pool(Group& group, const Value& x, const Value& y, int kernel, int stride) {
    Checks checks(group);
    checks.domain(Domain::rows);
    check(checks, x, y);
    require(kernel >= 1 && kernel <= 1024 && stride >= 1 && stride <= 1024, "kernel and stride must be 1..1024");
    require(kernel <= x.height && kernel <= x.width, "the map is smaller than the kernel");
    require((x.height - kernel) / stride + 1 == group.height && (x.width - kernel) / stride + 1 == group.width,
            "the output is not of the size of the group");
    checks.reads_elsewhere(x);
    checks.writes(y);
    auto step = make<MaxPool>(x, y);
    step->kernel = kernel;
    step->stride = stride;
    step->temporary_words = round_up((kTile - 1) * stride + kernel, 16);
    return step;
}

StepPointer make_global_pool(Group& group, const Value& x, const Value& y, Statistic statistic) {
    Checks checks(group);
    checks.domain(Domain::channels);
    check(checks, x, y);
    require(y.height == 1 && y.width == 1, "the output must be 1 x 1");
    require(x.channels == group.width, "the channels are not those of the group");
    checks.reads_elsewhere(x);
    checks.writes_elsewhere(y);
    auto step = make<GlobalPool>(x, y);
    step->statistic = statistic;
    return step;
}

}  // namespace bitsr
