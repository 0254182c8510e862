// The first and the last step: pictures of the caller are HxWxC, maps are planes.
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

// Pixels are `channels` floats apart; a known number of channels makes the stride a constant.
template <int kChannels>
void split(const float* pixels, int channels, int count, const Planes& y) {
    if (kChannels) channels = kChannels;
    for (int c = 0; c < channels; ++c) {
        float* plane = y.floats(c);
        for (int x = 0; x < count; ++x) plane[x] = pixels[std::ptrdiff_t{x} * channels + c];
    }
}

template <int kChannels>
void join(const Planes& x, int channels, int count, float* pixels) {
    if (kChannels) channels = kChannels;
    for (int c = 0; c < channels; ++c) {
        const float* plane = x.floats(c);
        for (int i = 0; i < count; ++i) pixels[std::ptrdiff_t{i} * channels + c] = plane[i];
    }
}

std::ptrdiff_t first_number(const Shape& picture, const Tile& tile) {
    return (std::ptrdiff_t{tile.y} * picture.width + tile.x) * picture.channels;
}

struct Input : Step {
    Value y;
    Shape picture;
    void run(const Tile& tile) const override {
        const float* pixels = tile.input + first_number(picture, tile);
        const auto of_channels = picture.channels == 3 ? &split<3> : picture.channels == 1 ? &split<1> : &split<0>;
        of_channels(pixels, picture.channels, tile.pixels, tile.at(y));
    }
};

struct Output : Step {
    Value x;
    Shape picture;
    void run(const Tile& tile) const override {
        float* pixels = tile.output + first_number(picture, tile);
        const auto of_channels = picture.channels == 3 ? &join<3> : picture.channels == 1 ? &join<1> : &join<0>;
        of_channels(tile.at(x), picture.channels, tile.pixels, pixels);
    }
};

void check(const Group& group, const Checks& checks, const Value& v, const Shape& picture) {
    checks.domain(Domain::rows);
    checks.format(v, Format::f32);
    require(group.height == picture.height && group.width == picture.width && v.channels == picture.channels,
            "the value is not of the shape of the picture");
}

}  // namespace

StepPointer make_input(Group& group, const Value& y, const Shape& picture) {
    Checks checks(group);
    check(group, checks, y, picture);
    checks.writes(y);
    auto step = std::make_unique<Input>();
    step->y = y;
    step->picture = picture;
    return step;
}

StepPointer make_output(Group& group, const Value& x, const Shape& picture) {
    Checks checks(group);
    check(group, checks, x, picture);
    checks.reads(x);
    auto step = std::make_unique<Output>();
    step->x = x;
    step->picture = picture;
    return step;
}

}  // namespace bitsr
