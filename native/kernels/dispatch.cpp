#include <cstdlib>
#include <stdexcept>

#include "kernels.hpp"

namespace bitsr {

// Defined in isa_*.cpp; the build sets BITSR_HAVE_* for those that it compiles.
namespace avx512bf16 {
extern const Kernels table;
}
namespace avx512 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
namespace neon {
extern const Kernels table;
}
namespace avx512popcnt {
extern void (*const product_of_signs)(const Binary&);
extern std::int64_t (*const peak_of_signs)(std::int64_t steps);
}
namespace portable {
extern const Kernels table;
}

namespace {

// Tables that this CPU can run, best first.
std::vector<const Kernels*> find_tables() {
    std::vector<const Kernels*> tables;
#if defined(BITSR_HAVE_AVX2) || defined(BITSR_HAVE_AVX512) || defined(BITSR_HAVE_AVX512BF16)
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                            __builtin_cpu_supports("avx512vnni");
#ifdef BITSR_HAVE_AVX512BF16
    if (has_avx512 && __builtin_cpu_supports("avx512bf16")) tables.push_back(&avx512bf16::table);
#endif
#ifdef BITSR_HAVE_AVX512
    // Sapphire Rapids starts vdpbf16ps every other cycle: two fused multiply-adds do the same twice as fast.
    if (has_avx512) tables.insert(__builtin_cpu_is("intel") ? tables.begin() : tables.end(), &avx512::table);
#endif
#ifdef BITSR_HAVE_AVX512POPCNT
    static std::vector<Kernels> counting;  // the same tables, with the kernel that counts bits by one instruction
    if (__builtin_cpu_supports("avx512vpopcntdq")) {
        counting.reserve(tables.size());
        for (const Kernels*& table : tables) {
            counting.push_back(*table);
            counting.back().binary = avx512popcnt::product_of_signs;
            counting.back().binary_products = avx512popcnt::peak_of_signs;
            table = &counting.back();
        }
    }
#endif
#ifdef BITSR_HAVE_AVX2
    if (has_avx2) tables.push_back(&avx2::table);
#endif
#endif
#ifdef BITSR_HAVE_NEON
    tables.push_back(&neon::table);  // every aarch64 CPU has it
#endif
    tables.push_back(&portable::table);
    return tables;
}

const std::vector<const Kernels*>& tables() {
    static const std::vector<const Kernels*> found = find_tables();
    return found;
}

const Kernels& pick() {
    const char* forced = std::getenv("BITSR_ISA");
    if (!forced || !*forced) return *tables().front();
    if (const Kernels* table = kernels_named(forced)) return *table;
    std::string text = std::string("BITSR_ISA is \"") + forced + "\"; this machine and build have";
    for (const Kernels* table : tables()) text += std::string(" ") + table->name;
    throw std::runtime_error(text);
}

}  // namespace

const Kernels& kernels() {
    static const Kernels& picked = pick();
    return picked;
}

const Kernels* kernels_named(const std::string& name) {
    for (const Kernels* table : tables())
        if (name == table->name) return table;
    return nullptr;
}

std::vector<std::string> available_isas() {
    std::vector<std::string> names;
    for (const Kernels* table : tables()) names.push_back(table->name);
    return names;
}

}  // namespace bitsr
