// Tells how alike two images are:  consumer ENGINE IMAGE IMAGE
#include <dsa_fast/encoder.h>
#include <dsa_fast/image.h>
#include <dsa_fast/kernels/rank.h>

#include <cstdio>
#include <exception>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    dsa_fast::Encoder encoder = dsa_fast::Encoder::load(argv[1]);
    const auto size = static_cast<size_t>(encoder.height() * encoder.width() * 3);
    std::vector<uint8_t> images(2 * size);
    for (size_t i = 0; i < 2; ++i) {
      const dsa_fast::Image image = dsa_fast::read_image(argv[2 + i]);
      dsa_fast::resize(image, encoder.height(), encoder.width(), images.data() + i * size);
    }
    std::vector<float> vectors(2 * static_cast<size_t>(encoder.dim()));
    encoder.embed(images.data(), 2, vectors.data());

    const int64_t D = encoder.dim(), first = 0;
    double distance = 0;
    dsa_fast::pair_distances_cpu({{vectors.data(), false, 1},
                                  {vectors.data() + D, false, 1},
                                  D,
                                  dsa_fast::Metric::kCosine,
                                  &first,
                                  &first,
                                  1,
                                  &distance});
    std::printf("%.6f\n", 1 - distance);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
