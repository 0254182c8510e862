// Signs of a map, and linear layers and convolutions of signs (bitsr.program.binary).
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/convolution.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct Signs : Step {
    Value x, y;
    Numbers thresholds, below;
    void run(const Tile& t) const override {
        t.kernels.signs(t.at(x), t.at(y), x.channels, t.width, thresholds.data(), below.empty() ? nullptr : below.data());
    }
};

struct BinaryProduct : Step {
    Value x, y;
    std::optional<Value> added;
    std::shared_ptr<const SignMatrix> matrix;
    std::vector<std::ptrdiff_t> offsets;  // of each term

    void multiply(const Tile& tile, const Word* input) const {
        tile.kernels.binary({matrix->words.data(), matrix->rows, int(matrix->terms.size()), offsets.data(), input,
                             tile.width, tile.at(y), matrix->start.data(), tile.at(added)});
    }
    void run(const Tile& tile) const override { multiply(tile, tile.at(x).data); }
};

// Beyond the border the map has words of 0, which read as signs of -1; what those products are short of 0 is added.
struct BinaryConvolution : BinaryProduct {
    Convolution convolution;
    std::ptrdiff_t pitch;  // of collected taps

    void run(const Tile& tile) const override {
        if (convolution.stride == 1) {
            multiply(tile, tile.at(x).data);
        } else {
            collect_taps(tile, x, convolution, tile.temporary, pitch);
            multiply(tile, tile.temporary);
        }
        for (int i = 0; i < convolution.kernel_height; ++i) {
            const int at = tile.y * convolution.stride - convolution.padding + i;
            for (int j = 0; j < convolution.kernel_width; ++j) {
                const int tap = i * convolution.kernel_width + j, left = convolution.padding - j;
                // pixels of the tile from `first` up to `stop` meet the map
                int first = tile.pixels, stop = tile.pixels;
                if (at >= 0 && at < x.height) {
                    first = std::clamp(quotient_above(left) - tile.x, 0, tile.pixels);
                    stop = std::clamp(quotient_above(left + x.width) - tile.x, first, tile.pixels);
                }
                complete(tile, tap, 0, first);
                complete(tile, tap, stop, tile.pixels);
            }
        }
    }

private:
    // n / stride, rounded up; not below 0.
    int quotient_above(int n) const { return n <= 0 ? 0 : (n + convolution.stride - 1) / convolution.stride; }

    void complete(const Tile& tile, int tap, int from, int to) const {
        const Planes out = tile.at(y);
        for (int row = 0; from < to && row < matrix->rows; ++row) {
            const float missing = matrix->beyond[std::size_t(row) * matrix->taps + tap];
            for (int pixel = from; pixel < to; ++pixel) out.floats(row)[pixel] += missing;
        }
    }
};

void check(const Checks& checks, const Value& x, const Value& y, const SignMatrix& matrix) {
    checks.format(x, Format::bits);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    require(x.channels == matrix.channels, "the weights are for another number of input channels");
    require(y.channels == matrix.rows, "the weights are for another number of output channels");
}

}  // namespace

StepPointer make_signs(Group& group, const Value& x, const Value& y, Numbers thresholds, Numbers below) {
    Checks checks(group);
    checks.format(x, Format::f32);
    checks.format(y, Format::bits);
    checks.same_channels(x, y);
    checks.disjoint(x, y);
    check_numbers(thresholds, x.channels);
    if (!below.empty()) check_numbers(below, x.channels);
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<Signs>();
    step->x = x;
    step->y = y;
    step->thresholds = std::move(thresholds);
    step->below = std::move(below);
    return step;
}

StepPointer make_binary(Group& group, const Value& x, const std::optional<Value>& added, const Value& y,
                        std::shared_ptr<const SignMatrix> matrix) {
    Checks checks(group);
    check(checks, x, y, *matrix);
    checks.added(added, y);
    require(matrix->taps == 1, "a 1x1 product takes weights of one tap");
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<BinaryProduct>();
    step->x = x;
    step->y = y;
    step->added = added;
    for (const SignMatrix::Term& term : matrix->terms) step->offsets.push_back(term.plane * x.pitch);
    step->matrix = std::move(matrix);
    return step;
}

StepPointer make_binary_conv2d(Group& group, const Value& x, const Value& y, std::shared_ptr<const SignMatrix> matrix,
                               Convolution c) {
    Checks checks(group);
    checks.domain(Domain::rows);
    check(checks, x, y, *matrix);
    check_convolution(group, x, c, matrix->taps);
    require(x.fill == 0, "beyond the border of a map of signs there must be 0");
    checks.reads_elsewhere(x);
    checks.writes(y);
    auto step = std::make_unique<BinaryConvolution>();
    step->x = x;
    step->y = y;
    step->convolution = c;
    step->pitch = group.tile_width();
    for (const SignMatrix::Term& term : matrix->terms) {
        const int i = term.tap / c.kernel_width - c.padding, j = term.tap % c.kernel_width - c.padding;
        step->offsets.push_back(c.stride == 1 ? i * x.row + j + term.plane * x.pitch
                                              : (std::ptrdiff_t{term.tap} * x.planes + term.plane) * step->pitch);
    }
    if (c.stride > 1) step->temporary_words = std::size_t(matrix->taps) * x.planes * step->pitch;
    step->matrix = std::move(matrix);
    return step;
}

}  // namespace bitsr
