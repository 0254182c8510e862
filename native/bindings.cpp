#include "bindings.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "engine/checks.hpp"

namespace bitsr {

namespace {

using Sides = std::tuple<int, int, int>;

Shape shape(const Sides& sides) { return {std::get<0>(sides), std::get<1>(sides), std::get<2>(sides)}; }

template <class Pixels>
void check_picture(const Pixels& pixels, const Shape& shape) {
    const bool fits = pixels.shape(0) == std::size_t(shape.height) && pixels.shape(1) == std::size_t(shape.width) &&
                      pixels.shape(2) == std::size_t(shape.channels);
    require(fits, "a picture is not of the shape that the plan is for");
}

std::size_t words(std::int64_t count) {
    require(count >= 0, "numbers of words cannot be negative");
    return std::size_t(count);
}

int add_map(Plan& plan, int channels, int height, int width, const std::string& format, int border, Word fill,
            std::int64_t offset) {
    return plan.add_value(make_map(channels, height, width, format_named(format), border, fill, words(offset)));
}

int add_local(Plan& plan, int channels, int width, const std::string& format, std::int64_t offset) {
    return plan.add_value(make_local(channels, width, format_named(format), words(offset)));
}

void run(Plan& plan, const Array<float, 3>& input,
         const nb::ndarray<float, nb::ndim<3>, nb::c_contig, nb::device::cpu>& output, int threads) {
    check_picture(input, plan.input());
    check_picture(output, plan.output());
    const nb::gil_scoped_release release;
    plan.run(input.data(), output.data(), threads);
}

}  // namespace

Format format_named(const std::string& name) {
    if (name == "f32") return Format::f32;
    if (name == "bf16") return Format::bf16;
    if (name == "u8") return Format::u8;
    if (name == "bits") return Format::bits;
    throw std::invalid_argument("a format is f32, bf16, u8 or bits, not " + name);
}

NB_MODULE(_native, module) {
    module.doc() = "The compiled engine: plans of steps for pictures of one size.";
    module.attr("TILE") = kTile;
    module.attr("SCAN_CHANNELS") = kScanChannels;
    module.def("isas", available_isas);
    module.def("isa", [] { return kernels().name; });
    module.def(
        "map_words",
        [](int channels, int height, int width, const std::string& format, int border) {
            return make_map(channels, height, width, format_named(format), border, 0, 0).words;
        },
        nb::arg("channels"), nb::arg("height"), nb::arg("width"), nb::arg("format"), nb::arg("border"));
    module.def(
        "tile_words",
        [](int channels, int width, const std::string& format) {
            return make_local(channels, width, format_named(format), 0).words;
        },
        nb::arg("channels"), nb::arg("width"), nb::arg("format"));

    bind_matrix(module);

    nb::class_<Plan> plan(module, "Plan");
    plan.def(
            "__init__",
            [](Plan* self, std::int64_t arena_words, std::int64_t scratch_words, Sides input, Sides output) {
                new (self) Plan(words(arena_words), words(scratch_words), shape(input), shape(output));
            },
            nb::arg("arena_words"), nb::arg("scratch_words"), nb::arg("input_shape"), nb::arg("output_shape"))
        .def_prop_ro("arena_bytes", [](const Plan& plan) { return plan.arena_words() * sizeof(Word); })
        .def("map", add_map, nb::arg("channels"), nb::arg("height"), nb::arg("width"), nb::arg("format"),
             nb::arg("border"), nb::arg("fill"), nb::arg("offset"))
        .def(
            "part",
            [](Plan& plan, int whole, int start, int channels) {
                return plan.add_value(make_part(plan.value(whole), start, channels));
            },
            nb::arg("whole"), nb::arg("start"), nb::arg("channels"))
        .def("local", add_local, nb::arg("channels"), nb::arg("width"), nb::arg("format"), nb::arg("offset"))
        .def(
            "rows", [](Plan& plan, int height, int width) { plan.begin(Group::of_rows(height, width)); },
            nb::arg("height"), nb::arg("width"))
        .def(
            "windows",
            [](Plan& plan, int height, int width, int window, int shift) {
                plan.begin(Group::of_windows(height, width, window, shift));
            },
            nb::arg("height"), nb::arg("width"), nb::arg("window"), nb::arg("shift"))
        .def(
            "channels", [](Plan& plan, int count) { plan.begin(Group::of_channels(count)); }, nb::arg("count"))
        .def("run", run, nb::arg("input").noconvert(), nb::arg("output").noconvert(), nb::arg("threads"));
    bind_steps(plan);
    bind_benchmark(module);
}

}  // namespace bitsr
