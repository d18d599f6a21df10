// train_transform on the CPU; ../transform.h defines the results.
//
// A thread processes one image at a time, row by row. The pixels of a row stay in the first-level cache from the stored
// bytes to both results. When a map grows, its nearest neighbor repeats stored pixels, and all copies of one
// land on one texel. Reduce::kLast looks at each stored pixel once, when its last copy has been made.
#include "../transform.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "capability.h"
#include "parallel.h"

namespace dsa_fast {
namespace {

// ---- code for each instruction set ---------------------------------------------------------------------------------

struct Kernels {
  // out[x] = sum over j < taps of weight[j * n + x] * row[index[j * n + x]]
  void (*columns)(const float* row, const int32_t* index, const float* weight, int64_t taps, int64_t n, float* out);
  // level[x] = sum over j < taps of weight[j] * row[j][x], rounded to 0..255; value[x] = (level[x] - mean) / std
  void (*rows)(const float* const* row, const float* weight, int64_t taps, int64_t n, float mean, float std,
               float* level, float* value);
  void (*to_half)(const float* from, int64_t n, Half* to);
  void (*to_bfloat16)(const float* from, int64_t n, BFloat16* to);
};

DSA_FAST_INLINE void rows_body(const float* const* row, const float* weight, int64_t taps, int64_t n, float mean,
                               float std, float* level, float* value) {
  const float* first = row[0];
  for (int64_t x = 0; x < n; ++x) level[x] = first[x] * weight[0];
  for (int64_t j = 1; j < taps; ++j) {
    const float* next = row[j];
    const float w = weight[j];
    for (int64_t x = 0; x < n; ++x) level[x] = multiply_add(next[x], w, level[x]);
  }
  for (int64_t x = 0; x < n; ++x) {
    level[x] = round_level(level[x]);
    value[x] = normalized(level[x], mean, std);
  }
}

// The values are finite, so no check for NaN is needed.
DSA_FAST_INLINE void to_bfloat16_body(const float* from, int64_t n, BFloat16* to) {
  for (int64_t x = 0; x < n; ++x) {
    uint32_t bits;
    std::memcpy(&bits, from + x, sizeof(bits));
    to[x].bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

#define DSA_FAST_KERNELS(name, target)                                                                       \
  target void rows_##name(const float* const* row, const float* weight, int64_t taps, int64_t n, float mean, \
                          float std, float* level, float* value) {                                           \
    rows_body(row, weight, taps, n, mean, std, level, value);                                                \
  }                                                                                                          \
  target void to_bfloat16_##name(const float* from, int64_t n, BFloat16* to) { to_bfloat16_body(from, n, to); }

DSA_FAST_KERNELS(plain, )

void columns_plain(const float* row, const int32_t* index, const float* weight, int64_t taps, int64_t n, float* out) {
  for (int64_t x = 0; x < n; ++x) {
    float sum = row[index[x]] * weight[x];
    for (int64_t j = 1; j < taps; ++j) sum = multiply_add(row[index[j * n + x]], weight[j * n + x], sum);
    out[x] = sum;
  }
}

void to_half_plain(const float* from, int64_t n, Half* to) {
  for (int64_t x = 0; x < n; ++x) to[x] = round_to_half(from[x]);
}

#ifdef DSA_FAST_X86
DSA_FAST_KERNELS(avx2, DSA_FAST_AVX2)

DSA_FAST_AVX2 void columns_avx2(const float* row, const int32_t* index, const float* weight, int64_t taps, int64_t n,
                                float* out) {
  int64_t x = 0;
  for (; x + 8 <= n; x += 8) {
    __m256 sum = _mm256_setzero_ps();
    for (int64_t j = 0; j < taps; ++j) {
      const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index + j * n + x));
      sum = _mm256_fmadd_ps(_mm256_i32gather_ps(row, at, 4), _mm256_loadu_ps(weight + j * n + x), sum);
    }
    _mm256_storeu_ps(out + x, sum);
  }
  for (; x < n; ++x) {
    float sum = row[index[x]] * weight[x];
    for (int64_t j = 1; j < taps; ++j) sum = multiply_add(row[index[j * n + x]], weight[j * n + x], sum);
    out[x] = sum;
  }
}

DSA_FAST_AVX2 void to_half_avx2(const float* from, int64_t n, Half* to) {
  int64_t x = 0;
  for (; x + 8 <= n; x += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + x), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + x), half);
  }
  for (; x < n; ++x) to[x] = round_to_half(from[x]);
}
#endif  // DSA_FAST_X86

