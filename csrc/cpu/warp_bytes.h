// The warp of 8-bit photos of up to three channels by 8-bit maps, which is what files hold, on the CPU.
//
// The results are those of ../warp.h. A pixel's channels and a mark travel as one 32-bit word to the word of their
// texel, where the last one stays (or where they are summed); the words of an image lie in the second-level cache.
// Then they are spread into channels of the result's type, which are written past the caches if they are many.
#pragma once

#include "../warp.h"

namespace dsa_fast {

bool warp_bytes_can(const WarpArgs& args);
void warp_bytes(const WarpArgs& args);  // where warp_bytes_can

}  // namespace dsa_fast
