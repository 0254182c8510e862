#include "check.hpp"

namespace bitsr {

void test_binary(const Kernels& k) {
    const int channels = whole(1, 100), planes = planes_of(channels, Format::bits), width = up16(whole(1, 140));
    Map x(channels, width), bits(planes, width);
    x.fill(1);
    std::vector<float> thresholds;
    for (int c = 0; c < channels; ++c) thresholds.push_back(whole(0, 3) ? normal(1) : x.at(c, whole(0, width - 1)));
    std::vector<float> below;
    for (const float threshold : thresholds) below.push_back(whole(0, 3) ? threshold - 1 : -3e38f);
    for (const float* lower : {static_cast<const float*>(nullptr), static_cast<const float*>(below.data())}) {
        k.signs(x.planes(), bits.planes(), channels, width, thresholds.data(), lower);
        bool right = true;
        for (int c = 0; c < planes * 32; ++c)
            for (int i = 0; i < width; ++i) {
                const bool set = bits.word(c / 32, i) >> c % 32 & 1;
                right &= set == (c < channels && (x.at(c, i) >= thresholds[c] || (lower && x.at(c, i) <= lower[c])));
            }
        expect(right, k, "signs");
    }

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
    Map added(rows, width);
    for (int row = 0; row < rows; ++row)
        for (int i = 0; i < width; ++i) added.planes().floats(row)[i] = float(whole(-50, 50));
    const bool adds = whole(0, 1), in_place = whole(0, 1);
    if (in_place) y = added;
    const Planes nothing{nullptr, 0}, summand = in_place ? y.planes() : added.planes();
    bool right = true;
    k.binary({weights.data(), rows, terms, offsets.data(), bits.words.data(), width, y.planes(), start.data(),
              adds ? summand : nothing});
    for (int row = 0; row < rows; ++row)
        for (int i = 0; i < width; ++i) {
            float sum = start[row];
            for (int term = 0; term < terms; ++term) {
                const Word* w = &weights[(row * terms + term) * 3];
                float scale;
                std::memcpy(&scale, w + 2, sizeof scale);
                sum += scale * float(__builtin_popcount((bits.words[offsets[term] + i] ^ w[0]) & w[1]));
            }
            right &= y.at(row, i) == sum + (adds ? added.at(row, i) : 0.0f);
        }
    expect(right, k, "product of signs");
}

}  // namespace bitsr
