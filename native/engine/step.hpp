// A step as the engine runs it: constants and places, worked on tile by tile.
#pragma once

#include <memory>
#include <optional>

#include "engine/value.hpp"

namespace bitsr {

// What a step sees of the tile that it is to work on.
struct Tile {
    const Kernels& kernels;
    Word* spaces[2];     // by Space: the arena, this thread's scratch
    Word* temporary;     // this thread's, as many words as the step reserves
    const float* input;  // of the run, HxWxC
    float* output;
    int y, x;            // of the tile's first pixel; of a window, counted in windows; x: the plane in "channels"
    int pixels, width;   // pixels, and the words that hold them: a multiple of 16

    // The value at this tile.
    Planes at(const Value& v) const { return pixel(v, y, x); }
    Planes at(const std::optional<Value>& v) const { return v ? at(*v) : Planes{nullptr, 0}; }
    Planes pixel(const Value& v, std::ptrdiff_t row, std::ptrdiff_t column) const {
        return {spaces[int(v.space)] + v.origin + row * v.row + column * v.column, v.pitch};
    }
};

class Step {
public:
    virtual ~Step() = default;
    virtual void run(const Tile&) const = 0;

    // Words of Tile::temporary; what a step leaves there is gone when the next one runs.
    std::size_t temporary_words = 0;
};

using StepPointer = std::unique_ptr<Step>;

}  // namespace bitsr
