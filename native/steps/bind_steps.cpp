#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include "bindings.hpp"
#include "engine/checks.hpp"
#include "steps/steps.hpp"

namespace bitsr {

namespace {

using QuantizerNumbers = std::tuple<double, double, int>;  // lower, step, levels

std::optional<Quantizer> quantizer(const std::optional<QuantizerNumbers>& numbers) {
    if (!numbers) return {};
    return Quantizer{float(std::get<0>(*numbers)), float(std::get<1>(*numbers)), std::get<2>(*numbers)};
}

Numbers numbers(const Array<float, 1>& array) { return {array.data(), array.data() + array.shape(0)}; }

Function function_named(const std::string& name) {
    if (name == "relu") return Function::relu;
    if (name == "leaky_relu") return Function::leaky_relu;
    if (name == "gelu") return Function::gelu;
    if (name == "sigmoid") return Function::sigmoid;
    if (name == "tanh") return Function::tanh;
    if (name == "clip") return Function::clip;
    if (name == "softplus") return Function::softplus;
    throw std::invalid_argument("there is no function " + name);
}

Statistic statistic_named(const std::string& name) {
    if (name == "mean") return Statistic::mean;
    if (name == "std") return Statistic::deviation;
    throw std::invalid_argument("a statistic is mean or std, not " + name);
}

Axis axis(const Array<std::int32_t, 2>& index, const Array<float, 2>& weight) {
    require(index.shape(0) == weight.shape(0) && index.shape(1) == weight.shape(1), "indices and weights do not match");
    require(index.shape(0) <= 64 && index.shape(1) <= (1 << 20), "there are too many taps");
    return {int(index.shape(0)), int(index.shape(1)), index.data(), weight.data()};
}

// Defines the method `name`(arguments...): make(plan, group, arguments...) gives the step.
template <class... Arguments, class Make, class... Names>
void define(nb::class_<Plan>& plan, const char* name, Make make, const Names&... names) {
    plan.def(
        name,
        [name, make](Plan& plan, Arguments... arguments) {
            try {
                plan.append(make(plan, plan.group(), arguments...));
            } catch (const std::invalid_argument& error) {
                throw std::invalid_argument(std::string(name) + ": " + error.what());
            }
        },
        nb::arg(names)...);
}

using MatrixPointer = std::shared_ptr<const Matrix>;
using Name = const std::string&;
using Floats = const Array<float, 1>&;
using Given = const std::optional<QuantizerNumbers>&;

void bind_moves(nb::class_<Plan>& plan) {
    define<int>(plan, "input", [](Plan& p, Group& g, int y) { return make_input(g, p.value(y), p.input()); }, "y");
    define<int>(plan, "output", [](Plan& p, Group& g, int x) { return make_output(g, p.value(x), p.output()); }, "x");
    define<int>(plan, "fill_border", [](Plan& p, Group& g, int x) { return make_fill_border(g, p.value(x)); }, "x");
    define<int, int>(
        plan, "gather", [](Plan& p, Group& g, int x, int y) { return make_gather(g, p.value(x), p.value(y)); }, "x",
        "y");
    define<int, int>(
        plan, "scatter", [](Plan& p, Group& g, int x, int y) { return make_scatter(g, p.value(x), p.value(y)); }, "x",
        "y");
    define<int, int, int, int, int>(
        plan, "copy",
        [](Plan& p, Group& g, int x, int y, int start, int to, int count) {
            return make_copy(g, p.value(x), p.value(y), start, to, count);
        },
        "x", "y", "start", "to", "count");
    define<int, int, int>(
        plan, "pixel_shuffle",
        [](Plan& p, Group& g, int x, int y, int factor) {
            return make_pixel_shuffle(g, p.value(x), p.value(y), factor);
        },
        "x", "y", "factor");
    define<int, int, int>(
        plan, "pixel_unshuffle",
        [](Plan& p, Group& g, int x, int y, int factor) {
            return make_pixel_unshuffle(g, p.value(x), p.value(y), factor);
        },
        "x", "y", "factor");
    using Indices = const Array<std::int32_t, 2>&;
    using Weights = const Array<float, 2>&;
    define<int, int, Indices, Weights, Indices, Weights>(
        plan, "resample",
        [](Plan& p, Group& g, int x, int y, Indices row_index, Weights row_weight, Indices column_index,
           Weights column_weight) {
            return make_resample(g, p.value(x), p.value(y), axis(row_index, row_weight),
                                 axis(column_index, column_weight));
        },
        "x", "y", "row_index", "row_weight", "column_index", "column_weight");
    define<int, int, int, int>(
        plan, "max_pool",
        [](Plan& p, Group& g, int x, int y, int kernel, int stride) {
            return make_max_pool(g, p.value(x), p.value(y), kernel, stride);
        },
        "x", "y", "kernel", "stride");
    define<int, int>(
        plan, "moments", [](Plan& p, Group& g, int x, int y) { return make_moments(g, p.value(x), p.value(y)); }, "x",
        "y");
    define<int, int, int, Name>(
        plan, "global_pool",
        [](Plan& p, Group& g, int x, int y, int width, Name statistic) {
            return make_global_pool(g, p.value(x), p.value(y), width, statistic_named(statistic));
        },
        "x", "y", "width", "statistic");
}

using MakeAttention = StepPointer (*)(Group&, const Value& x, const Value& y, const AttentionOptions&);

void define_attention(nb::class_<Plan>& plan, const char* name, MakeAttention make, const char* extent) {
    using Bias = const Array<float, 3>&;
    define<int, int, int, int, int, double, Bias, Name, Name, Given, Given, Given, Given, bool>(
        plan, name,
        [make](Plan& p, Group& g, int x, int y, int heads, int window, int extent, double scale, Bias bias,
               Name scores, Name values, Given q, Given k, Given attention, Given v, bool row_scale) {
            const auto side = [&](int axis) { return int(std::min<std::size_t>(bias.shape(axis), 1 << 30)); };
            AttentionOptions options{heads,   window,  extent,  float(scale),         bias.data(),
                                     side(0), side(1), side(2), format_named(scores), format_named(values),
                                     quantizer(q), quantizer(k), quantizer(attention), quantizer(v),
                                     row_scale};
            return make(g, p.value(x), p.value(y), options);
        },
        "x", "y", "heads", "window", extent, "scale", "bias", "scores", "values", "q", "k", "attention", "v", "row_scale");
}

void bind_products(nb::class_<Plan>& plan) {
    using SignMatrixPointer = std::shared_ptr<const SignMatrix>;
    define<int, int, SignMatrixPointer>(
        plan, "binary",
        [](Plan& p, Group& g, int x, int y, SignMatrixPointer matrix) {
            return make_binary(g, p.value(x), {}, p.value(y), matrix);
        },
        "x", "y", "matrix");
    define<int, int, int, SignMatrixPointer>(
        plan, "binary",
        [](Plan& p, Group& g, int x, int added, int y, SignMatrixPointer matrix) {
            return make_binary(g, p.value(x), p.value(added), p.value(y), matrix);
        },
        "x", "added", "y", "matrix");
    define<int, int, SignMatrixPointer, int, int, int, int>(
        plan, "binary_conv2d",
        [](Plan& p, Group& g, int x, int y, SignMatrixPointer matrix, int kernel_h, int kernel_w, int stride,
           int padding) {
            return make_binary_conv2d(g, p.value(x), p.value(y), matrix, {kernel_h, kernel_w, stride, padding});
        },
        "x", "y", "matrix", "kernel_h", "kernel_w", "stride", "padding");
    define<int, int, MatrixPointer>(
        plan, "gemm",
        [](Plan& p, Group& g, int x, int y, MatrixPointer matrix) {
            return make_gemm(g, p.value(x), {}, p.value(y), matrix);
        },
        "x", "y", "matrix");
    define<int, int, int, MatrixPointer>(
        plan, "gemm",
        [](Plan& p, Group& g, int x, int added, int y, MatrixPointer matrix) {
            return make_gemm(g, p.value(x), p.value(added), p.value(y), matrix);
        },
        "x", "added", "y", "matrix");
    using Ints = const Array<std::int32_t, 1>&;
    define<int, int, Ints, Ints, Floats>(
        plan, "sparse",
        [](Plan& p, Group& g, int x, int y, Ints starts, Ints columns, Floats values) {
            const auto whole = [](Ints array) {
                return std::vector<std::int32_t>(array.data(), array.data() + array.size());
            };
            return make_sparse(g, p.value(x), p.value(y), {whole(starts), whole(columns), numbers(values)});
        },
        "x", "y", "starts", "columns", "values");
    define<int, int, MatrixPointer, int, int, int, int>(
        plan, "conv2d",
        [](Plan& p, Group& g, int x, int y, MatrixPointer matrix, int kernel_h, int kernel_w, int stride,
           int padding) {
            return make_conv2d(g, p.value(x), p.value(y), matrix, {kernel_h, kernel_w, stride, padding});
        },
        "x", "y", "matrix", "kernel_h", "kernel_w", "stride", "padding");
    define_attention(plan, "attention", make_attention, "shift");
    define_attention(plan, "overlapping_attention", make_overlapping_attention, "margin");
}

void bind_scan(nb::class_<Plan>& plan) {
    using Rows = const Array<float, 2>&;
    const auto side = [](Rows array, int axis) { return int(std::min<std::size_t>(array.shape(axis), 1 << 30)); };
    define<int, int>(
        plan, "argmax", [](Plan& p, Group& g, int x, int y) { return make_argmax(g, p.value(x), p.value(y)); }, "x",
        "y");
    define<int, int, Rows>(
        plan, "lookup",
        [side](Plan& p, Group& g, int x, int y, Rows table) {
            return make_lookup(g, p.value(x), p.value(y), {side(table, 0), side(table, 1), table.data()});
        },
        "x", "y", "table");
    define<int, int, int, bool>(
        plan, "sort_pixels",
        [](Plan& p, Group& g, int classes, int y, int count, bool back) {
            return make_sort_pixels(g, p.value(classes), p.value(y), count, back);
        },
        "classes", "y", "count", "back");
    define<int, int, int>(
        plan, "gather_pixels",
        [](Plan& p, Group& g, int x, int order, int y) {
            return make_gather_pixels(g, p.value(x), p.value(order), p.value(y));
        },
        "x", "order", "y");
    define<int, int, int, int, int, Rows, Floats>(
        plan, "scan",
        [side](Plan& p, Group& g, int x, int delta, int b, int c, int y, Rows decay, Floats skip) {
            return make_scan(g, p.value(x), p.value(delta), p.value(b), p.value(c), p.value(y),
                             {side(decay, 0), side(decay, 1), decay.data()}, numbers(skip));
        },
        "x", "delta", "b", "c", "y", "decay", "skip");
}

void bind_pointwise(nb::class_<Plan>& plan) {
    define<int, int, Floats, Floats, double>(
        plan, "layer_norm",
        [](Plan& p, Group& g, int x, int y, Floats weight, Floats bias, double eps) {
            return make_layer_norm(g, p.value(x), p.value(y), numbers(weight), numbers(bias), float(eps));
        },
        "x", "y", "weight", "bias", "eps");
    define<int, int, Name, double>(
        plan, "activation",
        [](Plan& p, Group& g, int x, int y, Name function, double slope) {
            return make_activation(g, p.value(x), p.value(y), function_named(function), float(slope));
        },
        "x", "y", "function", "slope");
    define<int, int, Floats>(
        plan, "prelu",
        [](Plan& p, Group& g, int x, int y, Floats slopes) {
            return make_prelu(g, p.value(x), p.value(y), numbers(slopes));
        },
        "x", "y", "slopes");
    define<int, int, int>(
        plan, "add",
        [](Plan& p, Group& g, int a, int b, int y) { return make_add(g, p.value(a), p.value(b), p.value(y)); }, "a",
        "b", "y");
    define<int, int, int>(
        plan, "multiply",
        [](Plan& p, Group& g, int a, int b, int y) { return make_multiply(g, p.value(a), p.value(b), p.value(y)); },
        "a", "b", "y");
    define<int, int>(
        plan, "magnitude", [](Plan& p, Group& g, int x, int y) { return make_magnitude(g, p.value(x), p.value(y)); },
        "x", "y");
    define<int, int, Floats, Floats>(
        plan, "affine",
        [](Plan& p, Group& g, int x, int y, Floats scale, Floats shift) {
            return make_affine(g, p.value(x), p.value(y), numbers(scale), numbers(shift));
        },
        "x", "y", "scale", "shift");
    define<int, int, double, double, int, const std::optional<Array<float, 1>>&>(
        plan, "quantize",
        [](Plan& p, Group& g, int x, int y, double lower, double step, int levels, const std::optional<Array<float, 1>>& scale) {
            return make_quantize(g, p.value(x), p.value(y), {float(lower), float(step), levels},
                                 scale ? numbers(*scale) : Numbers{});
        },
        "x", "y", "lower", "step", "levels", "scale");
    define<int, int, Floats, const std::optional<Array<float, 1>>&>(
        plan, "signs",
        [](Plan& p, Group& g, int x, int y, Floats thresholds, const std::optional<Array<float, 1>>& below) {
            return make_signs(g, p.value(x), p.value(y), numbers(thresholds), below ? numbers(*below) : Numbers{});
        },
        "x", "y", "thresholds", "below");
    define<int, int>(
        plan, "to_bf16", [](Plan& p, Group& g, int x, int y) { return make_to_bf16(g, p.value(x), p.value(y)); }, "x",
        "y");
    define<int, int, double, double, int>(
        plan, "round",
        [](Plan& p, Group& g, int x, int y, double lower, double step, int levels) {
            return make_round(g, p.value(x), p.value(y), {float(lower), float(step), levels});
        },
        "x", "y", "lower", "step", "levels");
}

}  // namespace

void bind_steps(nb::class_<Plan>& plan) {
    bind_moves(plan);
    bind_products(plan);
    bind_scan(plan);
    bind_pointwise(plan);
}

}  // namespace bitsr
