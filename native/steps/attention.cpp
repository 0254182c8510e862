// Attention inside windows (bitsr.program.attention); a tile is a window.
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

constexpr float kLog2E = 1.44269504f;

using Regions = std::vector<std::int32_t>;

struct AttentionStep : Step {
    Value x, y;
    int heads, tokens;
    float scale;
    std::vector<float> bias;
    Format scores, values;
    std::optional<Quantizer> q, k, attention, v;
    int last_row, last_column;  // of the windows
    Regions regions[2][2];      // of windows in the last row, in the last column; empty: no regions

    void run(const Tile& tile) const override {
        const Regions& here = regions[tile.y == last_row][tile.x == last_column];
        const auto pointer = [](const std::optional<Quantizer>& q) { return q ? &*q : nullptr; };
        Attention a{};
        a.qkv = tile.at(x);
        a.output = tile.at(y);
        a.channels = y.channels;
        a.heads = heads;
        a.tokens = tokens;
        a.width = tile.width;
        a.scale = scale;
        a.bias = bias.data();
        a.regions = here.empty() ? nullptr : here.data();
        a.scores = scores;
        a.values = values;
        a.q = pointer(q);
        a.k = pointer(k);
        a.attention = pointer(attention);
        a.v = pointer(v);
        a.scratch = tile.temporary;
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

void check_product(Format format, const std::optional<Quantizer>& a, const std::optional<Quantizer>& b) {
    require(format != Format::u8 || (a && b), "a product of codes needs the quantizers of both operands");
    for (const auto& quantizer : {a, b})
        if (quantizer) require_quantizer(*quantizer);
}

}  // namespace

StepPointer make_attention(Group& group, const Value& x, const Value& y, const AttentionOptions& o) {
    Checks checks(group);
    checks.domain(Domain::windows);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    checks.reads(x);
    checks.writes(y);
    require(x.channels == 3 * y.channels, "attention takes queries, keys and values: 3 x the channels it gives");
    require(o.heads >= 1 && y.channels % o.heads == 0, "the heads must divide the channels");
    require(o.window == group.window && o.shift == group.shift, "window and shift are not those of the group");
    const int tokens = group.window * group.window, width = group.tile_width();
    require(o.bias_heads == o.heads && o.bias_keys == tokens && o.bias_queries == tokens,
            "the bias must be heads x tokens x tokens");
    const std::size_t keys = std::size_t(o.heads) * tokens;
    require_finite(o.bias, keys * tokens, "the bias must be finite");
    require_finite(&o.scale, 1, "the scale must be finite");
    check_product(o.scores, o.q, o.k);
    check_product(o.values, o.attention, o.v);

    auto step = std::make_unique<AttentionStep>();
    step->x = x;
    step->y = y;
    step->heads = o.heads;
    step->tokens = tokens;
    step->scale = o.scale;
    step->bias.resize(keys * width);
    for (std::size_t key = 0; key < keys; ++key)
        for (int query = 0; query < tokens; ++query)
            step->bias[key * width + query] = o.bias[key * tokens + query] * kLog2E;  // as the kernel wants it
    step->scores = o.scores;
    step->values = o.values;
    step->q = o.q;
    step->k = o.k;
    step->attention = o.attention;
    step->v = o.v;
    step->last_row = group.height / group.window - 1;
    step->last_column = group.width / group.window - 1;
    if (group.shift)
        for (const bool row : {false, true})
            for (const bool column : {false, true})
                step->regions[row][column] = regions_of(group.window, group.shift, row, column, width);
    step->temporary_words = kernels().attention_scratch(y.channels, o.heads, width);
    return step;
}

}  // namespace bitsr
