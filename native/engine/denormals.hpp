// Numbers below 1e-38 count as zero while this lives, in the thread that made it.  A processor takes over a hundred
// cycles for each product with such a number, and every masked softmax is full of them.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <cstdint>

namespace bitsr {

class FlushDenormals {
   public:
    FlushDenormals() : before_(get()) { set(before_ | flush); }
    ~FlushDenormals() { set(before_); }
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;

   private:
    std::uint64_t before_;

#if defined(__x86_64__)
    static constexpr std::uint64_t flush = 0x8040;  // MXCSR: results and operands
    static std::uint64_t get() { return _mm_getcsr(); }
    static void set(std::uint64_t state) { _mm_setcsr(static_cast<unsigned>(state)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t flush = 1u << 24;  // FPCR
    static std::uint64_t get() {
        std::uint64_t state;
        __asm__ volatile("mrs %0, fpcr" : "=r"(state));
        return state;
    }
    static void set(std::uint64_t state) { __asm__ volatile("msr fpcr, %0" : : "r"(state)); }
#else
    static constexpr std::uint64_t flush = 0;
    static std::uint64_t get() { return 0; }
    static void set(std::uint64_t) {}
#endif
};

}  // namespace bitsr
