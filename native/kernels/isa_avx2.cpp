#include <immintrin.h>

#include "kernels.hpp"

#define BITSR_NAME "avx2"
#define BITSR_LANES 8
// A block: so many vectors of pixels, times so many rows of weights.
#define BITSR_VECTORS 2
#define BITSR_ROWS_F32 6
#define BITSR_ROWS_BF16 4
#define BITSR_ROWS_U8 4

namespace bitsr::avx2 {
#include "table.hpp"
}
