// Changes of format: to codes (Frame.quantize of bitsr.program.frame), to bf16, and to the levels of a quantizer
// (Frame.rounded).
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

struct Quantize : Step {
    Value x, y;
    Quantizer quantizer;
    Numbers scale;  // none: 1
    void run(const Tile& t) const override {
        t.kernels.quantize(t.at(x), t.at(y), x.channels, t.width, quantizer, scale.empty() ? nullptr : scale.data());
    }
};

struct ToBf16 : Step {
    Value x, y;
    void run(const Tile& t) const override { t.kernels.to_bf16(t.at(x), t.at(y), x.channels, t.width); }
};

struct Round : Step {
    Value x, y;
    Quantizer quantizer;
    void run(const Tile& t) const override { t.kernels.round(t.at(x), t.at(y), x.channels, t.width, quantizer); }
};

template <class Made>
std::unique_ptr<Made> make(Group& group, const Value& x, const Value& y, Format format) {
    Checks checks(group);
    checks.format(x, Format::f32);
    checks.format(y, format);
    checks.same_channels(x, y);
    if (format == Format::f32)
        checks.same_or_disjoint(x, y);
    else
        checks.disjoint(x, y);
    checks.reads(x);
    checks.writes(y);
    auto step = std::make_unique<Made>();
    step->x = x;
    step->y = y;
    return step;
}

}  // namespace

StepPointer make_quantize(Group& group, const Value& x, const Value& y, const Quantizer& quantizer, Numbers scale) {
    require_quantizer(quantizer);
    require(scale.empty() || scale.size() == std::size_t(x.channels), "the factors do not fit the channels");
    require_finite(scale.data(), scale.size(), "the factors must be finite");
    auto step = make<Quantize>(group, x, y, Format::u8);
    step->quantizer = quantizer;
    step->scale = std::move(scale);
    return step;
}

StepPointer make_to_bf16(Group& group, const Value& x, const Value& y) {
    return make<ToBf16>(group, x, y, Format::bf16);
}

StepPointer make_round(Group& group, const Value& x, const Value& y, const Quantizer& quantizer) {
    require_quantizer(quantizer);
    auto step = make<Round>(group, x, y, Format::f32);
    step->quantizer = quantizer;
    return step;
}

}  // namespace bitsr
