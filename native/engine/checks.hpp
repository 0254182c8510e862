// What must hold of the arguments of a plan before anything runs: a wrong plan is refused, it never reads or writes
// where it must not.
#pragma once

#include <cstddef>
#include <optional>

#include "engine/group.hpp"

namespace bitsr {

// Throws std::invalid_argument.
void require(bool condition, const char* problem);

void require_finite(const float* numbers, std::size_t count, const char* problem);
void require_quantizer(const Quantizer&);

// The checks that most steps need; every function throws std::invalid_argument.
class Checks {
public:
    explicit Checks(Group& group) : group_(group) {}

    void domain(Domain) const;
    void format(const Value&, Format) const;
    void same_channels(const Value&, const Value&) const;

    // A value that the step reads or writes at the tile's own pixels: a local value of the group's tiles, or in a rows
    // group a map of its size.  These and the next four are called once per value and step.
    void reads(const Value&);
    void writes(const Value&);
    // A map of any size that the step reads (writes) wherever it wants; then no other step of the group may write it.
    void reads_elsewhere(const Value&);
    void writes_elsewhere(const Value&);
    // A map of the group's size of which a tile reads or writes its window.
    void touches_window(const Value&, bool writes);

    // What, if anything, is added to y where that is written.
    void added(const std::optional<Value>&, const Value& y);

    // Two values of a step that may not share memory, or only so that every pixel keeps its place.
    static void disjoint(const Value&, const Value&);
    static void same_or_disjoint(const Value&, const Value&);

private:
    void at_tile(const Value&) const;
    void record(const Access&);

    Group& group_;
};

}  // namespace bitsr
