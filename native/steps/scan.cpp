// The selective scan (bitsr.program.scan): a tile is all pixels of 16 channels.
#include <algorithm>

#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

constexpr float kLog2E = 1.44269504f;
constexpr int kMostStates = 1 << 12;

struct ScanStep : Step {
    Value x, delta, b, c, y;
    int states;
    Numbers decay;  // tiles x states x kScanChannels
    Numbers skip;   // tiles x kScanChannels

    void run(const Tile& tile) const override {
        const int first = tile.x * kScanChannels, numbers = states * kScanChannels;
        float* state = reinterpret_cast<float*>(tile.temporary);
        std::fill_n(state, numbers, 0.0f);
        Scan scan{};
        scan.channels = std::min(kScanChannels, x.channels - first);
        scan.states = states;
        scan.decay = decay.data() + std::size_t(tile.x) * numbers;
        scan.skip = skip.data() + first;
        scan.state = state;
        scan.scratch = state + numbers;
        for (int row = 0; row < x.height; ++row)
            for (int column = 0; column < x.width; column += kTile) {
                const auto planes = [&](const Value& v, int plane) {
                    const Planes all = tile.pixel(v, row, column);
                    return Planes{all.words(plane), all.pitch};
                };
                scan.pixels = std::min(kTile, x.width - column);
                scan.x = planes(x, first);
                scan.delta = planes(delta, first);
                scan.y = planes(y, first);
                scan.b = planes(b, 0);
                scan.c = planes(c, 0);
                tile.kernels.scan(scan);
            }
    }
};

}  // namespace

StepPointer make_scan(Group& group, const Value& x, const Value& delta, const Value& b, const Value& c, const Value& y,
                      const Decays& decays, const Numbers& skip) {
    Checks checks(group);
    checks.domain(Domain::channels);
    require(decays.states >= 1 && decays.states <= kMostStates, "there must be 1..4096 states");
    require(decays.channels == x.channels, "the decays are for another number of channels");
    require(skip.size() == std::size_t(x.channels), "there must be one skip per channel");
    require_finite(decays.numbers, std::size_t(decays.channels) * decays.states, "the decays must be finite");
    require_finite(skip.data(), skip.size(), "the skips must be finite");
    const int tiles = (x.channels + kScanChannels - 1) / kScanChannels;
    require(group.width == tiles, "the tiles are not those of the channels");
    for (const Value& v : {x, delta, b, c}) {
        checks.format(v, Format::f32);
        require(v.height == y.height && v.width == y.width, "the maps of a scan are of one size");
        checks.disjoint(v, y);
        checks.reads_elsewhere(v);
    }
    checks.format(y, Format::f32);
    checks.same_channels(x, delta);
    checks.same_channels(x, y);
    require(b.channels == decays.states && c.channels == decays.states, "b and c have a channel per state");
    checks.writes_elsewhere(y);

    auto step = std::make_unique<ScanStep>();
    step->x = x;
    step->delta = delta;
    step->b = b;
    step->c = c;
    step->y = y;
    step->states = decays.states;
    step->decay.resize(std::size_t(tiles) * decays.states * kScanChannels);
    step->skip.resize(std::size_t(tiles) * kScanChannels);
    for (int channel = 0; channel < x.channels; ++channel) {
        const int tile = channel / kScanChannels, lane = channel % kScanChannels;
        step->skip[channel] = skip[channel];
        for (int n = 0; n < decays.states; ++n)
            step->decay[(std::size_t(tile) * decays.states + n) * kScanChannels + lane] =
                decays.numbers[std::size_t(channel) * decays.states + n] * kLog2E;
    }
    step->temporary_words = std::size_t(decays.states + 2 * kTile) * kScanChannels;
    return step;
}

}  // namespace bitsr
