// Pixels around a map for the taps of a convolution to meet: zero, or the code of zero (bitsr.program.layers pads).
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

// A tile fills what is beside it and, in the first and last rows, above and below it.
struct FillBorder : Step {
    Value x;
    void run(const Tile& tile) const override {
        const int left = tile.x == 0 ? -x.border : tile.x;
        const int right = tile.x + tile.pixels == x.width ? x.width + x.border : tile.x + tile.pixels;
        if (tile.y == 0)
            for (int row = -x.border; row < 0; ++row) fill(tile, row, left, right);
        if (tile.y == x.height - 1)
            for (int row = x.height; row < x.height + x.border; ++row) fill(tile, row, left, right);
        fill(tile, tile.y, left, tile.x);
        fill(tile, tile.y, tile.x + tile.pixels, right);
    }
    void fill(const Tile& tile, int row, int from, int to) const {
        const Planes planes = tile.pixel(x, row, from);
        for (int p = 0; p < x.planes; ++p) std::fill_n(planes.words(p), to - from, x.fill);
    }
};

}  // namespace

StepPointer make_fill_border(Group& group, const Value& x) {
    Checks checks(group);
    checks.domain(Domain::rows);
    require(x.is_map() && x.border > 0, "the map has no border");
    checks.writes(x);
    auto step = std::make_unique<FillBorder>();
    step->x = x;
    return step;
}

}  // namespace bitsr
