#include <immintrin.h>

#include "kernels.hpp"

#define BITSR_NAME "avx512bf16"
#define BITSR_LANES 16
// A block: so many vectors of pixels, times so many rows of weights.
#define BITSR_VECTORS 1
#define BITSR_ROWS_F32 24
#define BITSR_ROWS_BF16 24
#define BITSR_ROWS_U8 24

namespace bitsr::avx512bf16 {
#include "table.hpp"
}
