// How the work of a warp is split among threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../texel.h"
#include "parallel.h"

namespace dsa_fast {

// One image, and a range of its parts. A unit's worker scans the whole IUV map in raster order and writes only the
// unit's parts, so the result does not depend on the number of units or threads.
struct Unit {
  int64_t b;
  int32_t part_begin, part_end;
};

// Calls worker(unit) for each unit, with one worker = make_worker() per thread. A unit is an image or, with fewer
// images than threads, a range of a large image's parts. Its worker reads every pixel and writes part_elements for each
// of its parts. All units of an image read no more pixels than they write elements: one thread may have to run them.
template <typename F>
void parallel_units(int64_t images, int64_t pixels, int64_t part_elements, const F& make_worker) {
  if (images == 0) return;
  int64_t groups = 1;
  if (pixels + kParts * part_elements >= 2 * kWorthAThread) {
    groups = std::min<int64_t>(kParts, (num_threads() + images - 1) / images);
    groups = std::clamp<int64_t>(kParts * part_elements / std::max<int64_t>(1, pixels), 1, groups);
  }
  parallel_for(images * groups, pixels + kParts / groups * part_elements, [&] {
    return [groups, worker = make_worker()](int64_t k) mutable {
      const int64_t group = k % groups;
      worker(Unit{k / groups, static_cast<int32_t>(kParts * group / groups),
                  static_cast<int32_t>(kParts * (group + 1) / groups)});
    };
  });
}

}  // namespace dsa_fast
