// Turns PyTorch's tensors into the plain arguments of rank.h.
#pragma once

#include "../rank.h"
#include "torch_args.h"

namespace dsa_fast {

inline Rows rows_of(const Tensor& features) {
  STD_TORCH_CHECK(features.dim() == 2 && features.is_contiguous() && features.size(1) >= 1,
                  "dsa_fast: features must be contiguous, of shape [N, D]", got(features));
  const ScalarType type = features.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double,
                  "dsa_fast: features must be float32 or float64", got(features));
  return {features.const_data_ptr(), type == ScalarType::Double, features.size(0)};
}

inline int64_t columns_of(const Tensor& query, const Tensor& gallery) {
  STD_TORCH_CHECK(query.dim() == 2 && gallery.dim() == 2 && query.size(1) == gallery.size(1),
                  "dsa_fast: query and gallery must have the same number of columns", got(query), " and", got(gallery));
  return query.size(1);
}

inline const int64_t* indices_of(const Tensor& tensor, int64_t limit) {
  const auto* data = contiguous_data<int64_t>("an index", tensor, ScalarType::Long, {kAny});
  for (int64_t i = 0; i < tensor.size(0); ++i) {
    STD_TORCH_CHECK(data[i] >= 0 && data[i] < limit, "dsa_fast: index out of range: must be in 0..", limit - 1,
                    ", got ", data[i]);
  }
  return data;
}

inline Lists lists_of(const Tensor& offsets, const Tensor& items, int64_t queries, int64_t gallery) {
  const int64_t* at = indices_of(offsets, items.size(0) + 1);
  STD_TORCH_CHECK(offsets.size(0) == queries + 1 && at[0] == 0 && at[queries] == items.size(0),
                  "dsa_fast: offsets must be [Q + 1], from 0 to the number of items", got(offsets));
  for (int64_t q = 0; q < queries; ++q) {
    STD_TORCH_CHECK(at[q] <= at[q + 1], "dsa_fast: offsets must ascend, got ", at[q], " before ", at[q + 1]);
  }
  return {at, indices_of(items, gallery)};
}

inline const bool* flags_of(const Tensor& ignored, int64_t gallery) {
  return contiguous_data<bool>("ignored", ignored, ScalarType::Bool, {gallery});
}

inline Metric metric_of(bool cosine) { return cosine ? Metric::kCosine : Metric::kEuclidean; }

inline int64_t checked_block(int64_t block) {
  STD_TORCH_CHECK(block >= 1, "dsa_fast: block must be at least 1, got ", block);
  return std::min(block, kMaxBlock);
}

}  // namespace dsa_fast
