// What convolutions of numbers and of signs share.
#pragma once

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

// That the output of the group's size is the convolution of the map x; throws std::invalid_argument.
inline void check_convolution(const Group& group, const Value& x, const Convolution& c, int taps) {
    require(c.kernel_height >= 1 && c.kernel_height <= 1024 && c.kernel_width >= 1 && c.kernel_width <= 1024,
            "the kernel must be 1..1024");
    require(c.stride >= 1 && c.stride <= 1024, "the stride must be 1..1024");
    require(c.padding >= 0 && c.padding <= x.border, "the padding must lie within the border of the map");
    require(taps == c.kernel_height * c.kernel_width, "the weights are for another kernel");
    const int rows = x.height + 2 * c.padding - c.kernel_height, columns = x.width + 2 * c.padding - c.kernel_width;
    require(rows >= 0 && columns >= 0, "the map is smaller than the kernel");
    require(rows / c.stride + 1 == group.height && columns / c.stride + 1 == group.width,
            "the output is not of the size of the group");
}

// The inputs of each tap of a tile: [tap][plane][pixel], planes `pitch` words apart.
inline void collect_taps(const Tile& tile, const Value& x, const Convolution& c, Word* to, std::ptrdiff_t pitch) {
    for (int i = 0; i < c.kernel_height; ++i)
        for (int j = 0; j < c.kernel_width; ++j) {
            const Planes from = tile.pixel(x, std::ptrdiff_t{tile.y} * c.stride - c.padding + i,
                                           std::ptrdiff_t{tile.x} * c.stride - c.padding + j);
            for (int p = 0; p < x.planes; ++p, to += pitch) {
                const Word* words = from.words(p);
                for (int pixel = 0; pixel < tile.pixels; ++pixel) to[pixel] = words[pixel * c.stride];
            }
        }
}

}  // namespace bitsr
