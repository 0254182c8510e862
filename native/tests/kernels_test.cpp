// Checks every kernel of every instruction set that this build and this CPU have against plain loops in double
// precision.  Prints what differs; the exit status is 1 where anything does.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "kernels.hpp"

namespace bitsr::avx512 {
extern const Kernels table;
}

namespace {

using namespace bitsr;

std::mt19937 generator(7);
int failures = 0;

int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator); }
float normal(float sigma) { return std::normal_distribution<float>(0, sigma)(generator); }
int up16(int n) { return (n + 15) / 16 * 16; }

void expect(bool right, const Kernels& k, const std::string& what) {
    if (right) return;
    if (++failures <= 50) std::printf("FAILED %s: %s\n", k.name, what.c_str());
}

// Planes in memory of their own, without a word to spare but `slack`.
struct Map {
    int channels, width, pitch;
    std::vector<Word> words;
    Map(int channels, int width, int slack = 0)
        : channels(channels), width(width), pitch(width + 16 * whole(0, 1)), words(channels * pitch + slack) {}
    Planes planes() { return {words.data(), pitch}; }
    float& at(int c, int x) { return planes().floats(c)[x]; }
    Word word(int p, int x) { return planes().words(p)[x]; }
    int code(int c, int x) { return word(c / 4, x) >> 8 * (c % 4) & 255; }
    Map& fill(float sigma, float mean = 0) {
        for (Word& w : words) {
            const float x = mean + normal(sigma);
            std::memcpy(&w, &x, sizeof w);
        }
        return *this;
    }
};

struct Worst {
    double error = 0, size = 0;
    void see(double is, double should) {
        error = std::isfinite(is) ? std::max(error, std::abs(is - should)) : HUGE_VAL;
        size = std::max(size, std::abs(should));
    }
    bool within(double relative) const { return error <= relative * size + 1e-30; }
    std::string text() const { return " error " + std::to_string(error / size); }
};

Quantizer quantizer(float low, float high, int levels = 255) { return {low, (high - low) / levels, levels}; }

int code_of(float x, const Quantizer& q) {
    const volatile float difference = x - q.lower;
    const float quotient = difference / q.step;
    return static_cast<int>(std::nearbyint(std::min(std::max(quotient, 0.0f), static_cast<float>(q.levels))));
}

float level_of(float x, const std::optional<Quantizer>& q) {
    if (!q) return x;
    const volatile float product = static_cast<float>(code_of(x, *q)) * q->step;
    return product + q->lower;
}

