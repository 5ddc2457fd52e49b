// The arithmetic of one warp of the attention kernel: 16 query rows against a tile of keys, on
// tensor cores for bfloat16, by FMA for fp32. Both leave the results where the tensor cores do:
// value [j][2 half + c] of a lane belongs to row 8 half + lane / 4 and column 8 j + lane % 4 * 2 +
// c.
#ifndef TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_TILE_H_
#define TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_TILE_H_

#include <limits>

#include "kernels/cuda/kernels/tiles.h"
#include "kernels/cuda/simt/ptx.h"
#include "kernels/cuda/simt/simt.h"

namespace tessera::cuda::attention {

namespace ptx = simt::ptx;
using simt::Bf16;

inline constexpr int kWarps = 4;
inline constexpr int kThreads = kWarps * simt::kWarpSize;
inline constexpr int kWarpRows = 16;
inline constexpr int kTileRows = kWarps * kWarpRows;
inline constexpr int kSpan = 256;  // positions that share a softmax before spans are merged
inline constexpr int kStages = 3;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

// T: type of keys and values. kDim: width of a head in shared memory, zeros beyond the real one.
template <typename T, int kDimension>
struct Shape {
  using Element = T;
  static constexpr int kDim = kDimension;
  static constexpr int kKeys = 64 / static_cast<int>(sizeof(T));  // positions of a tile
  static constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kDim / kPerChunk;  // of a row
  static constexpr int kKeyFragments = kKeys / 8;
  static constexpr int kDimFragments = kDim / 8;
  static constexpr int kTilesPerSpan = kSpan / kKeys;
  static constexpr int kCopiesAtATime = kKeys * kChunks / kThreads;

  // The first of the kPerChunk elements of a chunk in a tile of rows.
  SIMT_DEVICE static int ElementAt(int row, int chunk) {
    return SwizzledChunk<kChunks>(row, chunk) * kPerChunk;
  }
};

// A lane's part of the scores, then of the probabilities, of 16 rows and a tile of keys.
template <typename Shape>
using Scores = float[Shape::kKeyFragments][4];

// Probabilities of 16 neighbouring keys, from fragment `j` on, as the first operand of a product.
template <int kFragments>
SIMT_DEVICE void PackProbabilities(const float (&p)[kFragments][4], int j, uint32_t (&a)[4]) {
  a[0] = simt::PackBf16(p[j][0], p[j][1]);
  a[1] = simt::PackBf16(p[j][2], p[j][3]);
  a[2] = simt::PackBf16(p[j + 1][0], p[j + 1][1]);
  a[3] = simt::PackBf16(p[j + 1][2], p[j + 1][3]);
}

// What a softmax under way has seen of a lane's two rows: the maximum of the scores (in powers of
// two), and the sum of the probabilities relative to it. `sum` is that of the lane's own columns
// until SumLanes. Aligned as a compiler copies it at once.
struct alignas(16) Running {
  float maximum[2] = {-kInfinity, -kInfinity};
  float sum[2] = {0.0F, 0.0F};
};

// The softmax itself: with the sums of the weighted values, relative to the same maximum.
template <typename Shape>
struct Softmax : Running {
  float values[Shape::kDimFragments][4] = {};
};

SIMT_DEVICE float Larger(float a, float b) { return a > b ? a : b; }

// How two parts of a softmax are weighed when they become one.
struct MergeWeights {
  float kept;
  float added;
};
// `maximum` becomes that of both parts. A part without visible positions has the maximum -infinity
// and changes no bit of the other one.
SIMT_DEVICE MergeWeights Merge(float& maximum, float added) {
  const float kept = maximum;
  maximum = Larger(kept, added);
  const float base = maximum == -kInfinity ? 0.0F : maximum;
  return {ptx::Exp2(kept - base), ptx::Exp2(added - base)};
}
SIMT_DEVICE float Merged(const MergeWeights& weights, float kept, float added) {
  return simt::Fma(added, weights.added, kept * weights.kept);
}

template <typename Shape>
SIMT_DEVICE void MergeSpan(Softmax<Shape>& total, const Softmax<Shape>& span) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const MergeWeights weights = Merge(total.maximum[half], span.maximum[half]);
    total.sum[half] = Merged(weights, total.sum[half], span.sum[half]);
#pragma unroll
    for (int j = 0; j < Shape::kDimFragments; ++j) {
#pragma unroll
      for (int c = half * 2; c < half * 2 + 2; ++c) {
        total.values[j][c] = Merged(weights, total.values[j][c], span.values[j][c]);
      }
    }
  }
}

