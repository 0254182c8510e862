#include "engine/memory.hpp"

#include <cstring>
#include <new>
#include <utility>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

namespace bitsr {

namespace {

constexpr std::align_val_t kAlignment{64};

#ifdef MAP_ANONYMOUS

// Straight from the system: zeroed by it, and given back as soon as it is freed.
constexpr std::size_t kMapped = 1 << 20;

void* map_pages(std::size_t bytes) {
    void* pages = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    madvise(pages, bytes, MADV_HUGEPAGE);
#endif
    return pages;
}
void unmap_pages(void* pages, std::size_t bytes) { munmap(pages, bytes); }

#else

constexpr std::size_t kMapped = ~std::size_t{0};
void* map_pages(std::size_t) { throw std::bad_alloc(); }
void unmap_pages(void*, std::size_t) {}

#endif

}  // namespace

Memory::Memory(std::size_t words) : bytes_(words * sizeof(Word)) {
    if (bytes_ == 0) return;
    if (bytes_ >= kMapped) {
        data_ = static_cast<Word*>(map_pages(bytes_));
    } else {
        data_ = static_cast<Word*>(::operator new(bytes_, kAlignment));
        std::memset(data_, 0, bytes_);
    }
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Memory::~Memory() {
    if (bytes_ >= kMapped)
        unmap_pages(data_, bytes_);
    else if (data_)
        ::operator delete(data_, kAlignment);
}

}  // namespace bitsr
