#include "engine/group.hpp"

#include <algorithm>

#include "engine/checks.hpp"

namespace bitsr {

namespace {

constexpr int kMostPixels = 1 << 20, kMostWindow = 64;

void check_size(int height, int width) {
    require(height >= 1 && height <= kMostPixels && width >= 1 && width <= kMostPixels,
            "height and width must be 1..1048576");
    require(std::int64_t{height} * (width / kTile + 1) <= (1 << 30), "there are too many pixels");
}

}  // namespace

Group Group::of_rows(int height, int width) {
    check_size(height, width);
    return {Domain::rows, height, width, 0, 0, {}, {}};
}

Group Group::of_windows(int height, int width, int window, int shift) {
    check_size(height, width);
    require(window >= 1 && window <= kMostWindow, "the window must be 1..64");
    require(height % window == 0 && width % window == 0, "height and width must be multiples of the window");
    require(shift >= 0 && shift < window, "the shift must be less than the window");
    require(std::int64_t{height / window} * (width / window) <= (1 << 30), "there are too many windows");
    return {Domain::windows, height, width, window, shift, {}, {}};
}

Group Group::of_channels(int count) {
    check_size(1, count);
    return {Domain::channels, 1, count, 0, 0, {}, {}};
}

int Group::tiles_per_row() const {
    switch (domain) {
        case Domain::rows: return (width + kTile - 1) / kTile;
        case Domain::windows: return width / window;
        default: return width;
    }
}

int Group::tiles() const { return tiles_per_row() * (domain == Domain::windows ? height / window : height); }

int Group::tile_width() const {
    switch (domain) {
        case Domain::rows: return round_up(std::min(width, kTile), 16);
        case Domain::windows: return round_up(window * window, 16);
        default: return 16;
    }
}

void Group::place(int index, Tile& tile) const {
    const int along = tiles_per_row();
    tile.y = index / along;
    tile.x = index % along;
    if (domain == Domain::rows) {
        tile.x *= kTile;
        tile.pixels = std::min(kTile, width - tile.x);
        tile.width = round_up(tile.pixels, 16);
    } else {
        tile.pixels = domain == Domain::windows ? window * window : 1;
        tile.width = tile_width();
    }
}

}  // namespace bitsr
