// The schemas of the operators. cpu.cpp and cuda.cpp implement them.
//
// A schema is a contract with compiled models and with the fake and autograd registrations in dsa_fast/ops.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(dsa_fast, m) {
  m.def("warp(Tensor img, Tensor iuv, int size, float[] fill, str reduce, ScalarType dtype) -> Tensor");
  // The same without a registered gradient: nothing of Python stands before the kernels.
  m.def("warp_detached(Tensor img, Tensor iuv, int size, float[] fill, str reduce, ScalarType dtype) -> Tensor");
  m.def("warp_count(Tensor iuv, int size) -> Tensor");
  m.def("warp_backward(Tensor grad, Tensor iuv, str reduce, ScalarType dtype) -> Tensor");
  m.def("crop(Tensor img, Tensor iuv, int size, float[] fill, bool mask, ScalarType dtype) -> Tensor");
  m.def(
      "train_transform(Tensor images, Tensor iuv, Tensor plan, Tensor? mirror, int height, int width, int pad, "
      "int size, int grid_height, int grid_width, float[] mean, float[] std, str reduce, ScalarType dtype, "
      "ScalarType dsap_dtype, bool channels_last) -> (Tensor, Tensor, Tensor)");
  m.def(
      "warp_densepose(Tensor img, Tensor coarse_segm, Tensor fine_segm, Tensor u, Tensor v, Tensor boxes, "
      "Tensor image_index, int size, float[] fill, str reduce, ScalarType dtype) -> Tensor");
  m.def(
      "warp_densepose_detached(Tensor img, Tensor coarse_segm, Tensor fine_segm, Tensor u, Tensor v, Tensor boxes, "
      "Tensor image_index, int size, float[] fill, str reduce, ScalarType dtype) -> Tensor");
  m.def(
      "densepose_iuv(Tensor coarse_segm, Tensor fine_segm, Tensor u, Tensor v, Tensor boxes, int height, int width, "
      "ScalarType dtype) -> Tensor");

  // On the CPU only.
  m.def(
      "draw_bodies(Tensor vertices, Tensor uv, Tensor part, Tensor bones, Tensor weight, Tensor faces, Tensor maps, "
      "Tensor shown, int height, int width) -> Tensor");
  m.def(
      "rank_matches(Tensor query, Tensor gallery, Tensor ignored, Tensor match_offsets, Tensor match_items, "
      "Tensor left_offsets, Tensor left_items, bool cosine, int block) -> Tensor");
  m.def(
      "rank_rows(Tensor distances, Tensor ignored, Tensor match_offsets, Tensor match_items, Tensor left_offsets, "
      "Tensor left_items) -> Tensor");
  m.def("nearest(Tensor query, Tensor gallery, int k, bool cosine, int block) -> Tensor");
  m.def(
      "pair_distances(Tensor query, Tensor gallery, Tensor query_index, Tensor gallery_index, bool cosine) -> Tensor");
}
