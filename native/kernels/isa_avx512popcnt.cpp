// The one kernel of the AVX-512 tables that is faster where the CPU counts bits of 32-bit words (VPOPCNTDQ).
#include <immintrin.h>

#include "kernels.hpp"

#define BITSR_LANES 16

namespace bitsr::avx512popcnt {
#include "simd.hpp"
//
#include "binary.hpp"

extern void (*const product_of_signs)(const Binary&);
void (*const product_of_signs)(const Binary&) = binary;
extern std::int64_t (*const peak_of_signs)(std::int64_t steps);
std::int64_t (*const peak_of_signs)(std::int64_t steps) = binary_products;
}  // namespace bitsr::avx512popcnt
