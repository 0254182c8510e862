// Steps that are worked on together, tile by tile.
#pragma once

#include <vector>

#include "engine/step.hpp"

namespace bitsr {

enum class Domain {
    rows,      // tiles are up to 64 neighbouring pixels of a row
    windows,   // tiles are (shifted) windows
    channels,  // tiles are planes
};

// How the steps of a group use a map, and so which steps may share the group: tiles are worked on in any order.
struct Access {
    Value value;
    bool writes;
    bool elsewhere;  // not only at the tile's own pixels
};

struct Group {
    Domain domain;
    int height, width;  // of the maps that steps touch at the tile's pixels; channels: 1 x planes
    int window = 0, shift = 0;
    std::vector<StepPointer> steps;
    std::vector<Access> accesses;

    // All throw std::invalid_argument.
    static Group of_rows(int height, int width);
    static Group of_windows(int height, int width, int window, int shift);
    static Group of_channels(int count);

    int tiles_per_row() const;
    int tiles() const;
    int tile_width() const;  // words of a whole tile
    void place(int index, Tile&) const;  // fills in y, x, pixels, width
};

}  // namespace bitsr
