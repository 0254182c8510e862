#include "engine/checks.hpp"

#include <cmath>
#include <stdexcept>

namespace bitsr {

namespace {

// The same memory for the same pixels, if not for the same planes.
bool same_frame(const Value& a, const Value& b) {
    return a.begin == b.begin && a.row == b.row && a.pitch == b.pitch && a.format == b.format &&
           a.height == b.height && a.width == b.width && a.border == b.border;
}

bool overlap(const Value& a, const Value& b) {
    if (a.space != b.space) return false;
    if (same_frame(a, b)) return a.first < b.first + b.planes && b.first < a.first + a.planes;
    return a.begin < b.begin + b.words && b.begin < a.begin + a.words;
}

bool same_place(const Value& a, const Value& b) { return same_frame(a, b) && a.first == b.first; }

}  // namespace

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

void require_finite(const float* numbers, std::size_t count, const char* problem) {
    for (std::size_t i = 0; i < count; ++i) require(std::isfinite(numbers[i]), problem);
}

void require_quantizer(const Quantizer& q) {
    require(std::isfinite(q.lower) && std::isfinite(q.step) && q.step > 0, "a quantizer needs finite numbers, step > 0");
    require(q.levels >= 1 && q.levels <= 255, "a quantizer has levels 1..255");
}

void Checks::domain(Domain domain) const {
    require(group_.domain == domain, "the step does not belong into this kind of group");
}

void Checks::format(const Value& v, Format format) const {
    require(v.format == format, "a value is not of the format that the step takes");
}

void Checks::same_channels(const Value& a, const Value& b) const {
    require(a.channels == b.channels, "the numbers of channels differ");
}

void Checks::at_tile(const Value& v) const {
    if (v.is_map()) {
        require(group_.domain == Domain::rows, "this step touches maps in rows groups only");
        require(v.height == group_.height && v.width == group_.width, "a map is not of the size of the group");
    } else {
        require(v.width == group_.tile_width(), "a local value is not of the width of the group's tiles");
    }
}

void Checks::reads(const Value& v) {
    at_tile(v);
    record({v, false, false});
}

void Checks::writes(const Value& v) {
    at_tile(v);
    record({v, true, false});
}

void Checks::reads_elsewhere(const Value& v) {
    require(v.is_map(), "the step reads its neighbours: that takes a map");
    record({v, false, true});
}

void Checks::writes_elsewhere(const Value& v) {
    require(v.is_map(), "the step writes a map");
    record({v, true, true});
}

void Checks::touches_window(const Value& v, bool writes) {
    domain(Domain::windows);
    require(v.is_map(), "gather reads and scatter writes a map");
    require(v.height == group_.height && v.width == group_.width, "a map is not of the size of the group");
    record({v, writes, false});
}

// Tiles are worked on in any order and at the same time: what one writes, another must not touch.
void Checks::record(const Access& now) {
    if (!now.value.is_map()) return;
    for (const Access& before : group_.accesses) {
        if (!(now.writes || before.writes) || !overlap(now.value, before.value)) continue;
        const bool own_pixels = !now.elsewhere && !before.elsewhere && same_frame(now.value, before.value);
        require(own_pixels, "a map that one tile writes is used by others: the steps need groups of their own");
    }
    group_.accesses.push_back(now);
}

void Checks::added(const std::optional<Value>& added, const Value& y) {
    if (!added) return;
    format(*added, Format::f32);
    same_channels(*added, y);
    same_or_disjoint(*added, y);
    reads(*added);
}

void Checks::disjoint(const Value& a, const Value& b) {
    require(!overlap(a, b), "this step cannot work in place");
}

void Checks::same_or_disjoint(const Value& a, const Value& b) {
    require(same_place(a, b) || !overlap(a, b), "values of a step overlap");
}

}  // namespace bitsr
