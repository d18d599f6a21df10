// warp_densepose on the CPU; ../densepose.h defines the results.
//
// A row of a head is stretched over the box's columns once, and reused for every row of the box up to its neighbor. The
// fine channels are stretched only between the first and the last column where the coarse ones see a person. u and v
// are read only for pixels of a part.
#include "../densepose.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "../chart.h"
#include "capability.h"
#include "parallel.h"

namespace dsa_fast {
namespace {

constexpr int64_t kChunk = 64;      // columns whose best channel is kept in the first-level cache
constexpr int64_t kBlockRows = 16;  // rows of a box that are worth a separate unit of work

// ---- code for each instruction set ---------------------------------------------------------------------------------

struct Samples {  // the Sample of each column
  const int32_t *i0, *i1;
  const float *w0, *w1;
};

// Two stretched rows of a head's channels, `step` elements from channel to channel, and their weights.
struct RowPair {
  const float *top, *bottom;
  int64_t step;
  float w0, w1;
};

// out[x] = the row at columns begin <= x < end.
using Stretch = void (*)(const float* row, const Samples& at, int64_t begin, int64_t end, float* out);
// person[x] = 1 where a channel beats channel 0, else 0.
using FindPerson = void (*)(const RowPair& rows, int64_t channels, int64_t begin, int64_t end, int32_t* person);
// best[x] = the highest channel.
using FindBest = void (*)(const RowPair& rows, int64_t channels, int64_t begin, int64_t end, int32_t* best);
// Values between four neighbors: corner[0], [1] above, [2], [3] below. out may overwrite a corner.
using BlendCorners = void (*)(const float* const corner[4], const float* x0, const float* x1, float y0, float y1,
                              int64_t n, float* out);

struct Kernels {
  Stretch stretch;
  FindPerson find_person;
  FindBest find_best;
  BlendCorners blend_corners;
};

DSA_FAST_INLINE void stretch_body(const float* row, const Samples& at, int64_t begin, int64_t end, float* out) {
  const int32_t *i0 = at.i0, *i1 = at.i1;
  const float *w0 = at.w0, *w1 = at.w1;
#pragma GCC ivdep
  for (int64_t x = begin; x < end; ++x) out[x] = blend(row[i0[x]], w0[x], row[i1[x]], w1[x]);
}

DSA_FAST_INLINE void find_person_body(const RowPair& rows, int64_t channels, int64_t begin, int64_t end,
                                      int32_t* person) {
  const float w0 = rows.w0, w1 = rows.w1;
  for (int64_t x0 = begin; x0 < end; x0 += kChunk) {
    const int64_t n = std::min(kChunk, end - x0);
    float background[kChunk];
    int32_t any[kChunk];
    for (int64_t x = 0; x < n; ++x) {
      background[x] = blend(rows.top[x0 + x], w0, rows.bottom[x0 + x], w1);
      any[x] = 0;
    }
    for (int64_t c = 1; c < channels; ++c) {
      const float *top = rows.top + c * rows.step + x0, *bottom = rows.bottom + c * rows.step + x0;
      for (int64_t x = 0; x < n; ++x) {
        any[x] |= static_cast<int32_t>(beats(blend(top[x], w0, bottom[x], w1), background[x]));
      }
    }
    std::copy_n(any, n, person + x0);
  }
}

DSA_FAST_INLINE void find_best_body(const RowPair& rows, int64_t channels, int64_t begin, int64_t end, int32_t* best) {
  const float w0 = rows.w0, w1 = rows.w1;
  for (int64_t x0 = begin; x0 < end; x0 += kChunk) {
    const int64_t n = std::min(kChunk, end - x0);
    float highest[kChunk];
    int32_t where[kChunk];
    for (int64_t x = 0; x < n; ++x) {
      highest[x] = blend(rows.top[x0 + x], w0, rows.bottom[x0 + x], w1);
      where[x] = 0;
    }
    for (int64_t c = 1; c < channels; ++c) {
      const float *top = rows.top + c * rows.step + x0, *bottom = rows.bottom + c * rows.step + x0;
      for (int64_t x = 0; x < n; ++x) {
        const float value = blend(top[x], w0, bottom[x], w1);
        const bool better = static_cast<int>(!(value <= highest[x])) & static_cast<int>(highest[x] == highest[x]);
        highest[x] = better ? value : highest[x];
        where[x] = better ? static_cast<int32_t>(c) : where[x];
      }
    }
    std::copy_n(where, n, best + x0);
  }
}

DSA_FAST_INLINE void blend_corners_body(const float* const corner[4], const float* x0, const float* x1, float y0,
                                        float y1, int64_t n, float* out) {
  const float *a = corner[0], *b = corner[1], *c = corner[2], *d = corner[3];
#pragma GCC ivdep
  for (int64_t k = 0; k < n; ++k) {
    out[k] = blend(blend(a[k], x0[k], b[k], x1[k]), y0, blend(c[k], x0[k], d[k], x1[k]), y1);
  }
}

// The functions above, compiled for one instruction set.
#define DSA_FAST_KERNELS(name, target)                                                                                 \
  target void find_person_##name(const RowPair& rows, int64_t channels, int64_t begin, int64_t end, int32_t* person) { \
    find_person_body(rows, channels, begin, end, person);                                                              \
  }                                                                                                                    \
  target void find_best_##name(const RowPair& rows, int64_t channels, int64_t begin, int64_t end, int32_t* best) {     \
    find_best_body(rows, channels, begin, end, best);                                                                  \
  }                                                                                                                    \
  target void blend_corners_##name(const float* const corner[4], const float* x0, const float* x1, float y0, float y1, \
                                   int64_t n, float* out) {                                                            \
    blend_corners_body(corner, x0, x1, y0, y1, n, out);                                                                \
  }                                                                                                                    \
  constexpr Kernels kKernels_##name{stretch_##name, find_person_##name, find_best_##name, blend_corners_##name};

