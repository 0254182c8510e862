// The parts of bitsr._native.  src/bitsr/_native.pyi documents what Python sees.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "engine/plan.hpp"

namespace bitsr {

namespace nb = nanobind;

// A contiguous array of the caller; None where the pointer is null.
template <class Number, int kDimensions>
using Array = nb::ndarray<const Number, nb::ndim<kDimensions>, nb::c_contig, nb::device::cpu>;

Format format_named(const std::string& name);  // throws std::invalid_argument

void bind_matrix(nb::module_&);
void bind_steps(nb::class_<Plan>&);
void bind_benchmark(nb::module_&);

}  // namespace bitsr
