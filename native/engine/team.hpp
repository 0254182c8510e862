// Threads that work on one run together.
#pragma once

#include <atomic>
#include <exception>
#include <functional>
#include <mutex>

namespace bitsr {

class Team {
public:
    // Calls work(team, number of the thread) on up to `threads` threads, this one among them (fewer where the system
    // grants no more), and returns when all are done.  Throws what the first `guard` caught.
    static void run(int threads, const std::function<void(Team&, int)>& work);

    // Runs `body`, unless one failed before; an exception stops the other threads at their next `guard` or `failed`.
    void guard(const std::function<void()>& body);
    bool failed() const { return failed_.load(std::memory_order_relaxed); }

    // Returns when all threads of the team have called it.
    void wait();

private:
    std::atomic<int> members_{0};  // 0: not yet known
    std::atomic<int> waiting_{0};
    std::atomic<unsigned> generation_{0};
    std::atomic<bool> failed_{false};
    std::mutex mutex_;
    std::exception_ptr error_;
};

}  // namespace bitsr