// Adds up the sums of the four lanes that share a row.
SIMT_DEVICE void SumLanes(Running& running) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    running.sum[half] += __shfl_xor_sync(simt::kFullMask, running.sum[half], 1);
    running.sum[half] += __shfl_xor_sync(simt::kFullMask, running.sum[half], 2);
  }
}

// Turns scores (-infinity where masked) into probabilities relative to the new maximum. What was
// summed before has to be multiplied by `corrections`; the sum of probabilities is.
template <int kFragments>
SIMT_DEVICE void Weigh(Running& running, float (&scores)[kFragments][4], float (&corrections)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = running.maximum[half];
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
      largest = Larger(largest, Larger(scores[j][half * 2], scores[j][half * 2 + 1]));
    }
    largest = Larger(largest, __shfl_xor_sync(simt::kFullMask, largest, 1));
    largest = Larger(largest, __shfl_xor_sync(simt::kFullMask, largest, 2));
    const float base = largest == -kInfinity ? 0.0F : largest;
    corrections[half] = ptx::Exp2(running.maximum[half] - base);
    running.maximum[half] = largest;
    running.sum[half] *= corrections[half];
#pragma unroll
    for (int j = 0; j < kFragments; ++j) {
#pragma unroll
      for (int c = half * 2; c < half * 2 + 2; ++c) {
        scores[j][c] = ptx::Exp2(scores[j][c] - base);
        running.sum[half] += scores[j][c];
      }
    }
  }
}

template <int kFragments>
SIMT_DEVICE void Correct(float (&values)[kFragments][4], const float (&corrections)[2]) {
#pragma unroll
  for (int j = 0; j < kFragments; ++j) {
#pragma unroll
    for (int v = 0; v < 4; ++v) values[j][v] *= corrections[v / 2];
  }
}

// Both for a tile whose values are added next.
template <typename Shape>
SIMT_DEVICE void Update(Softmax<Shape>& softmax, Scores<Shape>& scores) {
  float corrections[2];
  Weigh(softmax, scores, corrections);
  Correct(softmax.values, corrections);
}

// The products of a warp; `rows` is its 16 rows' place in the block's tile of queries.
template <typename T>
class Arithmetic;

template <>
class Arithmetic<Bf16> {
 public:
  // A warp's queries. They stay in shared memory: results of spans and of the total fill the
  // registers (head_dim 128: 128 of 255), and queries would take 32 more.
  template <typename Shape>
  struct Queries {
    const Bf16* q;
    int rows;
  };
  // Shared memory that a warp needs for itself.
  template <typename Shape>
  struct WarpShared {};

  template <typename Shape>
  SIMT_DEVICE static void LoadQueries(const Bf16* q, int rows, Queries<Shape>& queries) {
    queries.q = q;
    queries.rows = rows;
  }

  template <typename Shape>
  SIMT_DEVICE static void Score(const Queries<Shape>& queries, const Bf16* keys,
                                Scores<Shape>& scores) {
    const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
#pragma unroll
    for (int k = 0; k < Shape::kDim / 16; ++k) {
      uint32_t a[4];
      ptx::LdMatrixX4(a, &queries.q[Shape::ElementAt(queries.rows + lane % 16, k * 2 + lane / 16)]);
#pragma unroll
      for (int j = 0; j < Shape::kKeys / 16; ++j) {
        uint32_t b[4];
        ptx::LdMatrixX4(
            b, &keys[Shape::ElementAt(j * 16 + lane % 8 + lane / 16 * 8, k * 2 + lane / 8 % 2)]);
        ptx::MmaBf16(scores[j * 2], a, b[0], b[1]);
        ptx::MmaBf16(scores[j * 2 + 1], a, b[2], b[3]);
      }
    }
  }