void stretch_plain(const float* row, const Samples& at, int64_t begin, int64_t end, float* out) {
  stretch_body(row, at, begin, end, out);
}

DSA_FAST_KERNELS(plain, )  // without an fma instruction it is slow, with the same results

#ifdef DSA_FAST_X86
DSA_FAST_AVX2 void stretch_avx2(const float* row, const Samples& at, int64_t begin, int64_t end, float* out) {
  stretch_body(row, at, begin, end, out);
}

// Neighboring columns read neighboring values. If 16 columns need at most 32 of them, loading and permuting these is
// faster than gathering.
DSA_FAST_AVX512 void stretch_avx512(const float* row, const Samples& at, int64_t begin, int64_t end, float* out) {
  const int64_t length = at.i1[end - 1] + 1;  // of the row that is read
  for (int64_t x = begin; x < end; x += 16) {
    const int64_t n = std::min<int64_t>(16, end - x), first = at.i0[x], wanted = at.i1[x + n - 1] + 1 - first;
    if (wanted > 32) {
      stretch_body(row, at, x, x + n, out);
      continue;
    }
    const auto columns = static_cast<__mmask16>(0xffffu >> (16 - n));
    const uint64_t there = (uint64_t{1} << std::min<int64_t>(32, length - first)) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there), row + first);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(there >> 16), row + first + 16);
    const __m512i base = _mm512_set1_epi32(static_cast<int32_t>(first));
    const __m512i i0 = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(columns, at.i0 + x), base);
    const __m512i i1 = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(columns, at.i1 + x), base);
    const __m512 right =
        _mm512_mul_ps(_mm512_permutex2var_ps(low, i1, high), _mm512_maskz_loadu_ps(columns, at.w1 + x));
    const __m512 left = _mm512_permutex2var_ps(low, i0, high);
    _mm512_mask_storeu_ps(out + x, columns, _mm512_fmadd_ps(left, _mm512_maskz_loadu_ps(columns, at.w0 + x), right));
  }
}

DSA_FAST_KERNELS(avx2, DSA_FAST_AVX2)
DSA_FAST_KERNELS(avx512, DSA_FAST_AVX512)
#endif  // DSA_FAST_X86

const Kernels& choose_kernels() {
#ifdef DSA_FAST_X86
  if (capability() == Capability::kAvx512) return kKernels_avx512;
  if (capability() == Capability::kAvx2) return kKernels_avx2;
#endif
  return kKernels_plain;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose_kernels();
  return chosen;
}

