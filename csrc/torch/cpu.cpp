// The operators on the CPU.
#include "../cpu/blocks.h"

#include <functional>
#include <numeric>

#include "bindings.h"
#include "bodies_args.h"
#include "rank_args.h"

namespace dsa_fast {

Tensor empty(const std::vector<int64_t>& shape, ScalarType dtype, const Tensor& like, bool channels_last) {
  const auto item =
      aoti_torch_dtype_element_size(torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)));
  const double bytes = std::accumulate(shape.begin(), shape.end(), static_cast<double>(item), std::multiplies<>());
  const bool large = bytes >= kLargeBlock && bytes < 1e15;  // beyond that, PyTorch says what is wrong
  void* data = large ? take_block(static_cast<int64_t>(bytes)) : nullptr;
  if (data == nullptr) return plain_empty(shape, dtype, like, channels_last);
  std::vector<int64_t> stride(shape.size(), 1);
  if (channels_last) {
    stride = {shape[1] * shape[2] * shape[3], 1, shape[3] * shape[1], shape[1]};
  } else {
    for (size_t k = shape.size() - 1; k > 0; --k) stride[k - 1] = stride[k] * shape[k];
  }
  try {
    return torch::stable::from_blob(data, shape, stride, like.device(), dtype, &give_back_block);
  } catch (...) {
    give_back_block(data);
    throw;
  }
}

namespace {

struct Cpu {
  explicit Cpu(const Tensor&) {}

  void run(const WarpArgs& args) const { warp_cpu(args); }
  void run(const CountArgs& args) const { warp_count_cpu(args); }
  void run(const WarpBackwardArgs& args) const { warp_backward_cpu(args); }
  void run(const CropArgs& args) const { crop_cpu(args); }
  void run(const TransformArgs& args) const {
    for (int64_t b = 0; b < args.B; ++b) {
      STD_TORCH_CHECK(args.plan[b].index >= 0 && args.plan[b].index < args.N, "dsa_fast: plan's index must be in 0..",
                      args.N - 1, ", got ", args.plan[b].index);
    }
    train_transform_cpu(args);
  }
  void run(const WarpDensePoseArgs& args) const { warp_densepose_cpu(args); }
  void run(const DensePoseIuvArgs& args) const { densepose_iuv_cpu(args); }
};

Tensor draw_bodies_op(const Tensor& vertices, const Tensor& uv, const Tensor& part, const Tensor& bones,
                      const Tensor& weight, const Tensor& faces, const Tensor& maps, const Tensor& shown,
                      int64_t height, int64_t width) {
  STD_TORCH_CHECK(vertices.dim() == 2 && faces.dim() == 2 && maps.dim() == 4,
                  "dsa_fast: vertices, faces and maps must have 2, 2 and 4 dimensions", got(vertices), got(faces),
                  got(maps));
  check_pixels(height, width);
  Tensor iuv = empty({maps.size(0), 3, height, width}, ScalarType::Byte, maps);
  draw_bodies_cpu(bodies_args(vertices, uv, part, bones, weight, faces, maps, shown, iuv));
  return iuv;
}

Tensor rank_matches_op(const Tensor& query, const Tensor& gallery, const Tensor& ignored, const Tensor& match_offsets,
                       const Tensor& match_items, const Tensor& left_offsets, const Tensor& left_items, bool cosine,
                       int64_t block) {
  const int64_t Q = query.size(0), G = gallery.size(0);
  Tensor ranks = empty({match_items.size(0)}, ScalarType::Long, query);
  rank_matches_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine),
                    flags_of(ignored, G), lists_of(match_offsets, match_items, Q, G),
                    lists_of(left_offsets, left_items, Q, G), static_cast<int64_t*>(ranks.mutable_data_ptr()),
                    checked_block(block)});
  return ranks;
}

Tensor rank_rows_op(const Tensor& distances, const Tensor& ignored, const Tensor& match_offsets,
                    const Tensor& match_items, const Tensor& left_offsets, const Tensor& left_items) {
  const auto* data = contiguous_data<float>("distances", distances, ScalarType::Float, {kAny, kAny});
  const int64_t Q = distances.size(0), G = distances.size(1);
  Tensor ranks = empty({match_items.size(0)}, ScalarType::Long, distances);
  rank_rows_cpu({data, Q, G, flags_of(ignored, G), lists_of(match_offsets, match_items, Q, G),
                 lists_of(left_offsets, left_items, Q, G), static_cast<int64_t*>(ranks.mutable_data_ptr())});
  return ranks;
}

Tensor nearest_op(const Tensor& query, const Tensor& gallery, int64_t k, bool cosine, int64_t block) {
  STD_TORCH_CHECK(k >= 1 && k <= gallery.size(0), "dsa_fast: k must be in 1..", gallery.size(0), ", got ", k);
  Tensor indices = empty({query.size(0), k + 1}, ScalarType::Long, query);
  nearest_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine), k,
               static_cast<int64_t*>(indices.mutable_data_ptr()), checked_block(block)});
  return indices;
}

Tensor pair_distances_op(const Tensor& query, const Tensor& gallery, const Tensor& query_index,
                         const Tensor& gallery_index, bool cosine) {
  STD_TORCH_CHECK(query_index.size(0) == gallery_index.size(0),
                  "dsa_fast: query_index and gallery_index must be of one length", got(query_index),
                  got(gallery_index));
  Tensor distances = empty({query_index.size(0)}, ScalarType::Double, query);
  pair_distances_cpu({rows_of(query), rows_of(gallery), columns_of(query, gallery), metric_of(cosine),
                      indices_of(query_index, query.size(0)), indices_of(gallery_index, gallery.size(0)),
                      query_index.size(0), static_cast<double*>(distances.mutable_data_ptr())});
  return distances;
}

}  // namespace
}  // namespace dsa_fast

STABLE_TORCH_LIBRARY_IMPL(dsa_fast, CPU, m) {
  dsa_fast::register_ops<dsa_fast::Cpu>(m);
  m.impl("draw_bodies", TORCH_BOX(&dsa_fast::draw_bodies_op));
  m.impl("rank_matches", TORCH_BOX(&dsa_fast::rank_matches_op));
  m.impl("rank_rows", TORCH_BOX(&dsa_fast::rank_rows_op));
  m.impl("nearest", TORCH_BOX(&dsa_fast::nearest_op));
  m.impl("pair_distances", TORCH_BOX(&dsa_fast::pair_distances_op));
}
