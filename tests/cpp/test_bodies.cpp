// Compares drawn bodies with a plain loop over pixels and triangles that follows csrc/bodies.h.
#include <cmath>
#include <limits>

#include "../../csrc/bodies.h"
#include "scaffold.h"

namespace {

struct Scene {
  int64_t V, F, N, J, H, W;
  std::vector<float> vertices, uv, weight, maps;
  std::vector<uint8_t> part;
  std::vector<int32_t> bones, faces, shown;
};

// Triangles with corners on quarters of pixels, each at its own depth: no comparison below is close. A few are not
// finite or far away. Bones shift by quarters only.
Scene make_scene(int64_t F, int64_t N, int64_t H, int64_t W) {
  Scene s{3 * F, F, N, 3, H, W, {}, {}, {}, {}, {}, {}, {}, {}};
  const auto quarters = [&](int64_t low, int64_t high) {
    return static_cast<float>(low * 4 + static_cast<int64_t>(rng() % static_cast<uint64_t>((high - low) * 4))) / 4;
  };
  for (int64_t f = 0; f < F; ++f) {
    const uint8_t part = static_cast<uint8_t>(1 + rng() % 24);
    const float x = quarters(-6, W + 6), y = quarters(-6, H + 6), z = static_cast<float>(f * 7 % F);
    const bool bad = rng() % 16 == 0;
    for (int k = 0; k < 3; ++k) {
      s.vertices.insert(s.vertices.end(), {x + quarters(-9, 9), y + quarters(-9, 9), z});
      if (bad && k == 1) {
        const float values[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 2e6f,
                                -3e38f};
        s.vertices[s.vertices.size() - 1 - rng() % 3] = values[rng() % 4];
      }
      s.uv.insert(s.uv.end(), {static_cast<float>(rng() % 256) / 255, static_cast<float>(rng() % 256) / 255});
      s.part.push_back(part);
      const int32_t bone = static_cast<int32_t>(rng() % 3);
      s.bones.insert(s.bones.end(), {bone, static_cast<int32_t>(rng() % 3)});
      s.weight.push_back(static_cast<float>(rng() % 2));
      s.faces.push_back(static_cast<int32_t>(3 * f + k));
    }
  }
  for (int64_t n = 0; n < N; ++n) {
    s.shown.push_back(n == 0 ? 0 : static_cast<int32_t>(rng() % (1u << 25)));
    for (int64_t j = 0; j < s.J; ++j) {
      s.maps.insert(s.maps.end(), {1, 0, 0, quarters(-2, 2), 0, 1, 0, quarters(-2, 2), 0, 0, 1, 0});
    }
  }
  return s;
}

std::vector<uint8_t> draw_plainly(const Scene& s) {
  std::vector<uint8_t> iuv(static_cast<size_t>(s.N * 3 * s.H * s.W), 0);
  for (int64_t n = 0; n < s.N; ++n) {
    for (int64_t y = 0; y < s.H; ++y) {
      for (int64_t x = 0; x < s.W; ++x) {
        double nearest = -std::numeric_limits<double>::infinity();
        for (int64_t f = 0; f < s.F; ++f) {
          double p[3][3];
          bool usable = true;
          for (int k = 0; k < 3; ++k) {
            const size_t v = static_cast<size_t>(s.faces[static_cast<size_t>(3 * f + k)]);
            const int32_t bone = s.bones[2 * v + (s.weight[v] > 0.5f ? 1 : 0)];
            for (int row = 0; row < 3; ++row) {
              p[k][row] = static_cast<double>(s.vertices[3 * v + static_cast<size_t>(row)]) +
                          static_cast<double>(s.maps[static_cast<size_t>((n * s.J + bone) * 12 + 4 * row + 3)]);
              usable = usable && std::abs(p[k][row]) <= 1e6;
            }
            // A value that is not finite spoils its vertex's other two: 0 times it is not a number.
            for (int row = 0; row < 3; ++row) {
              usable = usable && std::isfinite(s.vertices[3 * v + static_cast<size_t>(row)]);
            }
          }
          const uint8_t part = s.part[static_cast<size_t>(3 * f)];
          if (!usable || (s.shown[static_cast<size_t>(n)] >> part & 1) == 0) continue;
          const auto twice = [](const double* a, const double* b, double cx, double cy) {
            return (cx - a[0]) * (b[1] - a[1]) - (b[0] - a[0]) * (cy - a[1]);
          };
          const double area = twice(p[0], p[1], p[2][0], p[2][1]);
          const double px = static_cast<double>(x) + 0.5, py = static_cast<double>(y) + 0.5;
          const double wa = twice(p[1], p[2], px, py) / area, wb = twice(p[2], p[0], px, py) / area,
                       wc = twice(p[0], p[1], px, py) / area;
          if (!(area > 0) || wa < 0 || wb < 0 || wc < 0) continue;
          const double z = wa * p[0][2] + wb * p[1][2] + wc * p[2][2];
          if (!(z > nearest + 1e-6)) continue;
          nearest = z;
          const size_t pixel = static_cast<size_t>((n * 3 * s.H + y) * s.W + x), plane = static_cast<size_t>(s.H * s.W);
          iuv[pixel] = part;
          for (size_t k = 0; k < 2; ++k) {
            const size_t v = static_cast<size_t>(3 * f);
            const double value = wa * static_cast<double>(s.uv[2 * v + k]) +
                                 wb * static_cast<double>(s.uv[2 * v + 2 + k]) +
                                 wc * static_cast<double>(s.uv[2 * v + 4 + k]);
            iuv[pixel + (k + 1) * plane] = static_cast<uint8_t>(value * 255 + 0.5);
          }
        }
      }
    }
  }
  return iuv;
}

void run(int64_t F, int64_t N, int64_t H, int64_t W) {
  const std::string name = "F, N, H, W " + show({F, N, H, W});
  const Scene s = make_scene(F, N, H, W);
  const std::vector<uint8_t> expected = draw_plainly(s);
  std::vector<uint8_t> iuv(expected.size(), 77);
  draw_bodies_cpu(
      {{s.vertices.data(), s.uv.data(), s.part.data(), s.bones.data(), s.weight.data(), s.faces.data(), s.V, s.F},
       s.maps.data(),
       s.shown.data(),
       iuv.data(),
       N,
       s.J,
       H,
       W});
  const size_t plane = static_cast<size_t>(H * W);
  for (size_t k = 0; k < iuv.size(); ++k) {
    const bool is_part = k / plane % 3 == 0;
    const int difference = std::abs(static_cast<int>(iuv[k]) - static_cast<int>(expected[k]));
    // u and v may round the other way in float32.
    check(difference <= (is_part ? 0 : 1), name + ": element " + std::to_string(k));
  }
}

}  // namespace

void run_tests(const std::vector<std::string>&) {
  rng.seed(5);
  for (const int64_t F : {0, 1, 40, 300}) {
    for (const int64_t N : {0, 1, 2, 9}) {
      run(F, N, 1, 1);
      run(F, N, 24, 12);
      run(F, N, 7, 33);
    }
  }
  run(5, 3, 0, 8);
}
