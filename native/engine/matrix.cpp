#include "engine/matrix.hpp"

#include <algorithm>
#include <cstring>

#include "engine/checks.hpp"

namespace bitsr {

namespace {

constexpr int kMost = 1 << 16;
constexpr int kMostProducts = 65536;  // 65536 * 255 * 128 < 2^31
constexpr std::int64_t kMostWords = 1 << 28;  // of a matrix

// The upper half of a float, rounded half to even.
Word to_bf16(float x) {
    Word bits;
    std::memcpy(&bits, &x, sizeof bits);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// Weight i of the caller's array as the bits that it has within a word.
Word bits_of(const Weights& w, std::size_t i) {
    if (w.format == Format::u8) return static_cast<std::uint8_t>(w.codes[i]);
    if (w.format == Format::bf16) return to_bf16(w.numbers[i]);
    Word bits;
    std::memcpy(&bits, &w.numbers[i], sizeof bits);
    return bits;
}

std::vector<float> numbers(const float* given, int rows) {
    if (!given) return {};
    require_finite(given, rows, "scale, bias and mid must be finite");
    return {given, given + rows};
}

}  // namespace

PackedRows::PackedRows(const Weights& w, int groups)
    : rows(w.rows), taps(w.taps), channels(w.channels * groups), groups(groups) {
    const int pack = channels_per_word(w.format), all = planes_of(channels, w.format);
    for (int g = 0; g < groups; ++g)
        planes = std::max(planes, planes_of((g + 1) * w.channels, w.format) - g * w.channels / pack);
    for (int g = 0; g < groups; ++g) first.push_back(std::min(g * w.channels / pack, all - planes));

    const int count = rows_per_group(), words = taps * planes;
    const Kernels& use = kernels();
    group_words_ = round_up_16(std::int64_t(use.packed_words(w.format, count, words)));
    packed_ = Memory(group_words_ * groups);
    std::vector<Word> plain(std::size_t(count) * words);
    for (int g = 0; g < groups; ++g) {
        std::fill(plain.begin(), plain.end(), 0);
        const int skip = g * w.channels - first[g] * pack;  // channels of others before those of the group
        std::size_t i = std::size_t(g) * count * taps * w.channels;
        for (int row_tap = 0; row_tap < count * taps; ++row_tap)
            for (int c = skip; c < skip + w.channels; ++c, ++i)
                plain[std::size_t(row_tap) * planes + c / pack] |= bits_of(w, i) << (c % pack * (32 / pack));
        use.pack(w.format, plain.data(), count, words, packed_.data() + g * group_words_);
    }
}

Matrix::Matrix(const Weights& w, int groups, const float* scale, const float* bias, const float* mid,
               const std::int8_t* sums, int sum_rows)
    : format(w.format) {
    require(w.rows >= 1 && w.rows <= kMost && w.taps >= 1 && w.taps <= kMost && w.channels >= 1 && w.channels <= kMost,
            "weights must be 1..65536 rows x taps x channels");
    require(format != Format::bits, "signs have a matrix of their own");
    require(groups >= 1 && w.rows % groups == 0, "the rows must split into the groups");
    require(groups * std::int64_t{w.channels} <= kMost, "there are more than 65536 channels");
    require((w.rows + std::int64_t{sum_rows}) * w.taps * (w.channels + 8) <= kMostWords, "the weights are too large");
    require(format != Format::u8 || std::int64_t{w.taps} * w.channels <= kMostProducts, "sums could exceed 32 bits");
    require(format != Format::u8 || scale, "8-bit weights need a scale");
    require(!mid == !sums, "mid and sums belong together");
    require(!mid || format == Format::u8, "mid belongs to 8-bit weights");
    if (w.numbers) require_finite(w.numbers, std::size_t(w.rows) * w.taps * w.channels, "weights must be finite");
    weights = PackedRows(w, groups);
    this->scale = numbers(scale, w.rows);
    this->bias = numbers(bias, w.rows);
    this->mid = numbers(mid, w.rows);
    if (sums) {
        require(sum_rows >= 1 && w.rows % sum_rows == 0 && sum_rows % groups == 0,
                "the rows must split into those of sums, and these into the groups");
        const std::size_t count = std::size_t(sum_rows) * w.taps * w.channels;
        require(std::all_of(sums, sums + count, [](std::int8_t x) { return x == 0 || x == 1; }), "sums must be 0 or 1");
        this->sums = PackedRows({Format::u8, sum_rows, w.taps, w.channels, sums, nullptr}, groups);
    }
}

}  // namespace bitsr
