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

// What is needed of each tile for means and deviations over all: y has a row for each column of tiles, whose pixels
// stand for the rows of x; half of its channels are means, half are sums of squares about these.
struct Moments : Step {
    Value x, y;
    void run(const Tile& tile) const override {
        const Planes to = tile.pixel(y, tile.x / kTile, tile.y);
        tile.kernels.moments(tile.at(x), x.channels, tile.pixels, to.floats(0), to.floats(x.channels), to.pitch);
    }
};

// From moments of tiles; a tile is a plane.
struct GlobalPool : Step {
    Value x, y;
    int width;  // of the pooled map, its height is x.width
    Statistic statistic;

    void run(const Tile& tile) const override {
        const double count = double(width) * x.width;
        double mean = 0, variance = 0;
        for_tiles(tile, [&](int pixels, float tile_mean, float) { mean += pixels * double(tile_mean) / count; });
        for_tiles(tile, [&](int pixels, float tile_mean, float squares) {
            variance += (squares + pixels * (tile_mean - mean) * (tile_mean - mean)) / count;
        });
        *tile.pixel(y, 0, 0).floats(tile.x) = float(statistic == Statistic::mean ? mean : std::sqrt(variance));
    }

    template <class Body>
    void for_tiles(const Tile& tile, const Body& body) const {
        for (int column = 0; column < x.height; ++column) {
            const Planes from = tile.pixel(x, column, 0);
            const float *means = from.floats(tile.x), *squares = from.floats(y.channels + tile.x);
            const int pixels = std::min(kTile, width - column * kTile);
            for (int row = 0; row < x.width; ++row) body(pixels, means[row], squares[row]);
        }
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

StepPointer make_moments(Group& group, const Value& x, const Value& y) {
    Checks checks(group);
    checks.domain(Domain::rows);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    require(y.channels == 2 * x.channels, "there must be two moments for each channel");
    require(y.height == group.tiles_per_row() && y.width == group.height, "there must be moments for each tile");
    checks.disjoint(x, y);
    checks.reads(x);
    checks.writes_elsewhere(y);
    return make<Moments>(x, y);
}

StepPointer make_global_pool(Group& group, const Value& x, const Value& y, int width, Statistic statistic) {
    Checks checks(group);
    checks.domain(Domain::channels);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    require(x.channels == 2 * y.channels, "there must be two moments for each channel");
    require(width >= 1 && (width - 1) / kTile + 1 == x.height, "the moments are of a map of another width");
    require(y.height == 1 && y.width == 1, "the output must be 1 x 1");
    require(y.channels == group.width, "the channels are not those of the group");
    checks.reads_elsewhere(x);
    checks.writes_elsewhere(y);
    auto step = make<GlobalPool>(x, y);
    step->width = width;
    step->statistic = statistic;
    return step;
}

}  // namespace bitsr
