// Attention inside windows and of windows to wider ones (bitsr.program.attention); a tile is a window.
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/relative_bias.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

using Regions = std::vector<std::int32_t>;

// What steps of attention keep of their options.
struct Products {
    int heads, queries, keys;
    float scale;
    RelativeBias bias;
    Format scores, values;
    std::optional<Quantizer> q, k, attention, v;
    bool row_scale;

    Attention of(const Planes& qkv, const Planes& output, int channels, int width, Word* scratch) const {
        const auto pointer = [](const std::optional<Quantizer>& q) { return q ? &*q : nullptr; };
        Attention a{};
        a.qkv = qkv;
        a.output = output;
        a.channels = channels;
        a.heads = heads;
        a.tokens = keys;
        a.width = width;
        a.queries = queries;
        a.query_width = round_up(queries, 16);
        a.scale = scale;
        bias.give(a);
        a.scores = scores;
        a.values = values;
        a.q = pointer(q);
        a.k = pointer(k);
        a.attention = pointer(attention);
        a.v = pointer(v);
        a.row_scale = row_scale;
        a.scratch = scratch;
        return a;
    }
};

void check_product(Format format, const std::optional<Quantizer>& a, const std::optional<Quantizer>& b) {
    require(format != Format::u8 || (a && b), "a product of codes needs the quantizers of both operands");
    for (const auto& quantizer : {a, b})
        if (quantizer) require_quantizer(*quantizer);
}

Products make_products(const AttentionOptions& o, int margin) {
    const int row = 2 * (o.window + margin) - 1, side = o.window + 2 * margin;
    require(o.bias_heads == o.heads && o.bias_rows == row && o.bias_columns == row,
            "the bias must be heads x distances in y x distances in x");
    require_finite(o.bias, std::size_t(o.heads) * row * row, "the bias must be finite");
    require_finite(&o.scale, 1, "the scale must be finite");
    check_product(o.scores, o.q, o.k);
    check_product(o.values, o.attention, o.v);
    require(o.values == Format::u8 || !o.row_scale, "a scale per query needs a product of codes with the values");
    RelativeBias bias(o.bias, o.heads, o.window, margin, kernels().lanes);
    return {o.heads,  o.window * o.window, side * side, o.scale,     std::move(bias), o.scores,
            o.values, o.q,                 o.k,         o.attention, o.v,  o.row_scale};
}

void check_values(Checks& checks, const Value& x, const Value& y, const AttentionOptions& o) {
    checks.domain(Domain::windows);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    checks.writes(y);
    require(x.channels == 3 * y.channels, "attention takes queries, keys and values: 3 x the channels it gives");
    require(o.heads >= 1 && y.channels % o.heads == 0, "the heads must divide the channels");
}

struct AttentionStep : Step {
    Value x, y;
    const Products products;
    int last_row, last_column;  // of the windows
    Regions regions[2][2];      // of windows in the last row, in the last column; empty: no regions

    explicit AttentionStep(Products made) : products(std::move(made)) {}

    void run(const Tile& tile) const override {
        const Regions& here = regions[tile.y == last_row][tile.x == last_column];
        Attention a = products.of(tile.at(x), tile.at(y), y.channels, tile.width, tile.temporary);
        a.regions = here.empty() ? nullptr : here.data();
        tile.kernels.attention(a);
    }
};

// A window of the last row (column) of the rolled map holds pixels of both ends of the map, which do not see each
// other; `shift_regions` of the reference numbers all other windows alike.
Regions regions_of(int window, int shift, bool last_row, bool last_column, int width) {
    if (!last_row && !last_column) return {};
    Regions regions(width, -1);
    for (int i = 0; i < window; ++i)
        for (int j = 0; j < window; ++j)
            regions[i * window + j] = 2 * (last_row && i >= window - shift) + (last_column && j >= window - shift);
    return regions;
}

// Queries of a window, keys and values of one that is wider by `margin` on each side; head by head, which copies of all
// three leave in the cache.
struct OverlappingAttention : Step {
    Value x, y;
    const Products products;  // of all heads; the kernel gets one at a time
    int window, margin, width;

    explicit OverlappingAttention(Products made) : products(std::move(made)) {}

    void run(const Tile& tile) const override {
        const int size = y.channels / products.heads;
        const int row = tile.y * window, column = tile.x * window, side = window + 2 * margin;
        Word* scratch = tile.temporary + std::size_t{3} * size * width + 16;
        for (int head = 0; head < products.heads; ++head) {
            const Planes copy{tile.temporary, width}, to = tile.at(y);
            for (int c = 0; c < size; ++c) {
                const int plane = head * size + c;
                copy_square(tile, plane, row, column, window, copy.words(c));
                copy_square(tile, y.channels + plane, row - margin, column - margin, side, copy.words(size + c));
                copy_square(tile, 2 * y.channels + plane, row - margin, column - margin, side, copy.words(2 * size + c));
            }
            Attention a = products.of(copy, {to.words(head * size), to.pitch}, size, width, scratch);
            a.heads = 1;
            a.bias += head * a.bias_pitch;
            tile.kernels.attention(a);
        }
    }

    // side x side words of a plane of x, 0 beyond its map.
    void copy_square(const Tile& tile, int plane, int row, int column, int side, Word* to) const {
        const int before = std::max(0, -column), stop = std::min(side, x.width - column);
        for (int i = 0; i < side; ++i, to += side) {
            if (row + i < 0 || row + i >= x.height) {
                std::fill(to, to + side, Word{0});
                continue;
            }
            std::fill(to, to + before, Word{0});
            const Word* from = tile.pixel(x, row + i, column + before).words(plane);
            std::copy(from, from + (stop - before), to + before);
            std::fill(to + stop, to + side, Word{0});
        }
    }
};

}  // namespace

StepPointer make_attention(Group& group, const Value& x, const Value& y, const AttentionOptions& o) {
    Checks checks(group);
    check_values(checks, x, y, o);
    checks.reads(x);
    require(o.window == group.window && o.extent == group.shift, "window and shift are not those of the group");
    const int width = group.tile_width();

    auto step = std::make_unique<AttentionStep>(make_products(o, 0));
    step->x = x;
    step->y = y;
    step->last_row = group.height / group.window - 1;
    step->last_column = group.width / group.window - 1;
    if (group.shift)
        for (const bool row : {false, true})
            for (const bool column : {false, true})
                step->regions[row][column] = regions_of(group.window, group.shift, row, column, width);
    step->temporary_words = kernels().attention_scratch(y.channels, o.heads, width);
    return step;
}

StepPointer make_overlapping_attention(Group& group, const Value& x, const Value& y, const AttentionOptions& o) {
    Checks checks(group);
    check_values(checks, x, y, o);
    checks.reads_elsewhere(x);
    require(x.height == group.height && x.width == group.width, "a map is not of the size of the group");
    require(o.window == group.window && group.shift == 0, "the window is not that of the group");
    require(o.extent >= 0 && o.extent <= 64, "the margin must be 0..64");
    const int side = o.window + 2 * o.extent, size = y.channels / o.heads;

    auto step = std::make_unique<OverlappingAttention>(make_products(o, o.extent));
    step->x = x;
    step->y = y;
    step->window = o.window;
    step->margin = o.extent;
    step->width = round_up(side * side, 16);
    step->temporary_words = std::size_t{3} * size * step->width + 16 + kernels().attention_scratch(size, 1, step->width);
    return step;
}

}  // namespace bitsr