float bf16(Word half) {
    const Word bits = half << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

void test_gemm(const Kernels& k, Format format) {
    const int rows = whole(1, 40), taps = whole(0, 3) ? 1 : 9, planes = whole(1, 20), width = 16 * whole(1, 5);
    const int group = rows % 2 ? rows : rows / 2, pack = channels_per_word(format);
    Map input(planes, width + 16);
    std::vector<Word> weights(rows * taps * planes);
    const auto word = [&](bool weight) {
        Word w = 0;
        if (format == Format::u8) return static_cast<Word>(generator());
        const float x = normal(weight ? 0.3f : 1.0f);
        std::memcpy(&w, &x, sizeof w);
        return format == Format::bf16 ? (w >> 16) * 0x10001u : w;
    };
    for (Word& w : input.words) w = word(false);
    for (Word& w : weights) w = word(true);
    std::vector<Word> packed(k.packed_words(format, rows, taps * planes) + 16);
    Word* aligned = packed.data() + (64 - reinterpret_cast<std::uintptr_t>(packed.data()) % 64) % 64 / 4;
    k.pack(format, weights.data(), rows, taps * planes, aligned);
    std::vector<std::ptrdiff_t> offsets(taps);
    for (auto& offset : offsets) offset = whole(0, 16);
    std::vector<float> scale(rows), bias(rows), mid(rows);
    for (int n = 0; n < rows; ++n) scale[n] = normal(1), bias[n] = normal(9), mid[n] = normal(1);
    std::vector<std::int32_t> sums(width * ((rows + group - 1) / group));
    for (auto& sum : sums) sum = whole(0, 9999);

    const bool raw = format == Format::u8 && whole(0, 2) == 0, with_mid = format == Format::u8 && !raw && whole(0, 1);
    Map output(rows, width);
    Gemm g{};
    g.format = format, g.weights = aligned, g.rows = rows, g.taps = taps, g.planes = planes;
    g.offsets = offsets.data(), g.input = input.words.data(), g.pitch = input.pitch, g.width = width;
    g.output = output.planes();
    g.scale = raw || (format != Format::u8 && whole(0, 1)) ? nullptr : scale.data();
    g.bias = raw || whole(0, 1) ? nullptr : bias.data();
    g.mid = with_mid ? mid.data() : nullptr;
    g.sums = with_mid ? sums.data() : nullptr;
    g.rows_per_group = group;
    k.gemm(g);

    Worst worst;
    bool exact = true;
    for (int n = 0; n < rows; ++n)
        for (int x = 0; x < width; ++x) {
            double sum = 0;
            for (int t = 0; t < taps; ++t)
                for (int p = 0; p < planes; ++p) {
                    const Word a = input.word(p, offsets[t] + x), b = weights[(n * taps + t) * planes + p];
                    for (int i = 0; i < pack; ++i) {
                        if (format == Format::u8) sum += double(a >> 8 * i & 255) * std::int8_t(b >> 8 * i);
                        if (format == Format::bf16) sum += double(bf16(a >> 16 * i)) * bf16(b >> 16 * i);
                    }
                    float u, v;
                    std::memcpy(&u, &a, sizeof u), std::memcpy(&v, &b, sizeof v);
                    if (format == Format::f32) sum += double(u) * v;
                }
            if (raw) exact &= static_cast<std::int32_t>(output.word(n, x)) == sum;
            double y = g.scale ? scale[n] * sum : sum;
            if (with_mid) y += double(mid[n]) * sums[n / group * width + x];
            if (g.bias) y += bias[n];
            if (!raw) worst.see(output.at(n, x), y);
        }
    expect(exact && worst.within(1e-5), k, "gemm" + worst.text());
}

void test_codes(const Kernels& k) {
    const int channels = whole(1, 13), width = 16 * whole(1, 4), levels = whole(0, 3) ? 255 : whole(1, 254);
    const float step = std::exp(real(-12, 4));
    const Quantizer q{whole(0, 2) ? step * real(-200, 50) : 0, step, levels};
    Map x(channels, width), codes(planes_of(channels, Format::u8), width), levelled(channels, width);
    for (int c = 0; c < channels; ++c)
        for (int i = 0; i < width; ++i) {
            float v = q.lower + (whole(-3, levels + 3) + 0.5f) * q.step;  // a tie, or next to one
            for (int n = whole(-2, 2); n != 0; n += n < 0 ? 1 : -1) v = std::nextafter(v, n < 0 ? -1e38f : 1e38f);
            if (whole(0, 9) == 0) v = normal(100 * step);
            if (whole(0, 99) == 0) v = whole(0, 1) ? 1e30f : -1e30f;
            x.at(c, i) = v;
        }
    const std::vector<float> halves(channels, 0.5f);  // exact
    const float* scale = whole(0, 1) ? halves.data() : nullptr;
    if (scale)
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < width; ++i) x.at(c, i) *= 2;
    k.quantize(x.planes(), codes.planes(), channels, width, q, scale);
    if (scale)
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < width; ++i) x.at(c, i) *= 0.5f;
    k.round(x.planes(), levelled.planes(), channels, width, q);
    bool right = true, rounded = true;
    for (int i = 0; i < width; ++i)
        for (int c = 0; c < codes.channels * 4; ++c) {
            right &= codes.code(c, i) == (c < channels ? code_of(x.at(c, i), q) : 0);
            if (c < channels) rounded &= levelled.at(c, i) == level_of(x.at(c, i), q);
        }
    expect(right, k, "quantize, step " + std::to_string(step));
    expect(rounded, k, "round, step " + std::to_string(step));
}

