#include "check.hpp"

namespace bitsr {

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
    const std::vector<float> bias(16);
    const std::vector<std::int32_t> same(64);
    const Quantizer q{-1, 0.01f, 255};
    for (int formats = 0; formats < 12; ++formats) {
        std::vector<Word> scratch(k.attention_scratch(2, 2, 64) + 16);
        Attention a{qkv.planes(), y.planes(), 2, 2, 64, 64, 64, 64, 1, bias.data(), 0, same.data(),
                    same.data(), nullptr, Format(formats % 3), Format(std::min(formats / 3, 2)), &q, &q, &q, &q,
                    formats >= 9, scratch.data()};
        k.attention(a);
    }
}

}  // namespace bitsr
