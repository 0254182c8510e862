// Resize and Pad of bitsr.program.maps: every output is a weighted sum over rows and columns of the input.  Rows come
// first here: that leaves one row of sums, of which neighbouring columns share their parts.
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct Weighted {
    int taps, size;
    std::vector<std::int32_t> index;
    std::vector<float> weight;
    std::ptrdiff_t at(int tap, int place) const { return std::ptrdiff_t{tap} * size + place; }
};

struct Resample : Step {
    Value x, y;
    Weighted rows, columns;

    void run(const Tile& tile) const override {
        // The columns of the input that the tile's outputs touch.
        int left = x.width, right = 0;
        for (int tap = 0; tap < columns.taps; ++tap) {
            const auto* index = &columns.index[columns.at(tap, tile.x)];
            const auto [low, high] = std::minmax_element(index, index + tile.pixels);
            left = std::min(left, *low);
            right = std::max(right, *high + 1);
        }
        float* sums = reinterpret_cast<float*>(tile.temporary);
        const Planes to = tile.at(y);
        for (int c = 0; c < y.channels; ++c) {
            add_rows(tile, c, left, right - left, sums);
            add_columns(tile.x, tile.pixels, sums - left, to.floats(c));
        }
    }

    void add_rows(const Tile& tile, int c, int left, int count, float* sums) const {
        for (int tap = 0; tap < rows.taps; ++tap) {
            const float* from = tile.pixel(x, rows.index[rows.at(tap, tile.y)], left).floats(c);
            const float weight = rows.weight[rows.at(tap, tile.y)];
            if (tap == 0)
                for (int i = 0; i < count; ++i) sums[i] = from[i] * weight;
            else
                for (int i = 0; i < count; ++i) sums[i] += from[i] * weight;
        }
    }

    void add_columns(int first, int count, const float* sums, float* to) const {
        for (int tap = 0; tap < columns.taps; ++tap) {
            const auto* index = &columns.index[columns.at(tap, first)];
            const float* weight = &columns.weight[columns.at(tap, first)];
            if (tap == 0)
                for (int i = 0; i < count; ++i) to[i] = sums[index[i]] * weight[i];
            else
                for (int i = 0; i < count; ++i) to[i] += sums[index[i]] * weight[i];
        }
    }
};

Weighted weighted(const Axis& axis, int size, int size_before) {
    require(axis.taps >= 1 && axis.taps <= 64 && axis.size == size, "the taps do not fit the size of the group");
    const std::ptrdiff_t count = std::ptrdiff_t{axis.taps} * size;
    require(std::all_of(axis.index, axis.index + count, [&](int i) { return i >= 0 && i < size_before; }),
            "a tap lies outside of the map");
    require_finite(axis.weight, count, "the weights of taps must be finite");
    return {axis.taps, size, {axis.index, axis.index + count}, {axis.weight, axis.weight + count}};
}

}  // namespace

StepPointer make_resample(Group& group, const Value& x, const Value& y, const Axis& rows, const Axis& columns) {
    Checks checks(group);
    checks.domain(Domain::rows);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.same_channels(x, y);
    checks.disjoint(x, y);
    checks.reads_elsewhere(x);
    checks.writes(y);
    auto step = std::make_unique<Resample>();
    step->x = x;
    step->y = y;
    step->rows = weighted(rows, group.height, x.height);
    step->columns = weighted(columns, group.width, x.width);
    step->temporary_words = round_up(x.width, 16);
    return step;
}

}  // namespace bitsr