void test_bf16(const Kernels& k) {
    const int channels = whole(1, 9), width = 16 * whole(1, 4);
    Map x(channels, width), y(planes_of(channels, Format::bf16), width);
    x.fill(1), k.to_bf16(x.planes(), y.planes(), channels, width);
    bool right = true;
    for (int i = 0; i < width; ++i)
        for (int c = 0; c < 2 * y.channels; ++c) {
            const float is = bf16(y.word(c / 2, i) >> 16 * (c % 2) & 0xffffu);
            const float should = c < channels ? x.at(c, i) : 0;
            right &= std::abs(is - should) <= std::abs(should) / 256;
        }
    expect(right, k, "to_bf16");
}

void test_pointwise(const Kernels& k) {
    const int channels = whole(1, 70), width = 16 * whole(1, 7);
    Map x(channels, width), y(channels, width), z(channels, width);
    x.fill(real(0.1f, 5), real(-3, 3)), y.fill(1);
    std::vector<float> weight(channels), bias(channels);
    for (int c = 0; c < channels; ++c) weight[c] = normal(1), bias[c] = normal(1);

    const auto check = [&](const char* what, double tolerance, auto should) {
        Worst worst;
        for (int c = 0; c < channels; ++c)
            for (int i = 0; i < width; ++i) worst.see(z.at(c, i), should(c, i));
        expect(worst.within(tolerance), k, what + worst.text());
    };
    const double slope = 0.1f;
    k.add(x.planes(), y.planes(), z.planes(), channels, width);
    check("add", 1e-7, [&](int c, int i) { return double(x.at(c, i)) + y.at(c, i); });
    k.multiply(x.planes(), y.planes(), z.planes(), channels, width);
    check("multiply", 1e-7, [&](int c, int i) { return double(x.at(c, i)) * y.at(c, i); });
    k.multiply(x.planes(), {y.words.data(), 0}, z.planes(), channels, width);
    check("multiply by a plane", 1e-7, [&](int c, int i) { return double(x.at(c, i)) * y.at(0, i); });
    k.affine(x.planes(), z.planes(), channels, width, weight.data(), bias.data(), 1);
    check("affine", 2e-7, [&](int c, int i) { return double(x.at(c, i)) * weight[c] + bias[c]; });
    k.affine(x.planes(), z.planes(), channels, width, weight.data(), nullptr, 0);
    check("affine by a number", 2e-7, [&](int c, int i) { return double(x.at(c, i)) * weight[0]; });

    const auto activation = [&](const char* what, Function function, double tolerance, auto should) {
        k.activate(function, slope, x.planes(), z.planes(), channels, width);
        check(what, tolerance, [&](int c, int i) { return should(double(x.at(c, i))); });
    };
    for (int i = 0; i < width; ++i) x.at(0, i) = real(-100, 100);
    activation("relu", Function::relu, 0, [](double v) { return std::max(v, 0.0); });
    activation("leaky_relu", Function::leaky_relu, 1e-7, [&](double v) { return v > 0 ? v : slope * v; });
    activation("gelu", Function::gelu, 1e-6, [](double v) { return v * 0.5 * std::erfc(-v * std::sqrt(0.5)); });
    activation("sigmoid", Function::sigmoid, 1e-6, [](double v) { return 1 / (1 + std::exp(-v)); });
    activation("tanh", Function::tanh, 1e-6, [](double v) { return std::tanh(v); });
    activation("clip", Function::clip, 0, [](double v) { return std::min(std::max(v, 0.0), 1.0); });
    activation("softplus", Function::softplus, 3e-7,
               [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))); });

    for (Word& w : x.words) {
        const float few = std::nearbyint(normal(1.5f));
        std::memcpy(&w, &few, sizeof w);
    }
    k.argmax(x.planes(), z.planes(), channels, width);
    for (int i = 0; i < width; ++i) {
        int largest = 0;
        for (int c = 1; c < channels; ++c)
            if (x.at(c, i) > x.at(largest, i)) largest = c;
        expect(z.at(0, i) == float(largest), k, "argmax");
    }

    x.fill(real(0.1f, 5), real(-3, 3));
    std::vector<double> mean(width), variance(width, 1e-5f);
    for (int i = 0; i < width; ++i) {
        for (int c = 0; c < channels; ++c) mean[i] += x.at(c, i) / double(channels);
        for (int c = 0; c < channels; ++c) variance[i] += std::pow(x.at(c, i) - mean[i], 2) / channels;
    }
    k.layer_norm(x.planes(), z.planes(), channels, width, weight.data(), bias.data(), 1e-5f);
    check("layer_norm", channels < 8 ? 2e-3 : 2e-5, [&](int c, int i) {
        return (x.at(c, i) - mean[i]) / std::sqrt(variance[i]) * weight[c] + bias[c];
    });
}

