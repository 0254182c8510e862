#include <arm_neon.h>

#include "kernels.hpp"

#define BITSR_NAME "neon"
#define BITSR_NEON
#define BITSR_LANES 4
// A block: so many vectors of pixels, times so many rows of weights.
#define BITSR_VECTORS 2
#define BITSR_ROWS_F32 8
#define BITSR_ROWS_BF16 6
#define BITSR_ROWS_U8 6

namespace bitsr::neon {
#include "table.hpp"
}
