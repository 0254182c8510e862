// Linear layers and convolutions (bitsr.program.layers).
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/convolution.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

// Tap t of plane p of a tile's input begins at data + offsets[t] + p * pitch.
struct Taps {
    const Word* data;
    std::ptrdiff_t pitch;
    const std::ptrdiff_t* offsets;
};

// y = scale * acc + mid * sums + bias + added; `temporary` holds the sums of codes of one group of channels.
void multiply(const Tile& tile, const Matrix& matrix, const Taps& taps, const Planes& added, const Planes& y) {
    const PackedRows &weights = matrix.weights, &sums = matrix.sums;
    for (int g = 0; g < weights.groups; ++g) {
        Gemm gemm{};
        gemm.format = matrix.format;
        gemm.taps = weights.taps;
        gemm.planes = weights.planes;
        gemm.offsets = taps.offsets;
        gemm.input = taps.data + weights.first[g] * taps.pitch;
        gemm.pitch = taps.pitch;
        gemm.width = tile.width;
        gemm.rows_per_group = 1;
        if (sums.rows) {
            gemm.weights = sums.group(g);
            gemm.rows = sums.rows_per_group();
            gemm.output = {tile.temporary, tile.width};
            tile.kernels.gemm(gemm);
        }
        const int row = g * weights.rows_per_group();
        const auto of_group = [row](const std::vector<float>& v) { return v.empty() ? nullptr : v.data() + row; };
        gemm.weights = weights.group(g);
        gemm.rows = weights.rows_per_group();
        gemm.output = {y.words(row), y.pitch};
        if (added.data) gemm.added = {added.words(row), added.pitch};
        gemm.scale = of_group(matrix.scale);
        gemm.bias = of_group(matrix.bias);
        if (sums.rows) {
            gemm.mid = of_group(matrix.mid);
            gemm.sums = reinterpret_cast<const std::int32_t*>(tile.temporary);
            gemm.rows_per_group = weights.rows / sums.rows;
        }
        tile.kernels.gemm(gemm);
    }
}

std::size_t sums_words(const Matrix& matrix, int width) {
    return matrix.sums.rows ? std::size_t(matrix.sums.rows_per_group()) * width : 0;
}

// The taps of neighbouring outputs are neighbours in the input: they are read where they lie.
struct Product : Step {
    Value x, y;
    std::optional<Value> added;
    std::shared_ptr<const Matrix> matrix;
    std::vector<std::ptrdiff_t> offsets;

    void run(const Tile& tile) const override {
        const Planes pixels = tile.at(x);
        multiply(tile, *matrix, {pixels.data, pixels.pitch, offsets.data()}, tile.at(added), tile.at(y));
    }
};

// With a stride the inputs of each tap are collected first: [tap][plane][pixel].
struct StridedProduct : Step {
    Value x, y;
    std::shared_ptr<const Matrix> matrix;
    Convolution convolution;
    std::size_t collected;  // place in `temporary`
    std::ptrdiff_t pitch;
    std::vector<std::ptrdiff_t> offsets;

    void run(const Tile& tile) const override {
        collect_taps(tile, x, convolution, tile.temporary + collected, pitch);
        multiply(tile, *matrix, {tile.temporary + collected, pitch, offsets.data()}, {nullptr, 0}, tile.at(y));
    }
};

void check(const Checks& checks, const Value& x, const Value& y, const Matrix& matrix) {
    checks.format(x, matrix.format);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    require(x.channels == matrix.weights.channels, "the weights are for another number of input channels");
    require(y.channels == matrix.weights.rows, "the weights are for another number of output channels");
}

template <class Made>
std::unique_ptr<Made> make(const Group& group, const Value& x, const Value& y, std::shared_ptr<const Matrix> matrix) {
    auto step = std::make_unique<Made>();
    step->x = x;
    step->y = y;
    step->temporary_words = sums_words(*matrix, group.tile_width());
    step->matrix = std::move(matrix);
    return step;
}

struct Sparse : Step {
    Value x, y;
    SparseRows rows;

    void run(const Tile& t) const override {
        t.kernels.sparse(t.at(x), t.at(y), y.channels, t.width, rows.starts.data(), rows.columns.data(),
                         rows.values.data());
    }
};

}  // namespace

StepPointer make_sparse(Group& group, const Value& x, const Value& y, SparseRows rows) {
    Checks checks(group);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    const auto& [starts, columns, values] = rows;
    require(starts.size() == std::size_t(y.channels) + 1 && starts.front() == 0 &&
                std::is_sorted(starts.begin(), starts.end()) && std::size_t(starts.back()) == columns.size(),
            "rows must start one after the other, from 0 to the number of entries");
    require(values.size() == columns.size(), "each entry has one column and one value");
    for (const std::int32_t column : columns) require(column >= 0 && column < x.channels, "there is no such column");
    require_finite(values.data(), values.size(), "values must be finite");
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<Sparse>();
    step->x = x;
    step->y = y;
    step->rows = std::move(rows);
    return step;
}

StepPointer make_gemm(Group& group, const Value& x, const std::optional<Value>& added, const Value& y,
                      std::shared_ptr<const Matrix> matrix) {
    Checks checks(group);
    check(checks, x, y, *matrix);
    require(matrix->weights.taps == 1, "a 1x1 product takes weights of one tap");
    checks.added(added, y);
    checks.reads(x);
    checks.writes(y);
    auto step = make<Product>(group, x, y, std::move(matrix));
    step->added = added;
    step->offsets = {0};
    return step;
}

StepPointer make_conv2d(Group& group, const Value& x, const Value& y, std::shared_ptr<const Matrix> matrix,
                        Convolution c) {
    Checks checks(group);
    checks.domain(Domain::rows);
    check(checks, x, y, *matrix);
    check_convolution(group, x, c, matrix->weights.taps);
    checks.reads_elsewhere(x);
    checks.writes(y);

    if (c.stride == 1) {
        auto step = make<Product>(group, x, y, std::move(matrix));
        for (int i = -c.padding; i < c.kernel_height - c.padding; ++i)
            for (int j = -c.padding; j < c.kernel_width - c.padding; ++j) step->offsets.push_back(i * x.row + j);
        return step;
    }
    auto step = make<StridedProduct>(group, x, y, std::move(matrix));
    step->convolution = c;
    step->collected = step->temporary_words;
    step->pitch = group.tile_width();
    const int taps = c.kernel_height * c.kernel_width;
    for (int tap = 0; tap < taps; ++tap) step->offsets.push_back(std::ptrdiff_t{tap} * x.planes * step->pitch);
    step->temporary_words += std::size_t(taps) * x.planes * step->pitch;
    return step;
}

}  // namespace bitsr