void test_scan(const Kernels& k) {
    const int channels = whole(1, kScanChannels), states = whole(1, 9), pixels = whole(1, 70);
    Map x(channels, pixels), delta(channels, pixels), y(channels, pixels), b(states, pixels), c(states, pixels);
    x.fill(1), delta.fill(0.1f, 0.5f), b.fill(1), c.fill(1);
    std::vector<float> decay(states * kScanChannels), skip(kScanChannels), state(states * kScanChannels);
    for (float& number : decay) number = real(-3, 0) * 1.44269504f;
    for (float& number : skip) number = normal(1);
    for (float& number : state) number = normal(1);
    std::vector<float> scratch(2 * pixels * kScanChannels);
    std::vector<double> h(state.begin(), state.end());
    k.scan({x.planes(), delta.planes(), b.planes(), c.planes(), y.planes(), channels, states, pixels, decay.data(),
            skip.data(), state.data(), scratch.data()});
    Worst worst;
    for (int i = 0; i < pixels; ++i)
        for (int channel = 0; channel < channels; ++channel) {
            double sum = double(skip[channel]) * x.at(channel, i);
            for (int n = 0; n < states; ++n) {
                const int at = n * kScanChannels + channel;
                const double step = delta.at(channel, i);
                h[at] = std::exp2(step * decay[at]) * h[at] + step * x.at(channel, i) * b.at(n, i);
                sum += h[at] * c.at(n, i);
            }
            worst.see(y.at(channel, i), sum);
        }
    for (int n = 0; n < states; ++n)
        for (int channel = 0; channel < channels; ++channel)
            worst.see(state[n * kScanChannels + channel], h[n * kScanChannels + channel]);
    expect(worst.within(2e-6), k, "scan" + worst.text());
}

struct Case {  // of attention
    int heads, size, tokens, queries;
    float spread;
    Format scores, values;
    std::optional<Quantizer> q, k, attention, v;
    std::string text() const {
        return "attention of " + std::to_string(heads) + "x" + std::to_string(size) + "x" + std::to_string(tokens) +
               ", " + std::to_string(queries) + " queries" +
               ", formats " + std::to_string(int(scores)) + std::to_string(int(values)) + ", quantizers " +
               std::to_string(q.has_value()) + std::to_string(k.has_value()) + std::to_string(attention.has_value()) +
               std::to_string(v.has_value()) + ", spread " + std::to_string(spread);
    }
};

