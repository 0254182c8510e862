#include "benchmark/speed.hpp"

#include <time.h>

#include <algorithm>
#include <functional>
#include <stdexcept>

#include "kernels/kernels.hpp"
#include "steps/relative_bias.hpp"

namespace bitsr {

namespace {

constexpr int kWidth = 64;                // pixels of a tile
constexpr double kSeconds = 1e-3;         // of one repetition
constexpr std::int64_t kProducts = 32768; // steps of one measurement of the peak
const char* const kFormats[] = {"f32", "bf16", "u8", "bits"};

// Words at an address that is a multiple of 64, all of them 1.0 as f32 and near it as bf16 and u8.
class Buffer {
  public:
    explicit Buffer(std::size_t words) : words_(words + 16, 0x3f803f80u) {}
    Word* data() { return words_.data() + (-reinterpret_cast<std::uintptr_t>(words_.data()) / sizeof(Word)) % 16; }
    float* floats() { return reinterpret_cast<float*>(data()); }

  private:
    std::vector<Word> words_;
};

// Of this thread on its processor: another process may have its turn in between.
double now() {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return double(time.tv_sec) + 1e-9 * double(time.tv_nsec);
}

double seconds(const std::function<void()>& work) {
    const double start = now();
    work();
    return now() - start;
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

class Benchmark {
  public:
    Benchmark(const Kernels& kernels, int repetitions) : kernels_(kernels), repetitions_(repetitions) {}

    // A linear layer (side 1) or a 3x3 convolution of a tile.
    void product(Format format, int channels, int rows, int side) {
        const int planes = planes_of(channels, format), taps = side * side, steps = taps * planes;
        const std::ptrdiff_t pitch = side == 1 ? kWidth : kWidth + 48;  // a map has a border
        std::vector<std::ptrdiff_t> offsets;
        for (int tap = 0; tap < taps; ++tap) offsets.push_back(tap / side * planes * pitch + tap % side);
        Buffer input(std::size_t(side) * planes * pitch), output(std::size_t(rows) * kWidth);
        Buffer plain(std::size_t(rows) * steps), weights(kernels_.packed_words(format, rows, steps));
        kernels_.pack(format, plain.data(), rows, steps, weights.data());
        const std::vector<float> numbers(rows, 0.5f);
        const Gemm gemm{format, weights.data(), rows, taps, planes, offsets.data(), input.data(), pitch, kWidth,
                        {output.data(), kWidth}, numbers.data(), numbers.data(), nullptr, nullptr, rows, {}};
        const std::string shape = std::to_string(channels) + " to " + std::to_string(rows);
        measure(side == 1 ? "linear" : "conv 3x3", format, shape, "MAC",
                double(rows) * steps * channels_per_word(format) * kWidth, [&] { kernels_.gemm(gemm); });
    }

    // A linear layer (side 1) or a 3x3 convolution of signs, a scale for every 32 inputs; masked products count as well.
    void binary(int channels, int rows, int side) {
        const int planes = planes_of(channels, Format::bits), taps = side * side, terms = taps * planes;
        const std::ptrdiff_t pitch = side == 1 ? kWidth : kWidth + 48;
        std::vector<std::ptrdiff_t> offsets;
        for (int tap = 0; tap < taps; ++tap)
            for (int plane = 0; plane < planes; ++plane)
                offsets.push_back((tap / side * planes + plane) * pitch + tap % side);
        Buffer input(std::size_t(side) * planes * pitch), output(std::size_t(rows) * kWidth);
        Buffer weights(std::size_t(rows) * terms * 3);
        const std::vector<float> start(rows, 0.5f);
        const Binary binary{weights.data(), rows, terms, offsets.data(), input.data(), kWidth, {output.data(), kWidth},
                            start.data(), {}};
        measure(side == 1 ? "linear" : "conv 3x3", Format::bits, std::to_string(channels) + " to " + std::to_string(rows),
                "MAC", double(rows) * terms * 32 * kWidth, [&] { kernels_.binary(binary); });
    }

    void attention(Format format, int heads, int size, int side) {
        const int channels = heads * size, tokens = side * side, distances = 2 * side - 1;
        Buffer qkv((3 * channels + 1) * tokens), output(channels * tokens), table(heads * distances * distances);
        Buffer scratch(kernels_.attention_scratch(channels, heads, tokens));
        const Quantizer quantizer{-1.0f, 0.01f, 255};
        const Quantizer* codes = format == Format::u8 ? &quantizer : nullptr;
        Attention attention{{qkv.data(), tokens}, {output.data(), tokens}, channels, heads, tokens, tokens, tokens,
                            tokens, 0.3f, nullptr, 0, nullptr, nullptr, nullptr, format, format, codes, codes, codes,
                            codes, false, scratch.data()};
        const RelativeBias bias(table.floats(), heads, side, 0, kernels_.lanes);
        bias.give(attention);
        const std::string sides = std::to_string(side) + "x" + std::to_string(side);
        measure("attention", format, std::to_string(heads) + " heads of " + std::to_string(size) + ", window " + sides,
                "MAC", 2.0 * tokens * tokens * channels, [&] { kernels_.attention(attention); });
    }

    void elementwise() {
        constexpr int channels = 60;
        Buffer a(channels * kWidth), b(channels * kWidth), y(channels * kWidth);
        const Planes x{a.data(), kWidth}, other{b.data(), kWidth}, to{y.data(), kWidth};
        const std::vector<float> numbers(channels, 0.5f);
        const Quantizer quantizer{-1.0f, 0.01f, 255};
        const auto run = [&](const char* name, const std::function<void()>& work) {
            measure(name, Format::f32, "60", "element", channels * kWidth, work);
        };
        run("layer_norm", [&] { kernels_.layer_norm(x, to, channels, kWidth, numbers.data(), numbers.data(), 1e-5f); });
        run("gelu", [&] { kernels_.activate(Function::gelu, 0.0f, x, to, channels, kWidth); });
        run("relu", [&] { kernels_.activate(Function::relu, 0.0f, x, to, channels, kWidth); });
        run("add", [&] { kernels_.add(x, other, to, channels, kWidth); });
        run("quantize", [&] { kernels_.quantize(x, to, channels, kWidth, quantizer, nullptr); });
        run("round", [&] { kernels_.round(x, to, channels, kWidth, quantizer); });
        run("signs", [&] { kernels_.signs(x, to, channels, kWidth, numbers.data(), nullptr); });
        run("signs of gelu", [&] { kernels_.signs(x, to, channels, kWidth, numbers.data(), numbers.data()); });
        run("to_bf16", [&] { kernels_.to_bf16(x, to, channels, kWidth); });
    }

    std::vector<Speed> speeds;

  private:
    // `work` does `count` units; those of products are compared with the peak, measured before and after each time.
    void measure(const char* kernel, Format format, const std::string& shape, const char* unit, double count,
                 const std::function<void()>& work) {
        const bool product = std::string(unit) == "MAC";
        const auto multiply = [&] {
            return format == Format::bits ? kernels_.binary_products(kProducts) : kernels_.products(format, kProducts);
        };
        const auto peak_seconds = [&] { return seconds([&] { multiply(); }); };
        const double products = double(multiply()) * channels_per_word(format);
        work();
        const int times = 1 + int(kSeconds / std::max(seconds(work), 1e-8));
        std::vector<double> rates, peaks, shares;
        for (int repetition = 0; repetition < repetitions_; ++repetition) {
            const double before = product ? peak_seconds() : 0;
            const double taken = seconds([&] { for (int i = 0; i < times; ++i) work(); });
            rates.push_back(1e-9 * count * times / taken);
            peaks.push_back(product ? 2e-9 * products / (before + peak_seconds()) : 0);
            shares.push_back(product ? rates.back() / peaks.back() : 0);
        }
        speeds.push_back({kernel, kFormats[int(format)], shape, unit, median(rates), median(peaks), median(shares)});
    }

    const Kernels& kernels_;
    const int repetitions_;
};

}  // namespace

std::vector<Speed> benchmark_kernels(const std::string& isa, int repetitions) {
    const Kernels* kernels = kernels_named(isa);
    if (!kernels) throw std::runtime_error("this machine or build has no kernels for \"" + isa + "\"");
    if (repetitions < 1) throw std::runtime_error("at least one repetition is needed");
    Benchmark benchmark(*kernels, repetitions);
    for (const Format format : {Format::f32, Format::bf16, Format::u8}) {
        for (const int rows : {60, 120, 180}) benchmark.product(format, 60, rows, 1);
        benchmark.product(format, 120, 60, 1);
        for (const int rows : {3, 12, 48, 60}) benchmark.product(format, 60, rows, 3);
        benchmark.product(format, 50, 50, 3);
        benchmark.product(format, 64, 64, 3);
        benchmark.attention(format, 6, 10, 8);
        benchmark.attention(format, 4, 12, 16);
    }
    for (const int rows : {60, 120, 180}) benchmark.binary(60, rows, 1);
    benchmark.binary(120, 60, 1);
    benchmark.binary(60, 60, 3);
    benchmark.binary(64, 64, 3);
    benchmark.elementwise();
    return std::move(benchmark.speeds);
}

}  // namespace bitsr
