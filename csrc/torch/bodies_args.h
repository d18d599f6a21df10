// Turns PyTorch's tensors into the plain arguments of bodies.h.
#pragma once

#include "../bodies.h"
#include "torch_args.h"

namespace dsa_fast {

inline BodiesArgs bodies_args(const Tensor& vertices, const Tensor& uv, const Tensor& part, const Tensor& bones,
                              const Tensor& weight, const Tensor& faces, const Tensor& maps, const Tensor& shown,
                              const Tensor& iuv) {
  BodiesArgs args{};
  args.N = iuv.size(0), args.H = iuv.size(2), args.W = iuv.size(3), args.J = maps.size(1);
  Surface& s = args.surface;
  s.V = vertices.size(0), s.F = faces.size(0);
  s.vertices = contiguous_data<float>("vertices", vertices, ScalarType::Float, {s.V, 3});
  s.uv = contiguous_data<float>("uv", uv, ScalarType::Float, {s.V, 2});
  s.part = contiguous_data<uint8_t>("part", part, ScalarType::Byte, {s.V});
  s.bones = contiguous_data<int32_t>("bones", bones, ScalarType::Int, {s.V, 2});
  s.weight = contiguous_data<float>("weight", weight, ScalarType::Float, {s.V});
  s.faces = contiguous_data<int32_t>("faces", faces, ScalarType::Int, {s.F, 3});
  args.maps = contiguous_data<float>("maps", maps, ScalarType::Float, {args.N, args.J, 3, 4});
  args.shown = contiguous_data<int32_t>("shown", shown, ScalarType::Int, {args.N});
  args.iuv = static_cast<uint8_t*>(iuv.mutable_data_ptr());
  const auto in_range = [](const int32_t* values, int64_t n, int64_t limit) {
    return std::all_of(values, values + n, [&](int32_t value) { return value >= 0 && value < limit; });
  };
  STD_TORCH_CHECK(in_range(s.bones, 2 * s.V, args.J) && in_range(s.faces, 3 * s.F, s.V),
                  "dsa_fast: bones and faces must hold indices of bones and vertices, in 0..", args.J - 1, " and 0..",
                  s.V - 1, ", got others");
  STD_TORCH_CHECK(std::all_of(s.part, s.part + s.V, [](uint8_t p) { return p >= 1 && p <= kParts; }),
                  "dsa_fast: part must hold 1..24, got others");
  return args;
}

}  // namespace dsa_fast
