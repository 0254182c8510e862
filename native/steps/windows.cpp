// Maps to tiles of one window and back; the reference rolls and partitions whole maps instead
// (bitsr.program.attention).  Window (wy, wx) of the map rolled by -shift holds the pixels
// ((wy window + ty + shift) mod H, (wx window + tx + shift) mod W), so that rows of tokens are runs of words, in two
// pieces where they wrap.
#include <cstring>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

// Calls body(row, column, first token, tokens) for each run of pixels of a window.
template <class Body>
void for_runs(const Group& group, const Tile& tile, const Body& body) {
    const int n = group.window;
    const int column = (tile.x * n + group.shift) % group.width;
    const int before_wrap = std::min(n, group.width - column);
    for (int i = 0; i < n; ++i) {
        const int row = (tile.y * n + i + group.shift) % group.height;
        body(row, column, i * n, before_wrap);
        if (before_wrap < n) body(row, 0, i * n + before_wrap, n - before_wrap);
    }
}

template <int count>
void copy_runs(const Planes& from, const Planes& to, int planes) {
    const Word* x = from.data;
    Word* y = to.data;
    constexpr int ahead = 12;  // planes
    for (int p = 0; p < planes; ++p, x += from.pitch, y += to.pitch) {
        if (count == 16) {  // each run is a cache line of its own, which no prefetcher of the CPU expects
            __builtin_prefetch(x + ahead * from.pitch);
            __builtin_prefetch(y + ahead * to.pitch, 1);
        }
        std::memcpy(y, x, count * sizeof(Word));
    }
}

void copy_planes(const Planes& from, const Planes& to, int planes, int count) {
    switch (count) {  // the windows of most networks and half of them: copies of a constant size
        case 4: return copy_runs<4>(from, to, planes);
        case 8: return copy_runs<8>(from, to, planes);
        case 16: return copy_runs<16>(from, to, planes);
    }
    for (int p = 0; p < planes; ++p) std::memcpy(to.words(p), from.words(p), count * sizeof(Word));
}

// Of a group only what for_runs needs: the group itself is still being built.
struct WindowStep : Step {
    Value map, local;
    Group group;
};

struct Gather : WindowStep {
    void run(const Tile& tile) const override {
        const Planes y = tile.at(local);
        for_runs(group, tile, [&](int row, int column, int token, int count) {
            copy_planes(tile.pixel(map, row, column), {y.data + token, y.pitch}, map.planes, count);
        });
    }
};

struct Scatter : WindowStep {
    void run(const Tile& tile) const override {
        const Planes x = tile.at(local);
        for_runs(group, tile, [&](int row, int column, int token, int count) {
            copy_planes({x.data + token, x.pitch}, tile.pixel(map, row, column), map.planes, count);
        });
    }
};

template <class Made>
StepPointer make(Group& group, const Value& map, const Value& local, bool to_map) {
    Checks checks(group);
    checks.domain(Domain::windows);
    checks.touches_window(map, to_map);
    if (to_map)
        checks.reads(local);
    else
        checks.writes(local);
    checks.format(local, map.format);
    checks.same_channels(local, map);
    auto step = std::make_unique<Made>();
    step->map = map;
    step->local = local;
    step->group = Group::of_windows(group.height, group.width, group.window, group.shift);
    return step;
}

}  // namespace

StepPointer make_gather(Group& group, const Value& x, const Value& y) { return make<Gather>(group, x, y, false); }

StepPointer make_scatter(Group& group, const Value& x, const Value& y) { return make<Scatter>(group, y, x, true); }

}  // namespace bitsr
