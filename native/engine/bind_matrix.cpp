#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "bindings.hpp"
#include "engine/checks.hpp"
#include "engine/matrix.hpp"
#include "engine/sign_matrix.hpp"

namespace bitsr {

namespace {

using Anything = nb::ndarray<nb::ro, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Numbers = std::optional<Array<float, 1>>;

const float* rows_of(const Numbers& numbers, int rows) {
    if (!numbers) return nullptr;
    require(numbers->shape(0) == std::size_t(rows), "scale, bias and mid have one number per row");
    return numbers->data();
}

int side(const Anything& weights, int axis) {
    require(weights.shape(axis) >= 1 && weights.shape(axis) <= 65536, "weights must be 1..65536 along each axis");
    return int(weights.shape(axis));
}

std::shared_ptr<Matrix> make_matrix(const Anything& weights, const std::string& format, const Numbers& scale,
                                    const Numbers& bias, const Numbers& mid,
                                    const std::optional<Array<std::int8_t, 3>>& sums, int groups) {
    Weights w{format_named(format), side(weights, 0), side(weights, 1), side(weights, 2), nullptr, nullptr};
    if (w.format == Format::u8) {
        require(weights.dtype() == nb::dtype<std::int8_t>(), "weights for u8 are int8");
        w.codes = static_cast<const std::int8_t*>(weights.data());
    } else {
        require(weights.dtype() == nb::dtype<float>(), "weights for f32 and bf16 are float32");
        w.numbers = static_cast<const float*>(weights.data());
    }
    if (sums) require(sums->shape(1) == std::size_t(w.taps) && sums->shape(2) == std::size_t(w.channels) &&
                          sums->shape(0) <= std::size_t(w.rows), "sums have the taps and channels of the weights");
    return std::make_shared<Matrix>(w, groups, rows_of(scale, w.rows), rows_of(bias, w.rows), rows_of(mid, w.rows),
                                    sums ? sums->data() : nullptr, sums ? int(sums->shape(0)) : 0);
}

std::shared_ptr<SignMatrix> make_sign_matrix(const Array<std::int8_t, 3>& weights, const std::vector<int>& groups,
                                             const Array<float, 2>& scale, const Numbers& bias) {
    const auto side = [&](int axis) { return int(std::min<std::size_t>(weights.shape(axis), 1 << 20)); };
    require(scale.shape(0) == weights.shape(0) && scale.shape(1) == groups.size(), "there is a scale per row and group");
    require(weights.size() > 0, "there are no weights");
    return std::make_shared<SignMatrix>(side(0), side(1), side(2), weights.data(), groups, scale.data(),
                                        rows_of(bias, side(0)));
}

}  // namespace

void bind_matrix(nb::module_& module) {
    nb::class_<Matrix>(module, "Matrix")
        .def(nb::new_(&make_matrix), nb::arg("weights"), nb::arg("format"), nb::arg("scale") = nb::none(),
             nb::arg("bias") = nb::none(), nb::arg("mid") = nb::none(), nb::arg("sums") = nb::none(),
             nb::arg("groups") = 1);
    nb::class_<SignMatrix>(module, "SignMatrix")
        .def(nb::new_(&make_sign_matrix), nb::arg("weights"), nb::arg("groups"), nb::arg("scale"),
             nb::arg("bias") = nb::none());
}

}  // namespace bitsr
