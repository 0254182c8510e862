// Where feature maps lie.  A map has a place in the arena that all threads share; a local value is one tile of a map,
// in the scratch of the thread that works on the tile.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.hpp"

namespace bitsr {

constexpr int kTile = 64;  // pixels of a row that are worked on at a time

constexpr int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }
constexpr std::int64_t round_up_16(std::int64_t n) { return (n + 15) / 16 * 16; }

struct Shape {
    int height, width, channels;
    bool operator==(const Shape& o) const { return height == o.height && width == o.width && channels == o.channels; }
};

enum class Space { arena, scratch };

// Planes of words for a picture (or a tile).  A map is [row][plane][x], so that the planes of a row of pixels are near
// each other; `border` pixels around it hold the word `fill` once a step fill_border has run.
struct Value {
    Space space;
    Format format;
    int channels, planes;
    int height, width;           // pixels of a map; 1 x the words of a tile
    int border;
    Word fill;
    std::size_t begin, words;    // what it owns of its space
    std::ptrdiff_t origin;       // of plane 0 at pixel (0, 0)
    std::ptrdiff_t row, pitch;   // words between rows (a tile: 0), between planes
    std::ptrdiff_t column;       // words between pixels: 1, of a tile 0, because it lies at the same place for all
    int first = 0;               // plane of a larger value that plane 0 is

    bool is_map() const { return space == Space::arena; }
};

// Both throw std::invalid_argument for sizes that are out of bounds.
Value make_map(int channels, int height, int width, Format format, int border, Word fill, std::size_t begin);
Value make_local(int channels, int width, Format format, std::size_t begin);
// Channels start, ..., start + channels - 1 of an f32 value, in its memory.
Value make_part(const Value& whole, int start, int channels);

}  // namespace bitsr
