// Large blocks of zeroed words, on huge pages where the system has them.
#pragma once

#include <cstddef>

#include "kernels/kernels.hpp"

namespace bitsr {

class Memory {
public:
    Memory() = default;
    explicit Memory(std::size_t words);  // aligned to 64 bytes; throws std::bad_alloc
    Memory(Memory&& other) noexcept;
    Memory& operator=(Memory&& other) noexcept;
    ~Memory();

    Word* data() const { return data_; }

private:
    Word* data_ = nullptr;
    std::size_t bytes_ = 0;
};

}  // namespace bitsr