// ---- heads, of any element type and layout --------------------------------------------------------------------------

// Writes columns begin..end - 1 of a channel's row to out[begin..end - 1].
template <typename T>
void load_row(const Head& head, int64_t n, int64_t c, int64_t y, int64_t begin, int64_t end, float* out) {
  const T* row = static_cast<const T*>(head.data) + n * head.stride[0] + c * head.stride[1] + y * head.stride[2];
  const int64_t step = head.stride[3];
  for (int64_t x = begin; x < end; ++x) out[x] = to_float(row[x * step]);
}

// Writes the four neighbors of each of count pixels, each in the channel of its part.
template <typename T>
void load_corners(const Head& head, int64_t n, const Sample& y, const Samples& at, const int32_t* column,
                  const int32_t* part, int64_t count, float* const corner[4]) {
  const T* above = static_cast<const T*>(head.data) + n * head.stride[0] + y.i0 * head.stride[2];
  const T* below = static_cast<const T*>(head.data) + n * head.stride[0] + y.i1 * head.stride[2];
  for (int64_t k = 0; k < count; ++k) {
    const int64_t channel = part[k] * head.stride[1];
    const int64_t left = channel + at.i0[column[k]] * head.stride[3];
    const int64_t right = channel + at.i1[column[k]] * head.stride[3];
    corner[0][k] = to_float(above[left]);
    corner[1][k] = to_float(above[right]);
    corner[2][k] = to_float(below[left]);
    corner[3][k] = to_float(below[right]);
  }
}

// The last two stretched rows of one instance's head, and their stretched columns.
class StretchedRows {
 public:
  StretchedRows(const Head& head, int64_t channels, DType dtype)
      : head_(head), channels_(channels), direct_(dtype == DType::kFloat32 && head.stride[3] == 1) {
    load_ = NetworkTypes::visit(dtype, [](auto tag) -> Load { return &load_row<TypeOf<decltype(tag)>>; });
  }

  void start(int64_t n, const Samples& at, int64_t columns, int64_t head_width) {
    n_ = n;
    at_ = at;
    step_ = columns;
    for (Row& row : rows_) {
      row.y = -1;
      row.values.resize(static_cast<size_t>(channels_ * columns));
    }
    loaded_.resize(static_cast<size_t>(head_width));
  }

  // Both rows of a Sample, stretched at least from column begin to end - 1.
  RowPair between(const Sample& y, int64_t begin, int64_t end) {
    const float* top = get(y.i0, y.i1, begin, end);
    return {top, get(y.i1, y.i0, begin, end), step_, y.w0, y.w1};
  }

 private:
  using Load = decltype(&load_row<float>);
  struct Row {
    int64_t y, begin, end;
    std::vector<float> values;  // [channels, columns]
  };

  // Row y; keeps row `other`.
  const float* get(int64_t y, int64_t other, int64_t begin, int64_t end) {
    Row& row = rows_[0].y == y || (rows_[1].y != y && rows_[0].y != other) ? rows_[0] : rows_[1];
    if (row.y != y) {
      row.y = y;
      row.begin = begin;
      row.end = end;
      stretch(row, begin, end);
    }
    if (begin < row.begin) stretch(row, begin, std::exchange(row.begin, begin));
    if (end > row.end) stretch(row, std::exchange(row.end, end), end);
    return row.values.data();
  }

  void stretch(Row& row, int64_t begin, int64_t end) {
    if (begin >= end) return;
    for (int64_t c = 0; c < channels_; ++c) {
      const float* from = loaded_.data();
      if (direct_) {
        from = static_cast<const float*>(head_.data) + n_ * head_.stride[0] + c * head_.stride[1] +
               row.y * head_.stride[2];
      } else {
        load_(head_, n_, c, row.y, at_.i0[begin], at_.i1[end - 1] + 1, loaded_.data());
      }
      kernels().stretch(from, at_, begin, end, row.values.data() + c * step_);
    }
  }

