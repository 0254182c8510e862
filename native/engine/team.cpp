#include "engine/team.hpp"

#include "engine/denormals.hpp"

#include <system_error>
#include <thread>
#include <vector>

namespace bitsr {

namespace {

inline void pause_processor() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Spins for about as long as a short group takes, then lets other threads of the machine run.
template <class Done>
void wait_until(const Done& done) {
    for (int i = 0; !done(); ++i) {
        if (i < 2000)
            pause_processor();
        else
            std::this_thread::yield();
    }
}

}  // namespace

void Team::run(int threads, const std::function<void(Team&, int)>& work) {
    Team team;
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    try {
        for (int number = 1; number < threads; ++number)
            others.emplace_back([&team, &work, number] {
                wait_until([&] { return team.members_.load(std::memory_order_acquire) > 0; });
                const FlushDenormals flushed;
                work(team, number);
            });
    } catch (const std::system_error&) {
        // The system grants no more threads.
    }
    team.members_.store(int(others.size()) + 1, std::memory_order_release);
    {
        const FlushDenormals flushed;
        work(team, 0);
    }
    for (std::thread& other : others) other.join();
    if (team.error_) std::rethrow_exception(team.error_);
}

void Team::guard(const std::function<void()>& body) {
    if (failed()) return;
    try {
        body();
    } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        failed_.store(true, std::memory_order_relaxed);
    }
}

void Team::wait() {
    const unsigned generation = generation_.load(std::memory_order_relaxed);
    if (waiting_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_.load(std::memory_order_relaxed)) {
        waiting_.store(0, std::memory_order_relaxed);
        generation_.store(generation + 1, std::memory_order_release);
    } else {
        wait_until([&] { return generation_.load(std::memory_order_acquire) != generation; });
    }
}

}  // namespace bitsr
