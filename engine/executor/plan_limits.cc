#include "engine/executor/plan_limits.h"

#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/scheduler/step_plan.h"
#include "engine/types.h"
#include "kernels/core/bit_mask.h"

namespace tessera {
namespace {

constexpr int64_t kMaxInt64 = std::numeric_limits<int64_t>::max();

// The format of step_plan_codec.cc: tag, step, flag, number of groups.
constexpr int64_t kPlanHeaderBytes = 4 + 8 + 1 + 4;
// Counts of the arrays of a BatchPlan, and its two scalars.
constexpr int64_t kGroupHeaderBytes = 4 * (10 + 22) + 4 * 2;
constexpr int64_t kTokenBytes = 4 * 4;     // token_ids, token_source, positions, slot_mapping
constexpr int64_t kSequenceBytes = 4 * 4;  // cu_seqlens, context_lens, copy_from, copy_to
// logits_rows; of the sampling arrays 16 of four bytes (offsets included) and seed.
constexpr int64_t kRowBytes = 4 + 16 * 4 + 8;
constexpr int64_t kOffsetBytes = 3 * 4;  // the offsets' last entries
constexpr int64_t kListEntryBytes = 2 * 4;
constexpr int64_t kWordBytes = 4;

int64_t LargestGroupBytes(const PlanLimits& limits) {
  const int64_t sequences = limits.max_num_seqs;
  const int64_t tokens = limits.max_tokens;  // each may have a row of logits
  return kGroupHeaderBytes + kOffsetBytes + tokens * (kTokenBytes + kRowBytes) +
         sequences * (kSequenceBytes + limits.max_blocks_per_sequence() * kWordBytes +
                      MaskWords(limits.vocab_size) * kWordBytes) +
         (limits.max_adjustments() + limits.max_listed()) * kListEntryBytes;
}

}  // namespace

int64_t PlanLimits::max_adjustments() const { return int64_t{max_num_seqs} * kMaxRowAdjustments; }

int64_t PlanLimits::max_listed() const { return MaxListedTokens(max_tokens, max_positions); }

int64_t LargestStepPlanBytes(const PlanLimits& limits) {
  const int64_t group = LargestGroupBytes(limits);
  if (group > (kMaxInt64 - kPlanHeaderBytes) / limits.num_groups) return kMaxInt64;
  return kPlanHeaderBytes + limits.num_groups * group;
}

absl::Status CheckPlansFit(const PlanLimits& limits, int64_t max_bytes) {
  const int64_t largest = LargestStepPlanBytes(limits);
  if (largest <= max_bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the plan of a step can have ", largest, " bytes, a message to the nodes holds ",
                   max_bytes, ": lower --max-num-seqs (", limits.max_num_seqs,
                   "), --max-model-len (", limits.max_positions, "), --max-num-batched-tokens (",
                   limits.max_tokens, ") or --data-parallel-size (", limits.num_groups, ")"));
}

absl::Status CheckStepPlanBytes(uint64_t step_id, int64_t bytes, const PlanLimits& limits) {
  const int64_t largest = LargestStepPlanBytes(limits);
  if (bytes <= largest) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the plan of step ", step_id, " has ", bytes,
                                          " bytes; within its limits it has at most ", largest,
                                          ", so it was not sent"));
}

}  // namespace tessera
