#include "check.hpp"

namespace bitsr {

namespace {

struct Case {  // of attention
    int heads, size, tokens, queries;
    float spread;
    Format scores, values;
    std::optional<Quantizer> q, k, attention, v;
    bool row_scale;
    std::string text() const {
        return "attention of " + std::to_string(heads) + "x" + std::to_string(size) + "x" + std::to_string(tokens) +
               ", " + std::to_string(queries) + " queries" +
               ", formats " + std::to_string(int(scores)) + std::to_string(int(values)) + ", quantizers " +
               std::to_string(q.has_value()) + std::to_string(k.has_value()) + std::to_string(attention.has_value()) +
               std::to_string(v.has_value()) + (row_scale ? " scaled" : "") + ", spread " + std::to_string(spread);
    }
};

Case random_case() {
    Case c{whole(1, 3), whole(0, 3) ? whole(1, 33) : 64, 0, 0, 1, Format(whole(0, 2)), Format(whole(0, 2)), {}, {}, {}, {}, false};
    const int sides[] = {2, 4, 5, 7, 8, 12, 16};
    c.tokens = sides[whole(0, 6)] * sides[whole(0, 6)];
    c.queries = whole(0, 1) ? c.tokens : whole(1, c.tokens);
    c.spread = whole(0, 4) ? 1.0f : 20.0f;  // large scores overflow without the largest subtracted
    const auto some = [&](Format format) { return format == Format::u8 || whole(0, 2) == 0; };
    const int levels = whole(0, 3) ? 255 : 15;
    if (some(c.scores)) c.q = quantizer(-2.5f * c.spread, 2.25f * c.spread, levels);
    if (some(c.scores)) c.k = quantizer(-2.0f * c.spread, 2.75f * c.spread, levels);
    if (some(c.values)) c.attention = quantizer(whole(0, 2) ? 0 : -0.01f, real(0.3f, 1), levels);
    if (some(c.values)) c.v = quantizer(-2.5f, real(1, 3), levels);
    c.row_scale = c.values == Format::u8 && whole(0, 1);
    return c;
}

}  // namespace

void test_attention(const Kernels& k) {
    const Case c = random_case();
    const int channels = c.heads * c.size, width = up16(c.tokens);
    Map qkv(3 * channels, width, 16), output(channels, width);
    qkv.fill(1);
    for (int n = 0; n < 2 * channels; ++n)
        for (int i = 0; i < width; ++i) qkv.at(n, i) *= c.spread;
    if (whole(0, 1))
        for (int n = 0; n < 3 * channels; ++n)  // what lies beyond the tokens must not count
            for (int i = c.tokens; i < width; ++i) qkv.at(n, i) = std::numeric_limits<float>::quiet_NaN();
    const int query_width = up16(c.queries), farthest = 200;
    const int pitch = 2 * farthest + k.lanes;
    std::vector<float> bias(c.heads * pitch);
    for (float& b : bias) b = normal(1);
    std::vector<std::int32_t> query_bias(query_width), key_bias(c.tokens);
    for (auto& offset : query_bias) offset = whole(0, farthest);
    for (auto& offset : key_bias) offset = whole(0, farthest);
    std::vector<std::int32_t> regions(width);
    for (auto& region : regions) region = whole(0, 1);
    std::vector<Word> scratch(k.attention_scratch(channels, c.heads, width) + 16);
    Attention a{};
    a.qkv = qkv.planes(), a.output = output.planes();
    a.channels = channels, a.heads = c.heads, a.tokens = c.tokens, a.width = width;
    a.queries = c.queries, a.query_width = query_width;
    a.scale = 1 / std::sqrt(float(c.size)), a.regions = whole(0, 1) ? regions.data() : nullptr;
    a.bias = bias.data(), a.bias_pitch = pitch, a.query_bias = query_bias.data(), a.key_bias = key_bias.data();
    a.scores = c.scores, a.values = c.values;
    const auto pointer = [](const std::optional<Quantizer>& q) { return q ? &*q : nullptr; };
    a.q = pointer(c.q), a.k = pointer(c.k), a.attention = pointer(c.attention), a.v = pointer(c.v);
    a.row_scale = c.row_scale;
    a.scratch = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64 / 4;
    k.attention(a);

    Worst worst;
    double total = 0;
    std::vector<double> p(c.tokens);
    for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < c.queries; ++i) {
            double largest = -HUGE_VAL, sum = 0;
            for (int j = 0; j < c.tokens; ++j) {
                const int lane = i % k.lanes;
                p[j] = bias[h * pitch + query_bias[i - lane] + key_bias[j] + lane] * std::log(2.0);
                if (a.regions && regions[i] != regions[j]) p[j] -= 100;
                for (int d = h * c.size; d < (h + 1) * c.size; ++d)
                    p[j] += double(level_of(qkv.at(d, i) * a.scale, c.q)) * level_of(qkv.at(channels + d, j), c.k);
                largest = std::max(largest, p[j]);
            }
            for (double& x : p) sum += x = std::exp(x - largest);
            const double top = c.row_scale ? 1 / sum : 1;  // the largest exponential is 1
            for (double& x : p) x = top * level_of(static_cast<float>(x / sum / top), c.attention);
            for (int d = h * c.size; d < (h + 1) * c.size; ++d) {
                double y = 0;
                for (int j = 0; j < c.tokens; ++j) y += p[j] * level_of(qkv.at(2 * channels + d, j), c.v);
                worst.see(output.at(d, i), y);
                total += std::abs(output.at(d, i) - y);
            }
        }
    // A weight next to a tie may come out one level off: that moves an output by a step times a value.
    const bool half = c.scores == Format::bf16 || c.values == Format::bf16;
    const double flip = c.attention ? 4 * c.attention->step : 0;
    const double sharp = c.spread > 1 ? 100 : 1;  // errors of scores grow with them
    const double mean = total / (channels * c.queries) / worst.size, flips = 2 * flip / (c.heads * c.tokens);
    expect(worst.error <= worst.size * (half ? 0.03 : 5e-5) * sharp + flip * (half ? 4 : 1) * 3 &&
               mean <= (half ? 0.005 + 4 * flips : c.attention ? 1e-4 + flips : 2e-6) * sharp,
           k, c.text() + worst.text() + " mean " + std::to_string(mean));
}

}  // namespace bitsr
