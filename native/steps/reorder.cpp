// Pixels by their class (bitsr.program.scan): a row of a table for each, and pixels sorted by class.
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

constexpr int kMostClasses = 1 << 16;

// `number` cut to 0..count - 1; 0 for what is no number.
int whole(float number, int count) {
    return number > 0 ? number < float(count - 1) ? int(number) : count - 1 : 0;
}

struct Lookup : Step {
    Value x, y;
    int rows;
    Numbers numbers;  // channels x rows

    void run(const Tile& tile) const override {
        const float* classes = tile.at(x).floats(0);
        const Planes to = tile.at(y);
        for (int i = 0; i < tile.width; ++i) tile.temporary[i] = Word(whole(classes[i], rows));
        for (int c = 0; c < y.channels; ++c) {
            const float* column = numbers.data() + std::size_t(c) * rows;
            float* output = to.floats(c);
            for (int i = 0; i < tile.width; ++i) output[i] = column[tile.temporary[i]];
        }
    }
};

// Writes to place k the number of the k-th pixel in the order of the classes; with `back`, to each pixel its place.
// One tile does it all, by counting.
struct SortPixels : Step {
    Value classes, y;
    int count;
    bool back;

    void run(const Tile& tile) const override {
        Word* next = tile.temporary;  // the place of the next pixel of each class
        std::fill_n(next, count, 0);
        for_pixels(tile, [&](int, int here) { ++next[here]; });
        Word place = 0;
        for (int i = 0; i < count; ++i) {
            const Word many = next[i];
            next[i] = place;
            place += many;
        }
        for_pixels(tile, [&](int pixel, int here) {
            const int to = int(next[here]++);
            if (back)
                at(tile, pixel) = Word(to);
            else
                at(tile, to) = Word(pixel);
        });
    }

    Word& at(const Tile& tile, int pixel) const { return *tile.pixel(y, pixel / y.width, pixel % y.width).data; }

    // Calls body(number of the pixel, its class).
    template <class Body>
    void for_pixels(const Tile& tile, const Body& body) const {
        for (int row = 0; row < classes.height; ++row) {
            const float* numbers = tile.pixel(classes, row, 0).floats(0);
            for (int i = 0; i < classes.width; ++i) body(row * classes.width + i, whole(numbers[i], count));
        }
    }
};

struct GatherPixels : Step {
    Value x, order, y;

    void run(const Tile& tile) const override {
        const Word* numbers = tile.at(order).data;
        const Word last = Word(x.height) * Word(x.width) - 1;
        std::ptrdiff_t offsets[kTile];
        for (int i = 0; i < tile.pixels; ++i) {
            const Word pixel = std::min(numbers[i], last), width = Word(x.width);
            offsets[i] = std::ptrdiff_t{pixel / width} * x.row + pixel % width;
        }
        const Planes from = tile.pixel(x, 0, 0), to = tile.at(y);
        for (int p = 0; p < x.planes; ++p) {
            const Word* words = from.words(p);
            Word* output = to.words(p);
            for (int i = 0; i < tile.pixels; ++i) output[i] = words[offsets[i]];
        }
    }
};

void check_floats(const Checks& checks, const Value& x, const Value& y) {
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
}

bool one_channel_of(const Value& v, int height, int width) {
    return v.channels == 1 && v.height == height && v.width == width;
}

}  // namespace

StepPointer make_lookup(Group& group, const Value& x, const Value& y, const Table& table) {
    Checks checks(group);
    check_floats(checks, x, y);
    require(x.channels == 1, "the numbers of rows are one channel");
    require(table.rows >= 1 && table.rows <= kMostClasses, "the table must have 1..65536 rows");
    require(table.channels == y.channels, "the table is for another number of channels");
    const std::size_t count = std::size_t(table.rows) * table.channels;
    require_finite(table.numbers, count, "the table must be finite");
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<Lookup>();
    step->x = x;
    step->y = y;
    step->rows = table.rows;
    step->numbers.resize(count);
    for (int row = 0; row < table.rows; ++row)
        for (int c = 0; c < table.channels; ++c)
            step->numbers[std::size_t(c) * table.rows + row] = table.numbers[std::size_t(row) * table.channels + c];
    step->temporary_words = group.tile_width();
    return step;
}

StepPointer make_sort_pixels(Group& group, const Value& classes, const Value& y, int count, bool back) {
    Checks checks(group);
    checks.domain(Domain::channels);
    check_floats(checks, classes, y);
    require(group.width == 1, "sorting is one tile");
    require(count >= 1 && count <= kMostClasses, "there must be 1..65536 classes");
    require(classes.channels == 1, "classes are one channel");
    require(one_channel_of(y, classes.height, classes.width), "the order must be a channel of the classes' size");
    checks.reads_elsewhere(classes);
    checks.writes_elsewhere(y);
    auto step = std::make_unique<SortPixels>();
    step->classes = classes;
    step->y = y;
    step->count = count;
    step->back = back;
    step->temporary_words = count;
    return step;
}

StepPointer make_gather_pixels(Group& group, const Value& x, const Value& order, const Value& y) {
    Checks checks(group);
    checks.domain(Domain::rows);
    check_floats(checks, x, y);
    checks.format(order, Format::f32);
    checks.disjoint(order, y);
    checks.same_channels(x, y);
    require(x.height == group.height && x.width == group.width, "the map is not of the size of the group");
    require(order.channels == 1, "the order is one channel");
    checks.reads_elsewhere(x);
    checks.reads(order);
    checks.writes(y);
    auto step = std::make_unique<GatherPixels>();
    step->x = x;
    step->order = order;
    step->y = y;
    return step;
}

}  // namespace bitsr
