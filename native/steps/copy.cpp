// Concat, Slice and Crop of bitsr.program.maps: channels move as planes; pixels stay where they are.
#include <cstring>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct Copy : Step {
    Value x, y;
    int start, to, count;
    void run(const Tile& tile) const override {
        const Planes from = tile.at(x), into = tile.at(y);
        for (int c = 0; c < count; ++c)
            std::memcpy(into.words(to + c), from.words(start + c), tile.pixels * sizeof(Word));
    }
};

}  // namespace

StepPointer make_copy(Group& group, const Value& x, const Value& y, int start, int to, int count) {
    Checks checks(group);
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.disjoint(x, y);
    require(count >= 1 && start >= 0 && start <= x.channels - count, "there are no such channels to copy");
    require(to >= 0 && to <= y.channels - count, "there are no such channels to copy to");
    const bool larger = x.is_map() && group.domain == Domain::rows && x.height >= group.height &&
                        x.width >= group.width && (x.height > group.height || x.width > group.width);
    if (larger)
        checks.reads_elsewhere(x);  // its rows do not end where the tiles do
    else
        checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<Copy>();
    step->x = x;
    step->y = y;
    step->start = start;
    step->to = to;
    step->count = count;
    return step;
}

}  // namespace bitsr
