#pragma once
// What the tests of kernels share: random numbers, maps, the worst error, quantizers in plain loops.

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

namespace bitsr {

inline std::mt19937 generator(7);
inline int failures = 0;

inline int whole(int low, int high) { return std::uniform_int_distribution<int>(low, high)(generator); }
inline float real(float low, float high) { return std::uniform_real_distribution<float>(low, high)(generator); }
inline float normal(float sigma) { return std::normal_distribution<float>(0, sigma)(generator); }
inline int up16(int n) { return (n + 15) / 16 * 16; }

inline void expect(bool right, const Kernels& k, const std::string& what) {
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

inline Quantizer quantizer(float low, float high, int levels = 255) { return {low, (high - low) / levels, levels}; }

inline int code_of(float x, const Quantizer& q) {
    const volatile float difference = x - q.lower;
    const float quotient = difference / q.step;
    return static_cast<int>(std::nearbyint(std::min(std::max(quotient, 0.0f), static_cast<float>(q.levels))));
}

inline float level_of(float x, const std::optional<Quantizer>& q) {
    if (!q) return x;
    const volatile float product = static_cast<float>(code_of(x, *q)) * q->step;
    return product + q->lower;
}

inline float bf16(Word half) {
    const Word bits = half << 16;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// One round each, with random shapes and numbers.
void test_gemm(const Kernels& k, Format format);
void test_codes(const Kernels& k);
void test_bf16(const Kernels& k);
void test_pointwise(const Kernels& k);
void test_scan(const Kernels& k);
void test_attention(const Kernels& k);
void test_not_a_number(const Kernels& k);
void test_binary(const Kernels& k);

}  // namespace bitsr
