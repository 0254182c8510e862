// The bias of scores in windows: a number for each distance of a query from a key.
#pragma once

#include <vector>

#include "engine/memory.hpp"
#include "engine/value.hpp"

namespace bitsr {

// Of heads x distances in y x distances in x, from the most negative on.  The kernel adds the bias to vectors of `lanes`
// queries: where rows of a window are whole vectors, a piece of a row of distances is one, and the table stays as it is;
// elsewhere vectors are written out, each of them once where a vector is whole rows, so that those of a head stay in L1.
class RelativeBias {
  public:
    // The keys' windows are wider by `margin` on each side.
    RelativeBias(const float* table, int heads, int window, int margin, int lanes);
    void give(Attention&) const;

  private:
    Memory numbers_;  // floats, times log2(e)
    std::ptrdiff_t pitch_;        // from head to head
    std::vector<std::int32_t> query_, key_;
};

}  // namespace bitsr