Kernels choose_kernels() {
#ifdef DSA_FAST_X86
  if (capability() != Capability::kPlain) return {&columns_avx2, &rows_avx2, &to_half_avx2, &to_bfloat16_avx2};
#endif
  return {&columns_plain, &rows_plain, &to_half_plain, &to_bfloat16_plain};
}

const Kernels& kernels() {
  static const Kernels chosen = choose_kernels();
  return chosen;
}

// ---- the tables of a call ------------------------------------------------------------------------------------------

struct Axis : AxisTaps {
  std::vector<int32_t> nearest;  // [out]: the map's row or column

  Axis(int64_t in, int64_t out) : AxisTaps(in, out) {
    for (int64_t i = 0; i < out; ++i) nearest.push_back(static_cast<int32_t>(dsa_fast::nearest(in, out, i)));
  }
};

// ---- one image -----------------------------------------------------------------------------------------------------

// A stored column of the map, and the last column of the result that shows it.
struct Source {
  int32_t column, x;
};

// The memory of one thread.
class Worker {
 public:
  Worker(const TransformArgs& args, const Axis& vertical, const Axis& horizontal)
      : a_(args),
        vertical_(vertical),
        horizontal_(horizontal),
        index_(size(horizontal.most * args.W)),
        weight_(size(horizontal.most * args.W)),
        stored_(size(args.w)),
        resized_(size(3 * vertical.most * args.W)),
        level_(size(3 * args.W)),
        value_(size(3 * args.W)),
        shown_(size(3 * args.W)) {
    taps_.resize(size(vertical.most));
    columns_.resize(size(args.grid_w));
    if (args.reduce == Reduce::kMean) {
      sum_.resize(size(kParts * args.S * args.S) * 3);
      count_.resize(size(kParts * args.S * args.S));
    }
  }

  void run(int64_t b) {
    const Plan plan = a_.plan[b];
    const bool known = plan.index >= 0 && plan.index < a_.N;
    b_ = b;
    y_begin_ = known ? std::clamp<int64_t>(a_.pad - plan.top, 0, a_.H) : a_.H;
    y_end_ = std::clamp<int64_t>(a_.H + a_.pad - plan.top, y_begin_, a_.H);
    x_begin_ = std::clamp<int64_t>(a_.pad - plan.left, 0, a_.W);
    x_end_ = std::clamp<int64_t>(a_.W + a_.pad - plan.left, x_begin_, a_.W);
    if (x_begin_ == x_end_) y_begin_ = y_end_ = a_.H;
    std::fill(shown_.begin(), shown_.end(), 0.0f);
    if (y_begin_ < y_end_) list_columns(plan);
    const bool mean = a_.reduce == Reduce::kMean;
    if (mean) {
      std::fill(sum_.begin(), sum_.end(), 0);
      std::fill(count_.begin(), count_.end(), 0);
    } else {
      NetworkTypes::visit(a_.dsap_dtype, [&](auto tag) {
        using Out = TypeOf<decltype(tag)>;
        std::fill_n(parts<Out>(), kParts * plane(), convert<Out>(0.0f));
      });
    }
    rows_done_ = 0;
    for (int64_t y = 0; y < a_.H; ++y) {
      if (y < y_begin_ || y >= y_end_) {
        if (y == y_end_) std::fill(shown_.begin(), shown_.end(), 0.0f);
        show(y);
        continue;
      }
      const int64_t row = y + plan.top - a_.pad;
      resize(plan, row);
      const int32_t nearest = vertical_.nearest[size(row)];
      if (a_.S == 0) {
        // no part images
      } else if (mean) {
        collect(plan, nearest);
      } else if (y + 1 == y_end_ || vertical_.nearest[size(row + 1)] != nearest) {
        NetworkTypes::visit(a_.dsap_dtype, [&](auto tag) { scatter<TypeOf<decltype(tag)>>(plan, nearest); });
      }
      for (int64_t c = 0; c < 3; ++c) {
        float* shown = shown_.data() + c * a_.W;
        std::copy_n(value_.data() + c * a_.W + x_begin_, x_end_ - x_begin_, shown + x_begin_);
        if (y >= plan.erase_top && y - plan.erase_top < plan.erase_height) {
          const int64_t left = std::clamp<int64_t>(plan.erase_left, 0, a_.W);
          const int64_t right = std::clamp<int64_t>(int64_t{plan.erase_left} + plan.erase_width, left, a_.W);
          std::fill(shown + left, shown + right, 0.0f);
        }
      }
      show(y);
    }
    if (mean) {
      NetworkTypes::visit(a_.dsap_dtype, [&](auto tag) { average<TypeOf<decltype(tag)>>(); });
    }
    fill_grid(plan);
  }