  const Head head_;
  const int64_t channels_;
  const bool direct_;  // rows are read in place
  Load load_ = nullptr;
  int64_t n_ = 0, step_ = 0;
  Samples at_{};
  Row rows_[2]{};
  std::vector<float> loaded_;
};

// The foreground pixels of a row of an image, from left to right.
struct Pixels {
  int64_t y, count;
  const int32_t* x;
  const int32_t* part;  // 1..24
  const float *u, *v;
};

// Reads instances; one for each worker.
class ChartReader {
 public:
  ChartReader(const Charts& charts, int64_t height, int64_t width)
      : charts_(charts),
        height_(height),
        width_(width),
        coarse_(charts.coarse, charts.K, charts.dtype),
        fine_(charts.fine, kFineChannels, charts.dtype) {
    load_ = NetworkTypes::visit(charts.dtype, [](auto tag) -> Load { return &load_corners<TypeOf<decltype(tag)>>; });
  }

  // Calls f(Pixels) for the rows of the n-th of `groups` parts of an instance's box, from top to bottom.
  template <typename F>
  void read(int64_t n, int64_t group, int64_t groups, const F& f) {
    const Box box = box_of(charts_.boxes + 4 * n);
    const Visible rows = visible(box.y, box.h, height_), columns = visible(box.x, box.w, width_);
    const int64_t height = rows.end - rows.begin, width = columns.end - columns.begin;
    if (height == 0 || width == 0) return;
    i0_.resize(static_cast<size_t>(width));
    i1_.resize(i0_.size());
    for (auto* list : {&w0_, &w1_, &x0_, &x1_, &corner_[0], &corner_[1], &corner_[2], &corner_[3], &v_}) {
      list->resize(i0_.size());
    }
    for (auto* list : {&mark_, &x_, &column_, &part_}) list->resize(i0_.size());
    for (int64_t x = 0; x < width; ++x) {
      const auto k = static_cast<size_t>(x);
      const Sample sample = sample_of(columns.begin + x, charts_.w, box.w);
      i0_[k] = sample.i0;
      i1_[k] = sample.i1;
      w0_[k] = sample.w0;
      w1_[k] = sample.w1;
    }
    const Samples at{i0_.data(), i1_.data(), w0_.data(), w1_.data()};
    coarse_.start(n, at, width, charts_.w);
    fine_.start(n, at, width, charts_.w);
    for (int64_t row = height * group / groups; row < height * (group + 1) / groups; ++row) {
      const Sample y = sample_of(rows.begin + row, charts_.h, box.h);
      int32_t* mark = mark_.data();
      kernels().find_person(coarse_.between(y, 0, width), charts_.K, 0, width, mark);
      int64_t begin = 0, end = width;
      while (begin < end && mark[begin] == 0) ++begin;
      while (begin < end && mark[end - 1] == 0) --end;
      if (begin == end) continue;
      int64_t count = 0;
      for (int64_t x = begin; x < end; ++x) {
        column_[static_cast<size_t>(count)] = static_cast<int32_t>(x);
        count += mark[x];
      }
      kernels().find_best(fine_.between(y, begin, end), kFineChannels, begin, end, mark);
      const int64_t persons = count;
      count = 0;
      for (int64_t k = 0; k < persons; ++k) {
        const int32_t x = column_[static_cast<size_t>(k)];
        const auto to = static_cast<size_t>(count);
        column_[to] = x;
        part_[to] = mark[x];
        x_[to] = static_cast<int32_t>(box.x + columns.begin + x);
        x0_[to] = at.w0[x];
        x1_[to] = at.w1[x];
        count += mark[x] > 0;
      }
      if (count == 0) continue;
      read_values(charts_.v, n, y, at, count, v_.data());
      read_values(charts_.u, n, y, at, count, corner_[0].data());
      f(Pixels{box.y + rows.begin + row, count, x_.data(), part_.data(), corner_[0].data(), v_.data()});
    }
  }

 private:
  using Load = decltype(&load_corners<float>);

  void read_values(const Head& head, int64_t n, const Sample& y, const Samples& at, int64_t count, float* out) {
    float* const corner[4] = {corner_[0].data(), corner_[1].data(), corner_[2].data(), corner_[3].data()};
    load_(head, n, y, at, column_.data(), part_.data(), count, corner);
    kernels().blend_corners(corner, x0_.data(), x1_.data(), y.w0, y.w1, count, out);
  }

