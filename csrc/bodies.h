// draw_bodies: the IUV maps of posed bodies, for dsa_fast.densepose.iuv_from_keypoints.
//
// All people share one surface: triangles, and vertices in a rest pose, each moved by two bones. A person has an affine
// map per bone from the rest pose to the picture: x right and y down in pixels, z toward the camera. A vertex is moved
// by
// the weighted mean of its two maps.
//
// The result:
//   - A pixel, sampled at its center (c + 0.5, r + 0.5), shows the triangle nearest to the camera; ties go to the first
//     one. Some triangles are skipped: those seen from behind (clockwise in the picture), those of parts that are not
//     shown, and those with a vertex that is not finite or farther than kFar pixels away.
//   - The pixel gets the triangle's part, and its u and v, interpolated in the picture and rounded to 1/255. Other
//     pixels are 0.
//   - A person's map does not depend on other people or on the number of threads.
#pragma once

#include <cstdint>

namespace dsa_fast {

constexpr float kFar = 1.0e6f;

struct Surface {
  const float* vertices;  // [V, 3], in the rest pose
  const float* uv;        // [V, 2], in [0, 1]
  const uint8_t* part;    // [V], 1..24, the same for the vertices of a triangle
  const int32_t* bones;   // [V, 2], in 0..J-1
  const float* weight;    // [V], of the second bone; the first has the rest
  const int32_t* faces;   // [F, 3], in 0..V-1; counter-clockwise seen from outside
  int64_t V, F;
};

struct BodiesArgs {
  Surface surface;
  const float* maps;     // [N, J, 3, 4]
  const int32_t* shown;  // [N], bit p is set where part p is shown
  uint8_t* iuv;          // [N, 3, H, W]
  int64_t N, J, H, W;    // H * W < 2^31
};

// Threaded over people. Each thread keeps a posed surface and a depth per pixel.
void draw_bodies_cpu(const BodiesArgs& args);

}  // namespace dsa_fast