 private:
  static size_t size(int64_t n) { return static_cast<size_t>(n); }
  int64_t plane() const { return 3 * a_.S * a_.S; }  // of one part

  template <typename Out>
  Out* parts() const {
    return static_cast<Out*>(a_.dsap) + b_ * kParts * plane();
  }

  // The tables of columns, cropped and mirrored like this image.
  void list_columns(const Plan& plan) {
    const int64_t n = x_end_ - x_begin_;
    sources_.clear();
    for (int64_t k = 0; k < n; ++k) {
      const int64_t cropped = x_begin_ + k + plan.left - a_.pad;
      const int64_t column = plan.flip != 0 ? a_.W - 1 - cropped : cropped;
      const TapRange range = horizontal_.range[size(column)];
      const float* weight = horizontal_.weight.data() + column * horizontal_.limit;
      for (int64_t j = 0; j < horizontal_.most; ++j) {
        index_[size(j * n + k)] = range.start + static_cast<int32_t>(j < range.count ? j : 0);
        weight_[size(j * n + k)] = j < range.count ? weight[j] : 0.0f;
      }
      const Source source{horizontal_.nearest[size(column)], static_cast<int32_t>(x_begin_ + k)};
      if (a_.reduce == Reduce::kLast && !sources_.empty() && sources_.back().column == source.column) {
        sources_.back() = source;
      } else {
        sources_.push_back(source);
      }
    }
  }

