// Sequence parallelism: between the blocks of a layer every rank of a tensor-parallel group keeps
// the residual stream of an equal part of the group's rows, so that norms and routing are done once
// and not by every rank. A block's input is gathered, its output scattered as it is summed. Steps
// with few rows stay whole: there one all-reduce is quicker than two collectives.
#ifndef TESSERA_ENGINE_MODEL_ROW_SHARE_H_
#define TESSERA_ENGINE_MODEL_ROW_SHARE_H_

#include <algorithm>
#include <cstdint>

namespace tessera {

// Rows of a part, rounded up.
inline int64_t RowsPerRank(int64_t rows, int32_t tp_size) { return (rows + tp_size - 1) / tp_size; }

// This rank's rows of its group's step: [begin, begin + count).
struct RowShare {
  bool divided = false;
  int64_t part = 0;  // what collectives move for each rank: count and, on the last ranks, padding
  int64_t begin = 0;
  int64_t count = 0;
};

inline RowShare AllRows(int64_t rows) { return {.part = rows, .count = rows}; }

inline RowShare PartOfRows(int64_t rows, int32_t tp_size, int32_t tp_rank) {
  const int64_t part = RowsPerRank(rows, tp_size);
  const int64_t begin = part * tp_rank;
  return {.divided = true,
          .part = part,
          .begin = begin,
          .count = std::clamp<int64_t>(rows - begin, 0, part)};
}

// Whether a step of that many rows per group pays for the second collective.
inline bool WorthDividing(int64_t rows, int32_t tp_size) { return rows >= 2 * int64_t{tp_size}; }

// Rows of logits that are computed in one pass over the output head: all that a step draws, and
// enough to score prompts by.
constexpr int32_t LogitsRowsPerPass(int32_t max_num_seqs) { return std::max(64, max_num_seqs); }

}  // namespace tessera

#endif  // TESSERA_ENGINE_MODEL_ROW_SHARE_H_
