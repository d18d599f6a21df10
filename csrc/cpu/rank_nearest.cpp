// nearest on the CPU; ../rank.h defines the results.
#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "rank_tiles.h"

namespace dsa_fast {

using namespace rank;

void nearest_cpu(const NearestArgs& a) {
  const int64_t Q = a.query.n, G = a.gallery.n;
  if (Q == 0) return;
  const Pair sides(a.query, a.gallery, a.D, a.metric);
  const Scorer scorer(sides, a.metric, nullptr);
  // Smaller blocks than for ranks: a query's candidates stay with one worker.
  const int64_t wanted = std::max<int64_t>(64, (Q + 4 * num_threads() - 1) / (4 * num_threads()));
  const int64_t block = even_block(Q, std::min({a.block, kMaxBlock, wanted}));
  const auto k = static_cast<size_t>(a.k);
  struct State {
    std::vector<Match> candidates;  // rough keys
    float limit = kInfinity;        // of the candidates' keys
    Match farthest{-kInfinity, 0};
  };
  parallel_for((Q + block - 1) / block, tile_elements(block, G, a.D), [&] {
    return [&, tiler = std::make_shared<Tiler>(scorer, block), states = std::vector<State>()](int64_t unit) mutable {
      const int64_t begin = unit * block, end = std::min(begin + block, Q);
      tiler->load(begin, end);
      states.assign(static_cast<size_t>(end - begin), State{});
      const auto shrink = [&](int64_t q, State& state) {
        auto& all = state.candidates;
        if (all.size() <= k) return;
        std::nth_element(all.begin(), all.begin() + a.k - 1, all.end(), before);
        const double limit = static_cast<double>(all[k - 1].key) + 2 * scorer.doubt(q, -1);
        state.limit = std::nextafter(static_cast<float>(limit), kInfinity);
        all.erase(std::remove_if(all.begin() + a.k, all.end(), [&](const Match& m) { return m.key > state.limit; }),
                  all.end());
      };
      for (int64_t tile = 0; tile < scorer.tiles(); ++tile) {
        tiler->run(tile, [&](int64_t q, const float* rough, const float* smallest, const float* largest) {
          State& state = states[static_cast<size_t>(q - begin)];
          for (int64_t c = 0; c < scorer.tile() / kChunk; ++c) {
            const int64_t first = tile * scorer.tile() + c * kChunk, n = std::min(kChunk, G - first);
            const float* chunk = rough + c * kChunk;
            if (largest[c] > state.farthest.key) {  // the padding is infinite, so largest may exceed all real keys
              for (int64_t j = 0; j < n; ++j) {
                if (chunk[j] > state.farthest.key) state.farthest = {chunk[j], first + j};
              }
            }
            if (smallest[c] > state.limit) continue;
            for (int64_t j = 0; j < n; ++j) {
              if (chunk[j] <= state.limit) state.candidates.push_back({chunk[j], first + j});
            }
            if (state.candidates.size() >= std::max<size_t>(4 * k, 256)) shrink(q, state);
          }
        });
      }
      for (int64_t q = begin; q < end; ++q) {
        State& state = states[static_cast<size_t>(q - begin)];
        shrink(q, state);
        if (state.candidates.size() < k) {  // distances that are NaN, which no bound admits
          state.candidates.clear();
          for (int64_t item = 0; item < G; ++item) state.candidates.push_back({kInfinity, item});
        }
        for (Match& match : state.candidates) {
          match.key = scorer.key(q, match.item);
          if (std::isnan(match.key)) match.key = kInfinity;  // NaN comes last
        }
        std::partial_sort(state.candidates.begin(), state.candidates.begin() + a.k, state.candidates.end(), before);
        int64_t* out = a.indices + q * (a.k + 1);
        for (size_t i = 0; i < k; ++i) out[i] = state.candidates[i].item;
        out[k] = state.farthest.item;
      }
    };
  });
}

}  // namespace dsa_fast
