// A program for pictures of one size: values, groups of steps, and the memory that runs need.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "engine/group.hpp"
#include "engine/memory.hpp"

namespace bitsr {

class Plan {
public:
    // Everything but `run` throws std::invalid_argument for wrong arguments, and once a run has begun.
    Plan(std::size_t arena_words, std::size_t scratch_words, Shape input, Shape output);

    const Shape& input() const { return input_; }
    const Shape& output() const { return output_; }
    std::size_t arena_words() const { return arena_words_; }

    int add_value(const Value&);  // its id
    const Value& value(int id) const;

    void begin(Group);
    Group& group();  // that steps belong to now
    void append(StepPointer);

    // On up to `threads` threads (1..256).  Any number of runs may be under way.
    void run(const float* input, float* output, int threads);

private:
    struct Workspace {
        Memory arena;
        std::vector<Memory> scratch;             // per thread
        std::unique_ptr<std::atomic<int>[]> next;  // per group: the first tile that nobody works on
    };

    void require_open() const;
    std::unique_ptr<Workspace> take_workspace(int threads);
    void give_back(std::unique_ptr<Workspace>);
    Tile make_tile(const Workspace&, int thread, const float* input, float* output) const;

    const Kernels& kernels_;
    std::size_t arena_words_, scratch_words_, temporary_words_ = 0;
    Shape input_, output_;
    std::vector<Value> values_;
    std::vector<Group> groups_;
    std::atomic<bool> sealed_{false};
    std::mutex mutex_;
    std::vector<std::unique_ptr<Workspace>> idle_;  // of runs that are over
};

}  // namespace bitsr
