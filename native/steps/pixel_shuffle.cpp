// Channels c f^2 + i f + j to the pixels (f y + i, f x + j) of channel c, and back (bitsr.program.maps).
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

// Every f-th word of a row of outputs; a known factor makes the stride a constant.
template <int kFactor>
void spread(const Word* from, int factor, int count, Word* to) {
    if (kFactor) factor = kFactor;
    for (int i = 0; i < count; ++i) to[std::ptrdiff_t{i} * factor] = from[i];
}

struct PixelShuffle : Step {
    Value x, y;
    int factor;
    void run(const Tile& tile) const override {
        const auto of_factor = factor == 2 ? &spread<2> : factor == 4 ? &spread<4> : &spread<0>;
        const Planes to = tile.at(y);
        const int i = tile.y % factor;
        for (int j = 0; j < factor; ++j) {
            const int first = ((j - tile.x) % factor + factor) % factor;  // output of the tile that is pixel j of a block
            if (first >= tile.pixels) continue;
            const int count = (tile.pixels - first - 1) / factor + 1;
            const Planes from = tile.pixel(x, tile.y / factor, (tile.x + first) / factor);
            for (int c = 0; c < y.channels; ++c)
                of_factor(from.words((c * factor + i) * factor + j), factor, count, to.words(c) + first);
        }
    }
};

// Every f-th word of a row of inputs.
template <int kFactor>
void collect(const Word* from, int factor, int count, Word* to) {
    if (kFactor) factor = kFactor;
    for (int i = 0; i < count; ++i) to[i] = from[std::ptrdiff_t{i} * factor];
}

struct PixelUnshuffle : Step {
    Value x, y;
    int factor;
    void run(const Tile& tile) const override {
        const auto of_factor = factor == 2 ? &collect<2> : factor == 4 ? &collect<4> : &collect<0>;
        const Planes to = tile.at(y);
        for (int i = 0; i < factor; ++i) {
            const Planes from = tile.pixel(x, tile.y * factor + i, tile.x * factor);
            for (int c = 0; c < x.channels; ++c)
                for (int j = 0; j < factor; ++j)
                    of_factor(from.words(c) + j, factor, tile.pixels, to.words((c * factor + i) * factor + j));
        }
    }
};

// `wide` has more pixels, `deep` more channels.
void check_shuffle(Checks& checks, const Value& wide, const Value& deep, int factor) {
    checks.domain(Domain::rows);
    checks.format(wide, Format::f32);
    checks.format(deep, Format::f32);
    checks.disjoint(wide, deep);
    require(factor >= 1 && factor <= 256, "the factor must be 1..256");
    require(deep.channels == std::int64_t{wide.channels} * factor * factor, "the channels do not fit the factor");
}

}  // namespace

StepPointer make_pixel_shuffle(Group& group, const Value& x, const Value& y, int factor) {
    Checks checks(group);
    check_shuffle(checks, y, x, factor);
    require(std::int64_t{x.height} * factor == group.height && std::int64_t{x.width} * factor == group.width,
            "the output is not of the size of the group");
    checks.reads_elsewhere(x);
    checks.writes(y);
    auto step = std::make_unique<PixelShuffle>();
    step->x = x;
    step->y = y;
    step->factor = factor;
    return step;
}

StepPointer make_pixel_unshuffle(Group& group, const Value& x, const Value& y, int factor) {
    Checks checks(group);
    check_shuffle(checks, x, y, factor);
    require(x.height == std::int64_t{group.height} * factor && x.width == std::int64_t{group.width} * factor,
            "the input is not the factor times the size of the group");
    checks.reads_elsewhere(x);
    checks.writes(y);
    auto step = std::make_unique<PixelUnshuffle>();
    step->x = x;
    step->y = y;
    step->factor = factor;
    return step;
}

}  // namespace bitsr
