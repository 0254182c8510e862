#include "check.hpp"

namespace bitsr {

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
    Map added(rows, width);
    added.fill(9);
    const bool adds = !raw && whole(0, 1), in_place = adds && whole(0, 1);
    Map output = in_place ? added : Map(rows, width);
    Gemm g{};
    g.format = format, g.weights = aligned, g.rows = rows, g.taps = taps, g.planes = planes;
    g.offsets = offsets.data(), g.input = input.words.data(), g.pitch = input.pitch, g.width = width;
    g.output = output.planes();
    g.scale = raw || (format != Format::u8 && whole(0, 1)) ? nullptr : scale.data();
    g.bias = raw || whole(0, 1) ? nullptr : bias.data();
    g.mid = with_mid ? mid.data() : nullptr;
    g.sums = with_mid ? sums.data() : nullptr;
    g.rows_per_group = group;
    if (adds) g.added = in_place ? output.planes() : added.planes();
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
            if (adds) y += added.at(n, x);
            if (!raw) worst.see(output.at(n, x), y);
        }
    expect(exact && worst.within(1e-5), k, "gemm" + worst.text());
}

}  // namespace bitsr
