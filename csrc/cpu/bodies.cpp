// draw_bodies on the CPU; ../bodies.h defines the results.
#include "../bodies.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "parallel.h"

namespace dsa_fast {
namespace {

struct Point {
  float x, y, z;
};

bool usable(const Point& p) {
  // Written so that a NaN fails.
  return std::abs(p.x) <= kFar && std::abs(p.y) <= kFar && std::abs(p.z) <= kFar;
}

// maps: [J, 3, 4] of one person.
void pose(const Surface& surface, const float* maps, std::vector<Point>& points) {
  for (int64_t k = 0; k < surface.V; ++k) {
    const float* vertex = surface.vertices + 3 * k;
    const float* first = maps + 12 * surface.bones[2 * k];
    const float* second = maps + 12 * surface.bones[2 * k + 1];
    const float share = surface.weight[k];
    float moved[3];
    for (int row = 0; row < 3; ++row) {
      float total = 0;
      for (int column = 0; column < 4; ++column) {
        const float a = first[4 * row + column];
        total += (a + (second[4 * row + column] - a) * share) * (column < 3 ? vertex[column] : 1.0f);
      }
      moved[row] = total;
    }
    points[static_cast<size_t>(k)] = {moved[0], moved[1], moved[2]};
  }
}

uint8_t to_byte(float value) { return static_cast<uint8_t>(std::min(std::max(value, 0.0f), 1.0f) * 255.0f + 0.5f); }

// The pixels lo..hi of a row or column of n whose centers lie in [low, high].
void covered(float low, float high, int64_t n, int32_t& lo, int32_t& hi) {
  lo = static_cast<int32_t>(std::ceil(std::max(low - 0.5f, 0.0f)));
  hi = static_cast<int32_t>(std::floor(std::min(high - 0.5f, static_cast<float>(n - 1))));
}

// depth: [H, W], -infinity where nothing is drawn yet; iuv: [3, H, W].
void draw(const Surface& surface, const std::vector<Point>& points, uint32_t shown, int64_t H, int64_t W, float* depth,
          uint8_t* iuv) {
  const int64_t plane = H * W;
  for (int64_t f = 0; f < surface.F; ++f) {
    const int32_t ia = surface.faces[3 * f], ib = surface.faces[3 * f + 1], ic = surface.faces[3 * f + 2];
    const uint8_t part = surface.part[ia];
    if ((shown >> part & 1u) == 0) continue;
    const Point a = points[static_cast<size_t>(ia)], b = points[static_cast<size_t>(ib)],
                c = points[static_cast<size_t>(ic)];
    if (!usable(a) || !usable(b) || !usable(c)) continue;
    // y points down: counter-clockwise on paper is a positive area here.
    const float bx = b.x - a.x, by = b.y - a.y, cx = c.x - a.x, cy = c.y - a.y;
    const float area = cx * by - bx * cy;
    if (!(area > 1e-9f)) continue;
    int32_t x0, x1, y0, y1;
    covered(std::min({a.x, b.x, c.x}), std::max({a.x, b.x, c.x}), W, x0, x1);
    covered(std::min({a.y, b.y, c.y}), std::max({a.y, b.y, c.y}), H, y0, y1);
    if (x0 > x1 || y0 > y1) continue;
    const float inverse = 1.0f / area;
    const float* uva = surface.uv + 2 * ia;
    const float* uvb = surface.uv + 2 * ib;
    const float* uvc = surface.uv + 2 * ic;
    for (int32_t y = y0; y <= y1; ++y) {
      const float dy = static_cast<float>(y) + 0.5f - a.y;
      for (int32_t x = x0; x <= x1; ++x) {
        const float dx = static_cast<float>(x) + 0.5f - a.x;
        // Barycentric weights of b and c. An edge belongs to both of its triangles, so there is no gap.
        const float wb = (cx * dy - dx * cy) * inverse;
        const float wc = (dx * by - bx * dy) * inverse;
        if (!(wb >= -1e-5f && wc >= -1e-5f && wb + wc <= 1.0f + 1e-5f)) continue;
        const float z = a.z + wb * (b.z - a.z) + wc * (c.z - a.z);
        const int64_t pixel = static_cast<int64_t>(y) * W + x;
        if (!(z > depth[pixel])) continue;
        depth[pixel] = z;
        iuv[pixel] = part;
        iuv[plane + pixel] = to_byte(uva[0] + wb * (uvb[0] - uva[0]) + wc * (uvc[0] - uva[0]));
        iuv[2 * plane + pixel] = to_byte(uva[1] + wb * (uvb[1] - uva[1]) + wc * (uvc[1] - uva[1]));
      }
    }
  }
}

}  // namespace

void draw_bodies_cpu(const BodiesArgs& args) {
  const int64_t plane = args.H * args.W;
  const Surface& surface = args.surface;
  parallel_for(args.N, 3 * plane + 16 * (surface.V + surface.F), [&] {
    return [&, points = std::vector<Point>(static_cast<size_t>(surface.V)),
            depth = std::vector<float>(static_cast<size_t>(plane))](int64_t n) mutable {
      uint8_t* iuv = args.iuv + 3 * plane * n;
      std::fill_n(iuv, 3 * plane, uint8_t{0});
      if (args.shown[n] == 0 || plane == 0) return;
      std::fill(depth.begin(), depth.end(), -std::numeric_limits<float>::infinity());
      pose(surface, args.maps + 12 * args.J * n, points);
      draw(surface, points, static_cast<uint32_t>(args.shown[n]), args.H, args.W, depth.data(), iuv);
    };
  });
}

}  // namespace dsa_fast
