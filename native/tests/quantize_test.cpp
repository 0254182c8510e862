#include "check.hpp"

namespace bitsr {

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

}  // namespace bitsr
