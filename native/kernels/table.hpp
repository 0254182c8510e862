// The table of one instruction set.  Each isa_*.cpp includes this inside a namespace of its own, so that no function
// compiled for one set can be linked in place of another's; for the same reason nothing here uses the standard library.

// clang-format off: each of these needs those above it
#include "simd.hpp"
#include "dot.hpp"
#include "gemm.hpp"
#include "peak.hpp"
#include "binary.hpp"
#include "convert.hpp"
#include "math.hpp"
#include "pointwise.hpp"
#include "attention.hpp"
#include "scan.hpp"

extern const Kernels table;
const Kernels table = {
    BITSR_NAME, L,
    pack, packed_words, gemm, products,
    binary, signs, binary_products,
    attention_scratch, attention,
    layer_norm, quantize, to_bf16, round_to, activate, add, multiply, affine, moments, argmax, mean_magnitude, sparse,
    scan,
};
// clang-format on