  const Charts charts_;
  const int64_t height_, width_;
  StretchedRows coarse_, fine_;
  Load load_ = nullptr;
  std::vector<int32_t> i0_, i1_;            // Samples of the visible columns
  std::vector<float> w0_, w1_;              // likewise
  std::vector<int32_t> mark_;               // of each column: whether a person, then the best channel
  std::vector<int32_t> x_, column_, part_;  // of each foreground pixel, as are all below
  std::vector<float> x0_, x1_, corner_[4], v_;
};

// The number of parts that each box is cut into, to give all threads work.
int64_t groups_of(const Charts& charts, int64_t height) {
  if (charts.N == 0) return 1;
  return std::clamp<int64_t>((num_threads() + charts.N - 1) / charts.N, 1, std::max<int64_t>(1, height / kBlockRows));
}

// ---- the warp ------------------------------------------------------------------------------------------------------

struct Hit {
  int32_t y, x;
  Texel texel;
};

// Appends the pixels that land on a texel.
void append_hits(const Pixels& pixels, int32_t size, std::vector<Hit>& hits) {
  for (int64_t k = 0; k < pixels.count; ++k) {
    const Texel texel = texel_of(static_cast<float>(pixels.part[k]), pixels.u[k], pixels.v[k], size);
    if (texel.part >= 0) hits.push_back({static_cast<int32_t>(pixels.y), pixels.x[k], texel});
  }
}

// Makes the part images of one instance after another: start, add its hits in raster order, finish.
template <typename In, typename Out>
class Painter {
 public:
  explicit Painter(const WarpDensePoseArgs& args) : a_(args), cells_(args.S * args.S), plane_(args.C * cells_) {}

  void start(int64_t n) {
    out_ = static_cast<Out*>(a_.out) + n * kParts * plane_;
    const int64_t image = a_.image_index[n];
    img_ = static_cast<const In*>(a_.img) + (image >= 0 && image < a_.B ? image : 0) * a_.img_stride[0];
    if (a_.reduce == Reduce::kMean) {
      sum_.assign(static_cast<size_t>(kParts * plane_), Sum(0));
      count_.assign(static_cast<size_t>(kParts * cells_), 0);
      return;
    }
    for (int64_t p = 0; p < kParts; ++p) {
      for (int64_t c = 0; c < a_.C; ++c) {
        std::fill_n(out_ + p * plane_ + c * cells_, cells_, convert<Out>(a_.fill[c]));
      }
    }
  }

  void add(const std::vector<Hit>& hits) {
    if (a_.reduce == Reduce::kMean) {
      for (const Hit& hit : hits) ++count_[static_cast<size_t>(hit.texel.part * cells_ + hit.texel.cell)];
    }
    for (int64_t c = 0; c < a_.C; ++c) {
      const In* img = img_ + c * a_.img_stride[1];
      for (const Hit& hit : hits) {
        const In value = img[hit.y * a_.img_stride[2] + hit.x * a_.img_stride[3]];
        const int64_t texel = hit.texel.part * plane_ + c * cells_ + hit.texel.cell;
        if (a_.reduce == Reduce::kLast) {
          out_[texel] = convert<Out>(value);
        } else {
          sum_[static_cast<size_t>(texel)] += to_sum(value);
        }
      }
    }
  }

  void finish() {
    if (a_.reduce == Reduce::kLast) return;
    for (int64_t p = 0; p < kParts; ++p) {
      const int32_t* n = count_.data() + p * cells_;
      for (int64_t c = 0; c < a_.C; ++c) {
        const Out fill = convert<Out>(a_.fill[c]);
        const Sum* total = sum_.data() + p * plane_ + c * cells_;
        Out* channel = out_ + p * plane_ + c * cells_;
        for (int64_t k = 0; k < cells_; ++k) {
          channel[k] = n[k] == 0 ? fill : convert<Out>(mean_of<In>(total[k], n[k]));
        }
      }
    }
  }