  // Makes level_ and value_ of a row of the resized photo, between x_begin_ and x_end_.
  void resize(const Plan& plan, int64_t row) {
    const Kernels& kernel = kernels();
    const TapRange range = vertical_.range[size(row)];
    const int64_t n = x_end_ - x_begin_;
    // Rows come in order, and only the next few need a stored row. Slot r % most holds stored row r.
    for (int64_t r = std::max<int64_t>(rows_done_, range.start); r < range.start + range.count; ++r) {
      for (int64_t c = 0; c < 3; ++c) {
        const uint8_t* from =
            a_.images + plan.index * a_.image_stride[0] + c * a_.image_stride[1] + r * a_.image_stride[2];
        for (int64_t x = 0; x < a_.w; ++x) stored_[size(x)] = static_cast<float>(from[x * a_.image_stride[3]]);
        kernel.columns(stored_.data(), index_.data(), weight_.data(), horizontal_.most, n, slot(c, r));
      }
    }
    rows_done_ = range.start + range.count;
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t j = 0; j < range.count; ++j) taps_[size(j)] = slot(c, range.start + j);
      kernel.rows(taps_.data(), vertical_.weight.data() + row * vertical_.limit, range.count, n, a_.mean[c], a_.std[c],
                  level_.data() + c * a_.W + x_begin_, value_.data() + c * a_.W + x_begin_);
    }
  }

  float* slot(int64_t c, int64_t row) { return resized_.data() + (c * vertical_.most + row % vertical_.most) * a_.W; }

  // Calls f(x, texel) for the foreground of a row of the map, in the order of x.
  template <typename F>
  void for_each_hit(const Plan& plan, int64_t row, const F& f) const {
    const uint8_t* i = a_.iuv + plan.index * a_.iuv_stride[0] + row * a_.iuv_stride[2];
    const uint8_t* u = i + a_.iuv_stride[1];
    const uint8_t* v = u + a_.iuv_stride[1];
    for (const Source& source : sources_) {
      const int64_t at = source.column * a_.iuv_stride[3];
      Label label{i[at], 0, 0};
      if (label.i < 1 || label.i > kParts) continue;
      label.u = u[at];
      label.v = v[at];
      if (plan.flip != 0) label = mirrored_label(label, a_.mirror);
      f(source.x, texel_of(label.i, label.u, label.v, static_cast<int32_t>(a_.S)));
    }
  }

  template <typename Out>
  void scatter(const Plan& plan, int64_t row) const {
    const int64_t cells = a_.S * a_.S;
    Out* out = parts<Out>();
    for_each_hit(plan, row, [&](int64_t x, const Texel& texel) {
      Out* to = out + texel.part * plane() + texel.cell;
      for (int64_t c = 0; c < 3; ++c) to[c * cells] = convert<Out>(value_[size(c * a_.W + x)]);
    });
  }

  void collect(const Plan& plan, int64_t row) {
    const int64_t cells = a_.S * a_.S;
    for_each_hit(plan, row, [&](int64_t x, const Texel& texel) {
      const size_t at = size(texel.part * cells + texel.cell);
      ++count_[at];
      for (size_t c = 0; c < 3; ++c) sum_[3 * at + c] += static_cast<int32_t>(level_[c * size(a_.W) + size(x)]);
    });
  }

  template <typename Out>
  void average() const {
    const int64_t cells = a_.S * a_.S;
    Out* out = parts<Out>();
    for (int64_t part = 0; part < kParts; ++part) {
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t cell = 0; cell < cells; ++cell) {
          const size_t at = size(part * cells + cell);
          const float mean = static_cast<float>(sum_[3 * at + size(c)]) / static_cast<float>(count_[at]);
          out[part * plane() + c * cells + cell] =
              convert<Out>(count_[at] == 0 ? 0.0f : normalized(mean, a_.mean[c], a_.std[c]));
        }
      }
    }
  }

  void fill_grid(const Plan& plan) {
    for (int64_t j = 0; j < a_.grid_w; ++j) columns_[size(j)] = grid_column(a_, plan, j);
    for (int64_t i = 0; i < a_.grid_h; ++i) {
      const int64_t row = grid_row(a_, plan, i);
      for (int64_t j = 0; j < a_.grid_w; ++j) {
        write_cell(a_, plan, b_, i * a_.grid_w + j, row, columns_[size(j)]);
      }
    }
  }

  // Writes shown_ as row y of the full image.
  void show(int64_t y) {
    if (a_.channels_last) {
      interleaved_.resize(shown_.size());
      for (int64_t c = 0; c < 3; ++c) {
        for (int64_t x = 0; x < a_.W; ++x) interleaved_[size(3 * x + c)] = shown_[size(c * a_.W + x)];
      }
      put(interleaved_.data(), 3 * a_.W, (b_ * a_.H + y) * a_.W * 3);
    } else {
      for (int64_t c = 0; c < 3; ++c) put(shown_.data() + c * a_.W, a_.W, ((b_ * 3 + c) * a_.H + y) * a_.W);
    }
  }

  void put(const float* from, int64_t n, int64_t offset) const {
    switch (a_.full_dtype) {
      case DType::kFloat16:
        return kernels().to_half(from, n, static_cast<Half*>(a_.full) + offset);
      case DType::kBFloat16:
        return kernels().to_bfloat16(from, n, static_cast<BFloat16*>(a_.full) + offset);
      default:
        std::copy_n(from, n, static_cast<float*>(a_.full) + offset);
    }
  }

  const TransformArgs& a_;
  const Axis& vertical_;
  const Axis& horizontal_;
  int64_t b_ = 0, y_begin_ = 0, y_end_ = 0, x_begin_ = 0, x_end_ = 0, rows_done_ = 0;
  std::vector<int32_t> index_;   // [most, x_end - x_begin]
  std::vector<float> weight_;    // likewise
  std::vector<Source> sources_;  // in the order of x
  std::vector<float> stored_;    // [w]
  std::vector<float> resized_;   // [3, most, W]: stored rows with their columns resized
  std::vector<const float*> taps_;
  std::vector<float> level_, value_;  // [3, W]: 0..255, and normalized
  std::vector<float> shown_;          // [3, W]: value_, and 0 outside the photo and where erased
  std::vector<float> interleaved_;    // [W, 3]
  std::vector<int32_t> sum_;          // [24, S, S, 3]
  std::vector<int32_t> count_;        // [24, S, S]
  std::vector<int64_t> columns_;      // [grid_w]: columns of the stored map
};

}  // namespace

void train_transform_cpu(const TransformArgs& args) {
  const Axis vertical(args.h, args.H), horizontal(args.w, args.W);
  parallel_for(args.B, 3 * (args.H * args.W + kParts * args.S * args.S),
               [&] { return [worker = Worker(args, vertical, horizontal)](int64_t b) mutable { worker.run(b); }; });
}

}  // namespace dsa_fast
