#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "kernels.hpp"

#define BITSR_NAME "portable"
#define BITSR_LANES 4
// A block: so many vectors of pixels, times so many rows of weights.
#define BITSR_VECTORS 2
#define BITSR_ROWS_F32 4
#define BITSR_ROWS_BF16 4
#define BITSR_ROWS_U8 4

namespace bitsr::portable {
#include "table.hpp"
}
