// Checks every kernel of every instruction set that this build and this CPU have against plain loops in double
// precision.  Prints what differs; the exit status is 1 where anything does.

#include "check.hpp"

namespace bitsr::avx512 {
extern const Kernels table;
}

int main(int count, char** arguments) {
    using namespace bitsr;
    const int rounds = count > 1 ? std::atoi(arguments[1]) : 200;
#ifdef __x86_64__
    for (int n = 0; n < rounds && kernels_named("avx512"); ++n) test_binary(avx512::table);  // without VPOPCNTDQ
#endif
    for (const std::string& name : available_isas()) {
        const Kernels& k = *kernels_named(name);
        for (int n = 0; n < rounds; ++n) {
            test_binary(k);
            for (const Format format : {Format::f32, Format::bf16, Format::u8}) test_gemm(k, format);
            for (int i = 0; i < 10; ++i) test_codes(k);
            test_bf16(k);
            test_pointwise(k);
            test_scan(k);
            test_attention(k);
            test_not_a_number(k);
        }
        std::printf("%s: %d failures so far\n", k.name, failures);
    }
    return failures != 0;
}
