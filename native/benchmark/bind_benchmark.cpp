#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "benchmark/speed.hpp"
#include "bindings.hpp"

namespace bitsr {

void bind_benchmark(nb::module_& module) {
    nb::class_<Speed>(module, "Speed")
        .def_ro("kernel", &Speed::kernel)
        .def_ro("format", &Speed::format)
        .def_ro("shape", &Speed::shape)
        .def_ro("unit", &Speed::unit)
        .def_ro("rate", &Speed::rate)
        .def_ro("peak", &Speed::peak)
        .def_ro("share", &Speed::share);
    module.def("benchmark_kernels", benchmark_kernels, nb::arg("isa"), nb::arg("repetitions"),
               nb::call_guard<nb::gil_scoped_release>());
}

}  // namespace bitsr