  template <typename Shape>
  SIMT_DEVICE static void AddValues(const Scores<Shape>& p, const Bf16* values,
                                    WarpShared<Shape>& /*shared*/, Softmax<Shape>& softmax) {
    const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
#pragma unroll
    for (int i = 0; i < Shape::kKeys / 16; ++i) {
      uint32_t a[4];
      PackProbabilities(p, i * 2, a);
#pragma unroll
      for (int j = 0; j < Shape::kDim / 16; ++j) {
        uint32_t b[4];
        ptx::LdMatrixX4Trans(b, &values[Shape::ElementAt(i * 16 + lane % 16, j * 2 + lane / 16)]);
        ptx::MmaBf16(softmax.values[j * 2], a, b[0], b[1]);
        ptx::MmaBf16(softmax.values[j * 2 + 1], a, b[2], b[3]);
      }
    }
  }
};

template <>
class Arithmetic<float> {
 public:
  template <typename Shape>
  struct Queries {
    const float* q;  // the lane's first row is `row`
    int row;
  };
  template <typename Shape>
  struct WarpShared {
    alignas(16) float p[kWarpRows * Shape::kKeys];
  };

  template <typename Shape>
  SIMT_DEVICE static void LoadQueries(const float* q, int rows, Queries<Shape>& queries) {
    queries.q = q;
    queries.row = rows + static_cast<int>(threadIdx.x) % simt::kWarpSize / 4;
  }

  template <typename Shape>
  SIMT_DEVICE static void Score(const Queries<Shape>& queries, const float* keys,
                                Scores<Shape>& scores) {
    const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
#pragma unroll 2
    for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
      float a[2][4];
      LoadFour(a[0], &queries.q[Shape::ElementAt(queries.row, chunk)]);
      LoadFour(a[1], &queries.q[Shape::ElementAt(queries.row + 8, chunk)]);
#pragma unroll
      for (int j = 0; j < Shape::kKeyFragments * 2; ++j) {
        float b[4];
        LoadFour(b, &keys[Shape::ElementAt(j / 2 * 8 + lane % 4 * 2 + j % 2, chunk)]);
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& score = scores[j / 2][half * 2 + j % 2];
#pragma unroll
          for (int e = 0; e < 4; ++e) score = simt::Fma(a[half][e], b[e], score);
        }
      }
    }
  }

  template <typename Shape>
  SIMT_DEVICE static void AddValues(const Scores<Shape>& p, const float* values,
                                    WarpShared<Shape>& shared, Softmax<Shape>& softmax) {
    const int lane = static_cast<int>(threadIdx.x) % simt::kWarpSize;
    __syncwarp();  // the probabilities of the tile before have been read
#pragma unroll
    for (int j = 0; j < Shape::kKeyFragments; ++j) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        shared.p[PlaceOf<Shape>(v / 2 * 8 + lane / 4, j * 8 + lane % 4 * 2 + v % 2)] = p[j][v];
      }
    }
    __syncwarp();
#pragma unroll 1
    for (int key = 0; key < Shape::kKeys; ++key) {
      const float weights[2] = {shared.p[PlaceOf<Shape>(lane / 4, key)],
                                shared.p[PlaceOf<Shape>(lane / 4 + 8, key)]};
#pragma unroll
      for (int j = 0; j < Shape::kDimFragments; ++j) {
        const float* value = &values[Shape::ElementAt(key, j * 2 + lane % 4 / 2) + lane % 2 * 2];
#pragma unroll
        for (int v = 0; v < 4; ++v) {
          softmax.values[j][v] = simt::Fma(weights[v / 2], value[v % 2], softmax.values[j][v]);
        }
      }
    }
  }

 private:
  // Of a probability: rows that are read together lie in different banks.
  template <typename Shape>
  SIMT_DEVICE static int PlaceOf(int row, int key) {
    return row * Shape::kKeys + (key ^ (row / 2 % 4 * 4));
  }
};

}  // namespace tessera::cuda::attention

#endif  // TESSERA_KERNELS_CUDA_KERNELS_ATTENTION_TILE_H_
