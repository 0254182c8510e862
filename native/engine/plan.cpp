#include "engine/plan.hpp"

#include <algorithm>

#include "engine/checks.hpp"
#include "engine/team.hpp"

namespace bitsr {

namespace {

constexpr std::size_t kMostWords = std::size_t{1} << 48;
constexpr int kMostThreads = 256;
constexpr std::size_t kSlack = kTile;  // kernels may read beyond the last word, within a vector or two

void check_shape(const Shape& s) {
    require(s.height >= 1 && s.width >= 1 && s.channels >= 1, "shapes must be positive");
}

// Works on tiles of a group until none is left.  They are dealt out in runs: long enough that threads seldom meet at
// the counter and work on neighbouring memory, short enough that all are done at about the same time.  Every other
// group goes backwards: it begins with what the one before has left in the cache.
void work_on(const Group& group, bool backwards, std::atomic<int>& next, int threads, Tile& tile, const Team& team) {
    const int tiles = group.tiles();
    const int run = std::max(1, tiles / (16 * threads));
    while (!team.failed()) {
        const int first = next.fetch_add(run, std::memory_order_relaxed);
        if (first >= tiles) return;
        for (int index = first; index < std::min(first + run, tiles); ++index) {
            group.place(backwards ? tiles - 1 - index : index, tile);
            for (const StepPointer& step : group.steps) step->run(tile);
        }
    }
}

}  // namespace

Plan::Plan(std::size_t arena_words, std::size_t scratch_words, Shape input, Shape output)
    : kernels_(kernels()), arena_words_(arena_words), scratch_words_(scratch_words), input_(input), output_(output) {
    require(arena_words <= kMostWords && scratch_words <= kMostWords, "a plan has at most 2^48 words");
    check_shape(input);
    check_shape(output);
}

void Plan::require_open() const { require(!sealed_, "the plan has run already and can no longer be changed"); }

int Plan::add_value(const Value& v) {
    require_open();
    const std::size_t room = v.is_map() ? arena_words_ : scratch_words_;
    require(v.begin <= room && v.words <= room - v.begin, "a value does not lie within the plan's memory");
    values_.push_back(v);
    return int(values_.size()) - 1;
}

const Value& Plan::value(int id) const {
    require(id >= 0 && std::size_t(id) < values_.size(), "there is no value of this number");
    return values_[id];
}

void Plan::begin(Group group) {
    require_open();
    groups_.push_back(std::move(group));
}

Group& Plan::group() {
    require_open();
    require(!groups_.empty(), "a step needs a group to belong to");
    return groups_.back();
}

void Plan::append(StepPointer step) {
    temporary_words_ = std::max(temporary_words_, step->temporary_words);
    group().steps.push_back(std::move(step));
}

std::unique_ptr<Plan::Workspace> Plan::take_workspace(int threads) {
    std::unique_ptr<Workspace> workspace;
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!idle_.empty()) {
            workspace = std::move(idle_.back());
            idle_.pop_back();
        }
    }
    if (!workspace) {
        workspace = std::make_unique<Workspace>();
        workspace->arena = Memory(arena_words_);
        workspace->next.reset(new std::atomic<int>[groups_.size()]);
    }
    while (workspace->scratch.size() < std::size_t(threads))
        workspace->scratch.emplace_back(round_up_16(scratch_words_) + temporary_words_ + kSlack);
    for (std::size_t i = 0; i < groups_.size(); ++i) workspace->next[i] = 0;
    return workspace;
}

void Plan::give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(workspace));
}

Tile Plan::make_tile(const Workspace& workspace, int thread, const float* input, float* output) const {
    Word* scratch = workspace.scratch[thread].data();
    return {kernels_, {workspace.arena.data(), scratch}, scratch + round_up_16(scratch_words_),
            input,    output,                            0, 0, 0, 0};
}

void Plan::run(const float* input, float* output, int threads) {
    require(threads >= 1 && threads <= kMostThreads, "threads must be 1..256");
    sealed_ = true;
    std::unique_ptr<Workspace> workspace = take_workspace(threads);
    Team::run(threads, [&](Team& team, int thread) {
        Tile tile = make_tile(*workspace, thread, input, output);
        for (std::size_t i = 0; i < groups_.size(); ++i) {
            team.guard([&] { work_on(groups_[i], i % 2, workspace->next[i], threads, tile, team); });
            team.wait();
        }
    });
    give_back(std::move(workspace));
}

}  // namespace bitsr