 private:
  using Sum = SumOf<In>;
  const WarpDensePoseArgs& a_;
  const int64_t cells_, plane_;  // of one channel, of one part
  Out* out_ = nullptr;           // [24, C, S, S]
  const In* img_ = nullptr;      // [C, H, W]
  std::vector<Sum> sum_;         // [24, C, S, S]
  std::vector<int32_t> count_;   // [24, S, S]
};

template <typename In, typename Out>
void warp_densepose(const WarpDensePoseArgs& a) {
  const int64_t groups = groups_of(a.charts, a.H);
  const int32_t size = static_cast<int32_t>(a.S);
  const auto has_image = [&](int64_t n) { return a.image_index[n] >= 0 && a.image_index[n] < a.B; };
  // An instance reads about 25 channels of a box of unknown size, so it is always worth a thread.
  if (groups == 1) {
    parallel_for(a.charts.N, kWorthAThread, [&] {
      return [&, painter = Painter<In, Out>(a), reader = ChartReader(a.charts, a.H, a.W),
              hits = std::vector<Hit>()](int64_t n) mutable {
        painter.start(n);
        if (has_image(n)) {
          reader.read(n, 0, 1, [&](const Pixels& pixels) {
            hits.clear();
            append_hits(pixels, size, hits);
            painter.add(hits);
          });
        }
        painter.finish();
      };
    });
    return;
  }
  std::vector<std::vector<Hit>> found(static_cast<size_t>(a.charts.N * groups));
  parallel_for(a.charts.N * groups, kWorthAThread, [&] {
    return [&, reader = ChartReader(a.charts, a.H, a.W)](int64_t k) mutable {
      if (!has_image(k / groups)) return;
      reader.read(k / groups, k % groups, groups,
                  [&](const Pixels& pixels) { append_hits(pixels, size, found[static_cast<size_t>(k)]); });
    };
  });
  parallel_for(a.charts.N, kWorthAThread, [&] {
    return [&, painter = Painter<In, Out>(a)](int64_t n) mutable {
      painter.start(n);
      for (int64_t g = 0; g < groups; ++g) painter.add(found[static_cast<size_t>(n * groups + g)]);
      painter.finish();
    };
  });
}

// ---- the maps ------------------------------------------------------------------------------------------------------

template <typename Out>
void densepose_iuv(const DensePoseIuvArgs& a) {
  const int64_t groups = groups_of(a.charts, a.H);
  const int64_t pixels = a.H * a.W;
  Out* out = static_cast<Out*>(a.out);
  parallel_for(3 * a.charts.N, pixels,
               [&] { return [&](int64_t plane) { std::fill_n(out + plane * pixels, pixels, Out(0)); }; });
  parallel_for(a.charts.N * groups, kWorthAThread, [&] {
    return [&, reader = ChartReader(a.charts, a.H, a.W)](int64_t k) mutable {
      reader.read(k / groups, k % groups, groups, [&](const Pixels& row) {
        Out* part = out + 3 * pixels * (k / groups) + row.y * a.W;
        for (int64_t j = 0; j < row.count; ++j) {
          Out* pixel = part + row.x[j];
          if constexpr (std::is_same_v<Out, float>) {
            pixel[0] = static_cast<float>(row.part[j]);
            pixel[pixels] = row.u[j];
            pixel[2 * pixels] = row.v[j];
          } else if (row.u[j] == row.u[j] && row.v[j] == row.v[j]) {
            pixel[0] = static_cast<uint8_t>(row.part[j]);
            pixel[pixels] = quantized(row.u[j]);
            pixel[2 * pixels] = quantized(row.v[j]);
          }
        }
      });
    };
  });
}

}  // namespace

void warp_densepose_cpu(const WarpDensePoseArgs& args) {
  AnyTypes::visit(args.img_dtype, args.out_dtype,
                  [&](auto in, auto out) { warp_densepose<TypeOf<decltype(in)>, TypeOf<decltype(out)>>(args); });
}

void densepose_iuv_cpu(const DensePoseIuvArgs& args) {
  args.out_dtype == DType::kUInt8 ? densepose_iuv<uint8_t>(args) : densepose_iuv<float>(args);
}

}  // namespace dsa_fast
