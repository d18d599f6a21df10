// The warp of 8-bit photos of up to three channels by 8-bit maps, as in files, on the CPU.
//
// The results are those of ../warp.h. A pixel's channels and a mark travel as one 32-bit word to the word of their
// texel. The last one stays there, or they are summed. The words of an image fit in the second-level cache. Then they
// are spread into channels of the result's type. Large results bypass the caches.
#pragma once

#include "../warp.h"

namespace dsa_fast {

bool warp_bytes_can(const WarpArgs& args);
void warp_bytes(const WarpArgs& args);  // where warp_bytes_can

}  // namespace dsa_fast