Case random_case() {
    Case c{whole(1, 3), whole(0, 3) ? whole(1, 33) : 64, 0, 0, 1, Format(whole(0, 2)), Format(whole(0, 2)), {}, {}, {}, {}};
    const int sides[] = {2, 4, 5, 7, 8, 12};
    c.tokens = sides[whole(0, 5)] * sides[whole(0, 5)];
    c.queries = whole(0, 1) ? c.tokens : whole(1, c.tokens);
    c.spread = whole(0, 4) ? 1.0f : 20.0f;  // large scores overflow without the largest subtracted
    const auto some = [&](Format format) { return format == Format::u8 || whole(0, 2) == 0; };
    const int levels = whole(0, 3) ? 255 : 15;
    if (some(c.scores)) c.q = quantizer(-2.5f * c.spread, 2.25f * c.spread, levels);
    if (some(c.scores)) c.k = quantizer(-2.0f * c.spread, 2.75f * c.spread, levels);
    if (some(c.values)) c.attention = quantizer(whole(0, 2) ? 0 : -0.01f, real(0.3f, 1), levels);
    if (some(c.values)) c.v = quantizer(-2.5f, real(1, 3), levels);
    return c;
}

void test_attention(const Kernels& k, const Case& c) {
    const int channels = c.heads * c.size, width = up16(c.tokens);
    Map qkv(3 * channels, width, 16), output(channels, width);
    qkv.fill(1);
    for (int n = 0; n < 2 * channels; ++n)
        for (int i = 0; i < width; ++i) qkv.at(n, i) *= c.spread;
    if (whole(0, 1))
        for (int n = 0; n < 3 * channels; ++n)  // what lies beyond the tokens must not count
            for (int i = c.tokens; i < width; ++i) qkv.at(n, i) = std::numeric_limits<float>::quiet_NaN();
    const int query_width = up16(c.queries);
    std::vector<float> bias(c.heads * c.tokens * query_width);
    for (float& b : bias) b = normal(1);
    std::vector<std::int32_t> regions(width);
    for (auto& region : regions) region = whole(0, 1);
    std::vector<Word> scratch(k.attention_scratch(channels, c.heads, width) + 16);
    Attention a{};
    a.qkv = qkv.planes(), a.output = output.planes();
    a.channels = channels, a.heads = c.heads, a.tokens = c.tokens, a.width = width;
    a.queries = c.queries, a.query_width = query_width;
    a.scale = 1 / std::sqrt(float(c.size)), a.bias = bias.data(), a.regions = whole(0, 1) ? regions.data() : nullptr;
    a.scores = c.scores, a.values = c.values;
    const auto pointer = [](const std::optional<Quantizer>& q) { return q ? &*q : nullptr; };
    a.q = pointer(c.q), a.k = pointer(c.k), a.attention = pointer(c.attention), a.v = pointer(c.v);
    a.scratch = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) % 64 / 4;
    k.attention(a);

    Worst worst;
    double total = 0;
    std::vector<double> p(c.tokens);
    for (int h = 0; h < c.heads; ++h)
        for (int i = 0; i < c.queries; ++i) {
            double largest = -HUGE_VAL, sum = 0;
            for (int j = 0; j < c.tokens; ++j) {
                p[j] = bias[(h * c.tokens + j) * query_width + i] * std::log(2.0);
                if (a.regions && regions[i] != regions[j]) p[j] -= 100;
                for (int d = h * c.size; d < (h + 1) * c.size; ++d)
                    p[j] += double(level_of(qkv.at(d, i) * a.scale, c.q)) * level_of(qkv.at(channels + d, j), c.k);
                largest = std::max(largest, p[j]);
            }
            for (double& x : p) sum += x = std::exp(x - largest);
            for (double& x : p) x = level_of(static_cast<float>(x / sum), c.attention);
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

// Whatever the numbers are, nothing may be written or read out of bounds.
void test_not_a_number(const Kernels& k) {
    Map x(8, 64), codes(2, 64), y(8, 64);
    const float strange[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-40f};
    for (int c = 0; c < 8; ++c)
        for (int i = 0; i < 64; ++i) x.at(c, i) = strange[whole(0, 5)];
    k.quantize(x.planes(), codes.planes(), 8, 64, {-1, 0.01f, 255}, nullptr);
    k.round(x.planes(), y.planes(), 8, 64, {-1, 0.01f, 255});
    k.to_bf16(x.planes(), y.planes(), 8, 64);
    for (int f = 0; f <= int(Function::clip); ++f) k.activate(Function(f), 0.1f, x.planes(), y.planes(), 8, 64);
    const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    k.layer_norm(x.planes(), y.planes(), 8, 64, ones, ones, 1e-5f);
    Map qkv(6, 64, 16);
    for (Word& w : qkv.words) std::memcpy(&w, &strange[whole(0, 5)], sizeof w);
    const std::vector<float> bias(2 * 64 * 64);
    const Quantizer q{-1, 0.01f, 255};
    for (int formats = 0; formats < 9; ++formats) {
        std::vector<Word> scratch(k.attention_scratch(2, 2, 64) + 16);
        Attention a{qkv.planes(), y.planes(), 2, 2, 64, 64, 64, 64, 1, bias.data(), nullptr, Format(formats % 3),
                    Format(formats / 3), &q, &q, &q, &q, scratch.data()};
        k.attention(a);
    }
}

void test_binary(const Kernels& k) {
    const int channels = whole(1, 100), planes = planes_of(channels, Format::bits), width = up16(whole(1, 140));
    Map x(channels, width), bits(planes, width);
    x.fill(1);
    std::vector<float> thresholds;
    for (int c = 0; c < channels; ++c) thresholds.push_back(whole(0, 3) ? normal(1) : x.at(c, whole(0, width - 1)));
    k.signs(x.planes(), bits.planes(), channels, width, thresholds.data());
    bool right = true;
    for (int c = 0; c < planes * 32; ++c)
        for (int i = 0; i < width; ++i) {
            const bool set = bits.word(c / 32, i) >> c % 32 & 1;
            right &= set == (c < channels && x.at(c, i) >= thresholds[c]);
        }
    expect(right, k, "signs");

    const int rows = whole(1, 30), terms = whole(1, 12);
    Map y(rows, width);
    std::vector<Word> weights;
    std::vector<float> start;
    std::vector<std::ptrdiff_t> offsets;
    for (int term = 0; term < terms; ++term) offsets.push_back(whole(0, planes - 1) * bits.pitch);
    for (int i = 0; i < rows * terms; ++i) {
        const float scale = whole(0, 1) ? 1.0f : 0.5f;  // so that every sum is exact
        Word of_scale;
        std::memcpy(&of_scale, &scale, sizeof scale);
        weights.insert(weights.end(), {Word(generator()), whole(0, 4) ? Word(generator()) : ~Word{0}, of_scale});
    }
    for (int row = 0; row < rows; ++row) start.push_back(float(whole(-50, 50)));
    k.binary({weights.data(), rows, terms, offsets.data(), bits.words.data(), width, y.planes(), start.data()});
    for (int row = 0; row < rows; ++row)
        for (int i = 0; i < width; ++i) {
            float sum = start[row];
            for (int term = 0; term < terms; ++term) {
                const Word* w = &weights[(row * terms + term) * 3];
                float scale;
                std::memcpy(&scale, w + 2, sizeof scale);
                sum += scale * float(__builtin_popcount((bits.words[offsets[term] + i] ^ w[0]) & w[1]));
            }
            right &= y.at(row, i) == sum;
        }
    expect(right, k, "product of signs");
}

}  // namespace

int main(int count, char** arguments) {
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 200;
#ifdef __x86_64__
    for (int n = 0; n < rounds && kernels_named("avx512"); ++n) test_binary(avx512::table);  // without VPOPCNTDQ
#endif
    for (const std::string& name : available_isas()) {
        const Kernels& k = *kernels_named(name);
        for (int n = 0; n < rounds; ++n) {
            test_binary(k);
            for (const Format format : {Format::f32, Format::bf16, Format::u8}) test_gemm(k, format);
            for (int i = 0; i < 10; ++i) test_codes(k);
            test_bf16(k);
            test_pointwise(k);
            test_scan(k);
            test_attention(k, random_case());
            test_not_a_number(k);
        }
        std::printf("%s: %d failures so far\n", k.name, failures);
    }
    return failures != 0;
}
