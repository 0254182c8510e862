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
    const int sides[] = {1, 2, 4, 5, 7, 8, 12, 16};
    c.tokens = sides[whole(0, 7)] * sides[whole(0, 7)];
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

// What the kernel multiplies in place of x: codes are exact numbers.
double operand(float x, const std::optional<Quantizer>& q, Format format) {
    return q && format == Format::u8 ? q->lower + double(q->step) * code_of(x, *q) : level_of(x, q);
}

// Outputs in double precision, and how far from them the kernel's arithmetic may end: to first order the sum of all that
// its roundings change, each by a part of 2^-24 (of float) or 2^-8 (of bfloat16) of a number.
class Expected {
public:
    Expected(const Case& c, const Attention& a, Map& qkv, int lanes)
        : c_(c), a_(a), qkv_(qkv), lanes_(lanes), weights_(c.tokens), changes_(c.tokens) {}

    // Works out the weights of all values for a query.
    void weigh(int head, int query) {
        const std::vector<Score> scores = scores_of(head, query);
        const Score* top = &scores[0];
        double farthest = 0;
        for (const Score& s : scores) {
            if (s.value > top->value) top = &s;
            farthest = std::max(farthest, std::abs(s.value));
        }
        double sum = 0, mean_change = 0;
        for (const Score& s : scores) {
            const double x = std::exp(s.value - top->value);
            sum += x;
            mean_change += x * s.change;
        }
        // of an exponential: see exp2 of math.hpp; a subtraction of the largest score
        const double of_power = (c_.values == Format::f32 ? 2e-7 : 3e-6) + 4 * of_float * farthest;
        const double of_sum = mean_change / sum + of_power + (c_.tokens + 8) * of_float;
        const double of_top = top->change + of_power + 8 * of_float;
        share_ = c_.row_scale ? 1 / sum : 1;  // the largest exponential is 1
        share_change_ = c_.row_scale ? share_ * std::expm1(of_top + of_sum) : 0;
        for (int j = 0; j < c_.tokens; ++j) {
            const double w = std::exp(scores[j].value - top->value) / sum / share_;
            const double change = w * std::expm1(scores[j].change + of_power + (c_.row_scale ? of_top : of_sum));
            weights_[j] = level(w);
            changes_[j] = c_.attention ? change_of_level(w, std::min(change, 1.0)) : std::min(change, 1.0);
        }
    }

    struct Output {
        double value, allowed;
    };

    Output output(int channel) const {
        const bool codes = c_.values == Format::u8, half = c_.values == Format::bf16;
        const double of_product = codes ? 12 * of_float : (c_.tokens + 4) * of_float + (half ? 2.01 * of_half : 0);
        const double lower = codes ? std::abs(c_.attention->lower) : 0;
        Output y{0, 0};
        for (int j = 0; j < c_.tokens; ++j) {
            const double v = operand(qkv_.at(2 * c_.heads * c_.size + channel, j), c_.v, c_.values);
            y.value += share_ * weights_[j] * v;
            y.allowed += (share_ * changes_[j] + share_change_ * std::abs(weights_[j]) +
                          share_ * (std::abs(weights_[j]) + lower) * of_product) * std::abs(v);
        }
        return y;
    }

private:
    static constexpr double of_float = 0x1p-24, of_half = 0x1p-8;

    struct Score {
        double value, change;
    };

    std::vector<Score> scores_of(int head, int query) const {
        const int first = head * c_.size, keys = c_.heads * c_.size;
        std::vector<Score> scores;
        std::vector<double> sizes, sums;  // of the products of a query and a key; of the numbers of a key
        for (int j = 0; j < c_.tokens; ++j) {
            double product = 0, size = 0, sum = 0;
            for (int d = first; d < first + c_.size; ++d) {
                const double q = operand(qkv_.at(d, query) * a_.scale, c_.q, c_.scores);
                const double k = operand(qkv_.at(keys + d, j), c_.k, c_.scores);
                product += q * k;
                size += std::abs(q * k);
                sum += k;
            }
            const int lane = query % lanes_;
            const double bias = a_.bias[head * a_.bias_pitch + a_.query_bias[query - lane] + a_.key_bias[j] + lane];
            const bool seen = !a_.regions || a_.regions[query] == a_.regions[j];
            scores.push_back({seen ? product + bias * std::log(2.0) : -1e30, std::abs(bias)});
            sizes.push_back(c_.scores == Format::u8 ? std::abs(product) : size);
            sums.push_back(sum);
        }
        // Codes of keys are counted from their mean on: no term of a key is larger than this.
        const auto [low, high] = std::minmax_element(sums.begin(), sums.end());
        const double term = c_.scores == Format::u8 ? std::abs(c_.q->lower) * (*high - *low) : 0;
        for (int j = 0; j < c_.tokens; ++j) {
            const int roundings = c_.scores == Format::u8 ? 8 : c_.size + 4;
            scores[j].change = roundings * of_float * (scores[j].change + sizes[j] + term) +
                               (c_.scores == Format::bf16 ? 2.01 * of_half * sizes[j] : 0);
        }
        return scores;
    }

    double level(double weight) const { return operand(static_cast<float>(weight), c_.attention, c_.values); }

    // A weight that may be `change` larger or smaller may get another code.
    double change_of_level(double weight, double change) const {
        const double rounding = 4 * of_float * (c_.attention->levels * c_.attention->step + std::abs(c_.attention->lower));
        const double reach = change + rounding, here = level(weight);
        return std::max(level(weight + reach) - here, here - level(weight - reach));
    }

    const Case& c_;
    const Attention& a_;
    Map& qkv_;
    const int lanes_;
    std::vector<double> weights_, changes_;
    double share_ = 1, share_change_ = 0;
};

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

    Expected expected(c, a, qkv, k.lanes);
    double worst = 0;  // error as a part of what is allowed
    for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < c.queries; ++i) {
            expected.weigh(h, i);
            for (int d = h * c.size; d < (h + 1) * c.size; ++d) {
                const auto [y, allowed] = expected.output(d);
                const double error = std::abs(output.at(d, i) - y);
                worst = std::isfinite(error) ? std::max(worst, error / (allowed + 1e-30)) : HUGE_VAL;
            }
        }
    expect(worst <= 1, k, c.text() + ", error " + std::to_string(worst) + " of what is allowed");
}

}  // namespace bitsr
