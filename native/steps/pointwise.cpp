// Steps that look at one pixel at a time (bitsr.program.maps): the kernels do all the work.
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct LayerNorm : Step {
    Value x, y;
    Numbers weight, bias;
    float eps;
    void run(const Tile& t) const override {
        t.kernels.layer_norm(t.at(x), t.at(y), x.channels, t.width, weight.data(), bias.data(), eps);
    }
};

struct Activation : Step {
    Value x, y;
    Function function;
    float slope;
    void run(const Tile& t) const override {
        t.kernels.activate(function, slope, t.at(x), t.at(y), x.channels, t.width);
    }
};

struct PReLU : Step {
    Value x, y;
    Numbers slopes;
    void run(const Tile& t) const override {
        const Planes from = t.at(x), to = t.at(y);
        for (int c = 0; c < x.channels; ++c)
            t.kernels.activate(Function::leaky_relu, slopes[c], {from.words(c), 0}, {to.words(c), 0}, 1, t.width);
    }
};

struct Add : Step {
    Value a, b, y;
    void run(const Tile& t) const override { t.kernels.add(t.at(a), t.at(b), t.at(y), y.channels, t.width); }
};

struct Multiply : Step {
    Value a, b, y;
    void run(const Tile& t) const override {
        Planes factors = t.at(b);
        if (b.channels == 1) factors.pitch = 0;
        t.kernels.multiply(t.at(a), factors, t.at(y), y.channels, t.width);
    }
};

// b is 1 x 1 x C: one number per plane.
struct MultiplyPlanes : Step {
    Value a, b, y;
    void run(const Tile& t) const override {
        const Planes factors = t.pixel(b, 0, 0);
        t.kernels.affine(t.at(a), t.at(y), y.channels, t.width, factors.floats(0), nullptr, factors.pitch);
    }
};

struct Affine : Step {
    Value x, y;
    Numbers scale, shift;
    int stride;
    void run(const Tile& t) const override {
        t.kernels.affine(t.at(x), t.at(y), x.channels, t.width, scale.data(), shift.data(), stride);
    }
};

// One number of each pixel, from all its channels.
struct OfChannels : Step {
    Value x, y;
    void (*Kernels::*kernel)(Planes x, Planes y, int channels, int width);
    void run(const Tile& t) const override { (t.kernels.*kernel)(t.at(x), t.at(y), x.channels, t.width); }
};

void check_floats(Checks& checks, const Value& x, const Value& y) {
    checks.format(x, Format::f32);
    checks.format(y, Format::f32);
    checks.same_or_disjoint(x, y);
}

StepPointer make_of_channels(Group& group, const Value& x, const Value& y,
                             void (*Kernels::*kernel)(Planes, Planes, int, int)) {
    Checks checks(group);
    check_floats(checks, x, y);
    checks.disjoint(x, y);
    require(y.channels == 1, "one number of each pixel is one channel");
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<OfChannels>();
    step->x = x;
    step->y = y;
    step->kernel = kernel;
    return step;
}

// y may be x.
void check_unary(Checks& checks, const Value& x, const Value& y) {
    check_floats(checks, x, y);
    checks.same_channels(x, y);
    checks.reads(x);
    checks.writes(y);
}

}  // namespace

void check_numbers(const Numbers& numbers, std::size_t count) {
    require(numbers.size() == count, "the numbers per channel do not fit the channels");
    require_finite(numbers.data(), count, "the numbers per channel must be finite");
}

StepPointer make_layer_norm(Group& group, const Value& x, const Value& y, Numbers weight, Numbers bias, float eps) {
    Checks checks(group);
    check_unary(checks, x, y);
    check_numbers(weight, x.channels);
    check_numbers(bias, x.channels);
    require(eps >= 0 && eps <= 1, "eps must be 0..1");
    auto step = std::make_unique<LayerNorm>();
    step->x = x;
    step->y = y;
    step->weight = std::move(weight);
    step->bias = std::move(bias);
    step->eps = eps;
    return step;
}

StepPointer make_activation(Group& group, const Value& x, const Value& y, Function function, float slope) {
    Checks checks(group);
    check_unary(checks, x, y);
    require_finite(&slope, 1, "the slope must be finite");
    auto step = std::make_unique<Activation>();
    step->x = x;
    step->y = y;
    step->function = function;
    step->slope = slope;
    return step;
}

StepPointer make_prelu(Group& group, const Value& x, const Value& y, Numbers slopes) {
    Checks checks(group);
    check_unary(checks, x, y);
    check_numbers(slopes, x.channels);
    auto step = std::make_unique<PReLU>();
    step->x = x;
    step->y = y;
    step->slopes = std::move(slopes);
    return step;
}

StepPointer make_add(Group& group, const Value& a, const Value& b, const Value& y) {
    Checks checks(group);
    check_floats(checks, b, y);
    checks.same_channels(b, y);
    checks.reads(b);
    check_unary(checks, a, y);
    auto step = std::make_unique<Add>();
    step->a = a;
    step->b = b;
    step->y = y;
    return step;
}

StepPointer make_multiply(Group& group, const Value& a, const Value& b, const Value& y) {
    Checks checks(group);
    const bool one_pixel = group.height == 1 && group.width == 1;
    const bool per_plane = b.is_map() && b.height == 1 && b.width == 1 && b.channels == y.channels && !one_pixel;
    check_floats(checks, b, y);
    if (per_plane) {
        checks.disjoint(b, y);
        checks.reads_elsewhere(b);
        check_unary(checks, a, y);
        auto step = std::make_unique<MultiplyPlanes>();
        step->a = a;
        step->b = b;
        step->y = y;
        return step;
    }
    if (b.channels == 1 && y.channels != 1)
        checks.disjoint(b, y);
    else
        checks.same_channels(b, y);
    checks.reads(b);
    check_unary(checks, a, y);
    auto step = std::make_unique<Multiply>();
    step->a = a;
    step->b = b;
    step->y = y;
    return step;
}

StepPointer make_argmax(Group& group, const Value& x, const Value& y) {
    return make_of_channels(group, x, y, &Kernels::argmax);
}

StepPointer make_magnitude(Group& group, const Value& x, const Value& y) {
    return make_of_channels(group, x, y, &Kernels::magnitude);
}

StepPointer make_affine(Group& group, const Value& x, const Value& y, Numbers scale, Numbers shift) {
    Checks checks(group);
    check_unary(checks, x, y);
    const bool one = scale.size() == 1 && shift.size() == 1;
    if (!one)
        for (Numbers* numbers : {&scale, &shift})
            if (numbers->size() == 1) numbers->resize(x.channels, numbers->front());
    check_numbers(scale, one ? 1 : x.channels);
    check_numbers(shift, one ? 1 : x.channels);
    auto step = std::make_unique<Affine>();
    step->x = x;
    step->y = y;
    step->scale = std::move(scale);
    step->shift = std::move(shift);
    step->stride = one ? 0 : 1;
    return step;
}

}  // namespace bitsr
