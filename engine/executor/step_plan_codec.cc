#include "engine/executor/step_plan_codec.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "kernels/core/bit_mask.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint32_t kPlanTag = 0x33505354;    // "TSP3"
constexpr uint32_t kResultTag = 0x32525354;  // "TSR2"

class Writer {
 public:
  template <typename T>
  void Scalar(const T& value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  template <typename T>
  void Array(const std::vector<T>& values) {
    Scalar(static_cast<uint32_t>(values.size()));
    bytes_.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
  }
  std::string Take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Running out of bytes is sticky; what is read afterwards is zero or empty.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  template <typename T>
  void Scalar(T& value) {
    if (Take(sizeof(T))) std::memcpy(&value, taken_, sizeof(T));
  }
  template <typename T>
  void Array(std::vector<T>& values) {
    uint32_t count = 0;
    Scalar(count);
    const size_t size = size_t{count} * sizeof(T);
    if (!Take(size)) return;
    values.resize(count);
    if (size > 0) std::memcpy(values.data(), taken_, size);
  }
  absl::Status Finish(const char* what) const {
    if (truncated_) return absl::InvalidArgumentError(absl::StrCat(what, " is truncated"));
    if (bytes_.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(what, " has ", bytes_.size(), " bytes too many"));
  }
  bool truncated() const { return truncated_; }

 private:
  bool Take(size_t size) {
    if (truncated_ || bytes_.size() < size) {
      truncated_ = true;
      return false;
    }
    taken_ = bytes_.data();
    bytes_.remove_prefix(size);
    return true;
  }

  std::string_view bytes_;
  const char* taken_ = nullptr;
  bool truncated_ = false;
};

template <typename Archive, typename Plan>
void SamplingFields(Archive& archive, Plan& plan) {
  archive.Array(plan.forced);
  archive.Array(plan.temperature);
  archive.Array(plan.top_k);
  archive.Array(plan.top_p);
  archive.Array(plan.min_p);
  archive.Array(plan.repetition_penalty);
  archive.Array(plan.presence_penalty);
  archive.Array(plan.frequency_penalty);
  archive.Array(plan.seed);
  archive.Array(plan.position);
  archive.Array(plan.num_logprobs);
  archive.Array(plan.penalty_slot);
  archive.Array(plan.penalty_reset);
  archive.Array(plan.pen_offsets);
  archive.Array(plan.pen_tokens);
  archive.Array(plan.pen_counts);
  archive.Array(plan.adj_offsets);
  archive.Array(plan.adj_tokens);
  archive.Array(plan.adj_values);
  archive.Scalar(plan.num_masks);
  archive.Array(plan.masks);
  archive.Array(plan.mask_row);
  archive.Array(plan.mask_penalty);
}

template <typename Archive, typename Plan>
void BatchFields(Archive& archive, Plan& plan) {
  archive.Array(plan.token_ids);
  archive.Array(plan.token_source);
  archive.Array(plan.positions);
  archive.Array(plan.slot_mapping);
  archive.Array(plan.cu_seqlens);
  archive.Array(plan.context_lens);
  archive.Scalar(plan.max_blocks);
  archive.Array(plan.block_tables);
  archive.Array(plan.logits_rows);
  SamplingFields(archive, plan.sampling);
  archive.Array(plan.copy_from);
  archive.Array(plan.copy_to);
}

template <typename Archive, typename Result>
void ResultFields(Archive& archive, Result& result) {
  archive.Array(result.token);
  archive.Array(result.logprob);
  archive.Array(result.rank);
  archive.Scalar(result.num_top);
  archive.Array(result.top_tokens);
  archive.Array(result.top_logprobs);
  archive.Array(result.logits);
}

template <typename Archive, typename Report>
void ReportFields(Archive& archive, Report& report) {
  archive.Scalar(report.rank);
  archive.Scalar(report.step_seconds);
  for (auto& seconds : report.collective_seconds) archive.Scalar(seconds);
  auto timed = static_cast<uint8_t>(report.collectives_timed);
  archive.Scalar(timed);
  if constexpr (!std::is_const_v<Report>) report.collectives_timed = timed != 0;
  archive.Scalar(report.host_gap_seconds);
  archive.Scalar(report.expert_rows);
  archive.Scalar(report.moved_bytes);
}

// Collects the first thing that is wrong with one group.
class GroupCheck {
 public:
  explicit GroupCheck(std::string where) : where_(std::move(where)) {}

  void Require(bool holds, const char* field, const char* what) {
    if (!holds && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", field, ": ", what));
    }
  }
  template <typename T>
  void Size(const char* field, const std::vector<T>& values, int64_t expected) {
    if (static_cast<int64_t>(values.size()) == expected || !status_.ok()) return;
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", field, " has ", values.size(),
                                                      " entries instead of ", expected));
  }
  // Every value in [low, high).
  void Range(const char* field, const std::vector<int32_t>& values, int64_t low, int64_t high) {
    for (size_t i = 0; i < values.size() && status_.ok(); ++i) {
      if (values[i] >= low && values[i] < high) continue;
      status_ = absl::InvalidArgumentError(absl::StrCat(
          where_, ": ", field, "[", i, "] is ", values[i], ", outside [", low, ", ", high, ")"));
    }
  }
  // 0 = values[0] <= values[1] … = total; strictly growing when `strict`.
  void Offsets(const char* field, const std::vector<int32_t>& values, int64_t total, bool strict) {
    if (!status_.ok()) return;
    Require(!values.empty() && values.front() == 0 && values.back() == total, field,
            "must run from 0 to the number of entries");
    Ascending(field, values, strict);
  }
  void Ascending(const char* field, const std::vector<int32_t>& values, bool strict) {
    for (size_t i = 1; i < values.size() && status_.ok(); ++i) {
      Require(values[i - 1] < values[i] || (!strict && values[i - 1] == values[i]), field,
              "must ascend");
    }
  }
  void NoNan(const char* field, const std::vector<float>& values) {
    for (float value : values) Require(value == value, field, "holds NaN");
  }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

 private:
  const std::string where_;
  absl::Status status_;
};

// Rows take turns on no slot, and only rows that reset one list anything.
void CheckPenalties(const SamplingPlan& plan, const PlanLimits& limits, GroupCheck* check) {
  const auto rows = static_cast<int64_t>(plan.forced.size());
  check->Size("penalty_slot", plan.penalty_slot, rows);
  check->Range("penalty_slot", plan.penalty_slot, -1, limits.max_num_seqs);
  check->Size("penalty_reset", plan.penalty_reset, rows);
  check->Range("penalty_reset", plan.penalty_reset, 0, 2);
  check->Size("pen_offsets", plan.pen_offsets, rows + 1);
  check->Offsets("pen_offsets", plan.pen_offsets, static_cast<int64_t>(plan.pen_tokens.size()),
                 false);
  check->Size("pen_counts", plan.pen_counts, static_cast<int64_t>(plan.pen_tokens.size()));
  check->Range("pen_counts", plan.pen_counts, 0, int64_t{limits.max_positions} + 1);
  check->Range("pen_tokens", plan.pen_tokens, 0, limits.vocab_size);
  check->Require(static_cast<int64_t>(plan.pen_tokens.size()) <= limits.max_listed(), "pen_tokens",
                 "more than the lists of a step may have");
  std::vector<bool> taken(limits.max_num_seqs, false);
  for (int64_t n = 0; n < rows && check->ok(); ++n) {
    const int32_t slot = plan.penalty_slot[n];
    const bool lists = plan.pen_offsets[n + 1] > plan.pen_offsets[n];
    check->Require(slot >= 0 || plan.penalty_reset[n] == 0, "penalty_reset", "without a slot");
    check->Require(!lists || plan.penalty_reset[n] == 1, "pen_offsets", "a list without a reset");
    if (slot < 0) continue;
    check->Require(!taken[slot], "penalty_slot", "two rows have the same");
    taken[slot] = true;
  }
}

void CheckSampling(const SamplingPlan& plan, int64_t rows, const PlanLimits& limits,
                   GroupCheck* check) {
  const int32_t vocab = limits.vocab_size;
  check->Size("forced", plan.forced, rows);
  std::vector<int32_t> tokens = plan.forced;
  std::replace(tokens.begin(), tokens.end(), kCandidateRow, -1);
  check->Range("forced", tokens, -1, vocab);
  const std::pair<const char*, const std::vector<float>*> floats[] = {
      {"temperature", &plan.temperature},
      {"top_p", &plan.top_p},
      {"min_p", &plan.min_p},
      {"repetition_penalty", &plan.repetition_penalty},
      {"presence_penalty", &plan.presence_penalty},
      {"frequency_penalty", &plan.frequency_penalty},
      {"mask_penalty", &plan.mask_penalty}};
  for (const auto& [name, values] : floats) {
    check->Size(name, *values, rows);
    check->NoNan(name, *values);
  }
  check->Size("top_k", plan.top_k, rows);
  check->Size("seed", plan.seed, rows);
  check->Size("position", plan.position, rows);
  check->Size("num_logprobs", plan.num_logprobs, rows);
  check->Range("num_logprobs", plan.num_logprobs, -1, int64_t{vocab} + 1);
  CheckPenalties(plan, limits, check);
  for (int64_t n = 0; n < rows && check->ok(); ++n) {
    const bool draws = plan.temperature[n] != 0.0F || plan.penalty_slot[n] >= 0;
    check->Require(plan.forced[n] != kCandidateRow || (!draws && plan.num_logprobs[n] >= 0),
                   "forced", "candidates of a row that draws");
  }
  check->Size("adj_offsets", plan.adj_offsets, rows + 1);
  check->Offsets("adj_offsets", plan.adj_offsets, static_cast<int64_t>(plan.adj_tokens.size()),
                 false);
  check->Size("adj_values", plan.adj_values, static_cast<int64_t>(plan.adj_tokens.size()));
  check->Range("adj_tokens", plan.adj_tokens, 0, vocab);
  check->Require(static_cast<int64_t>(plan.adj_tokens.size()) <= limits.max_adjustments(),
                 "adj_tokens", "more than the sequences of a step may have");
  check->NoNan("adj_values", plan.adj_values);
  const int64_t most_masks = std::min<int64_t>(rows, limits.max_num_seqs);
  check->Require(plan.num_masks >= 0 && plan.num_masks <= most_masks, "num_masks",
                 "more masks than rows that draw");
  check->Size("masks", plan.masks, plan.num_masks * MaskWords(vocab));
  check->Size("mask_row", plan.mask_row, rows);
  check->Range("mask_row", plan.mask_row, -1, plan.num_masks);
}

void CheckTokens(const BatchPlan& plan, const PlanLimits& limits, GroupCheck* check) {
  const auto tokens = static_cast<int64_t>(plan.token_ids.size());
  check->Require(tokens <= limits.max_tokens, "token_ids", "more tokens than a step may have");
  check->Range("token_ids", plan.token_ids, -1, limits.vocab_size);
  check->Size("token_source", plan.token_source, tokens);
  check->Range("token_source", plan.token_source, -1, limits.max_tokens);
  for (int64_t t = 0; t < tokens && check->ok(); ++t) {
    check->Require((plan.token_ids[t] < 0) == (plan.token_source[t] >= 0), "token_source",
                   "a token needs exactly one source");
  }
  check->Size("positions", plan.positions, tokens);
  check->Range("positions", plan.positions, 0, limits.max_positions);
  check->Size("slot_mapping", plan.slot_mapping, tokens);
  check->Range("slot_mapping", plan.slot_mapping, 0,
               int64_t{limits.num_blocks} * limits.block_size);
  check->Require(static_cast<int64_t>(plan.logits_rows.size()) <= tokens, "logits_rows",
                 "more rows than tokens");
  check->Range("logits_rows", plan.logits_rows, 0, tokens);
  check->Ascending("logits_rows", plan.logits_rows, true);
}

void CheckSequences(const BatchPlan& plan, const PlanLimits& limits, GroupCheck* check) {
  const auto sequences = static_cast<int64_t>(plan.context_lens.size());
  check->Size("cu_seqlens", plan.cu_seqlens, sequences + 1);
  check->Offsets("cu_seqlens", plan.cu_seqlens, static_cast<int64_t>(plan.token_ids.size()), true);
  check->Range("context_lens", plan.context_lens, 1, int64_t{limits.max_positions} + 1);
  check->Require(sequences <= limits.max_num_seqs, "context_lens",
                 "more sequences than a step may have");
  // A table may be wider than the storage: what it names is in there.
  check->Require(plan.max_blocks >= 0, "max_blocks", "negative");
  check->Require(plan.max_blocks <= limits.max_blocks_per_sequence(), "max_blocks",
                 "more than the longest sequence has");
  check->Size("block_tables", plan.block_tables, sequences * plan.max_blocks);
  check->Range("block_tables", plan.block_tables, -1, limits.num_blocks);
  for (int64_t s = 0; s < sequences && check->ok(); ++s) {
    const int32_t context = plan.context_lens[s];
    const int32_t begin = plan.cu_seqlens[s];
    const int32_t rows = plan.cu_seqlens[s + 1] - begin;
    check->Require(context <= int64_t{plan.max_blocks} * limits.block_size, "context_lens",
                   "reaches beyond the block table");
    check->Require(rows <= context, "context_lens", "shorter than the tokens of the step");
    const int32_t needed = (context + limits.block_size - 1) / limits.block_size;
    for (int32_t i = 0; i < needed && check->ok(); ++i) {
      check->Require(plan.block_tables[s * plan.max_blocks + i] >= 0, "block_tables",
                     "no block where the context needs one");
    }
    for (int32_t i = 0; i < rows && check->ok(); ++i) {
      check->Require(plan.positions[begin + i] == context - rows + i, "positions",
                     "not the last positions of the context");
    }
  }
}

// A rank copies all of them at once.
void CheckCopies(const BatchPlan& plan, const PlanLimits& limits, GroupCheck* check) {
  check->Require(static_cast<int64_t>(plan.copy_from.size()) <= limits.max_num_seqs, "copy_from",
                 "more copies than sequences");
  check->Size("copy_to", plan.copy_to, static_cast<int64_t>(plan.copy_from.size()));
  check->Range("copy_from", plan.copy_from, 0, limits.num_blocks);
  check->Range("copy_to", plan.copy_to, 0, limits.num_blocks);
  if (!check->ok()) return;
  std::vector<int32_t> used = plan.copy_from;
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  used.insert(used.end(), plan.copy_to.begin(), plan.copy_to.end());
  std::sort(used.begin(), used.end());
  check->Require(std::adjacent_find(used.begin(), used.end()) == used.end(), "copy_to",
                 "a block is in two pairs");
}

absl::Status CheckResult(const BatchResult& result, int32_t group, const PlanLimits& limits) {
  GroupCheck check(absl::StrCat("result of group ", group));
  const auto rows = static_cast<int64_t>(result.token.size());
  check.Range("token", result.token, -1, limits.vocab_size);
  check.Size("logprob", result.logprob, rows);
  check.Size("rank", result.rank, rows);
  check.Require(result.num_top >= 0 && result.num_top <= limits.vocab_size, "num_top",
                "outside the vocabulary");
  check.Size("top_tokens", result.top_tokens, rows * result.num_top);
  check.Size("top_logprobs", result.top_logprobs, rows * result.num_top);
  check.Require(result.logits.empty() ||
                    static_cast<int64_t>(result.logits.size()) == rows * limits.vocab_size,
                "logits", "neither absent nor one row per result");
  return check.status();
}

absl::Status CheckReports(const std::vector<RankReport>& reports, const PlanLimits& limits) {
  GroupCheck check("rank reports");
  std::vector<int32_t> ranks;
  for (const RankReport& report : reports) {
    ranks.push_back(report.rank);
    const auto is_time = [](float seconds) { return std::isfinite(seconds) && seconds >= 0; };
    check.Require(is_time(report.step_seconds), "step_seconds", "not a time");
    check.Require(is_time(report.host_gap_seconds), "host_gap_seconds", "not a time");
    for (float seconds : report.collective_seconds) {
      check.Require(is_time(seconds), "collective_seconds", "not a time");
    }
    check.Require(report.expert_rows >= 0, "expert_rows", "negative");
    check.Require(report.moved_bytes >= 0, "moved_bytes", "negative");
  }
  check.Range("rank", ranks, 0, limits.num_ranks);
  check.Ascending("rank", ranks, true);
  return check.status();
}

// A group without work may leave its offsets out; kernels want them.
void CompleteIdleGroup(BatchPlan* plan) {
  if (!plan->context_lens.empty() || !plan->logits_rows.empty()) return;
  for (std::vector<int32_t>* offsets :
       {&plan->cu_seqlens, &plan->sampling.pen_offsets, &plan->sampling.adj_offsets}) {
    if (offsets->empty()) *offsets = {0};
  }
}

}  // namespace

absl::Status ValidateStepPlan(const StepPlan& plan, const PlanLimits& limits) {
  if (static_cast<int64_t>(plan.groups.size()) != limits.num_groups) {
    return absl::InvalidArgumentError(absl::StrCat("step ", plan.step_id, " has ",
                                                   plan.groups.size(), " groups instead of ",
                                                   limits.num_groups));
  }
  for (size_t group = 0; group < plan.groups.size(); ++group) {
    const BatchPlan& batch = plan.groups[group];
    GroupCheck check(absl::StrCat("step ", plan.step_id, ", group ", group));
    CheckTokens(batch, limits, &check);
    CheckSequences(batch, limits, &check);
    CheckCopies(batch, limits, &check);
    CheckSampling(batch.sampling, static_cast<int64_t>(batch.logits_rows.size()), limits, &check);
    RETURN_IF_ERROR(check.status());
  }
  return absl::OkStatus();
}

std::string EncodeStepPlan(const StepPlan& plan) {
  Writer writer;
  writer.Scalar(kPlanTag);
  writer.Scalar(plan.step_id);
  writer.Scalar(static_cast<uint8_t>(plan.return_logits));
  writer.Scalar(static_cast<uint32_t>(plan.groups.size()));
  for (const BatchPlan& batch : plan.groups) BatchFields(writer, batch);
  return writer.Take();
}

absl::StatusOr<StepPlan> DecodeStepPlan(std::string_view bytes, const PlanLimits& limits) {
  Reader reader(bytes);
  uint32_t tag = 0;
  uint32_t groups = 0;
  uint8_t return_logits = 0;
  StepPlan plan;
  reader.Scalar(tag);
  if (tag != kPlanTag) return absl::InvalidArgumentError("the bytes are not a step plan");
  reader.Scalar(plan.step_id);
  reader.Scalar(return_logits);
  plan.return_logits = return_logits != 0;
  reader.Scalar(groups);
  for (uint32_t i = 0; i < groups && !reader.truncated(); ++i) {
    BatchFields(reader, plan.groups.emplace_back());
  }
  RETURN_IF_ERROR(reader.Finish("the step plan"));
  for (BatchPlan& batch : plan.groups) CompleteIdleGroup(&batch);
  RETURN_IF_ERROR(ValidateStepPlan(plan, limits));
  return plan;
}

std::string EncodeNodeStepResult(const NodeStepResult& result) {
  Writer writer;
  writer.Scalar(kResultTag);
  writer.Scalar(result.step_id);
  writer.Array(result.group_ids);
  for (const BatchResult& group : result.groups) ResultFields(writer, group);
  writer.Scalar(static_cast<uint32_t>(result.ranks.size()));
  for (const RankReport& report : result.ranks) ReportFields(writer, report);
  return writer.Take();
}

absl::StatusOr<NodeStepResult> DecodeNodeStepResult(std::string_view bytes,
                                                    const PlanLimits& limits) {
  Reader reader(bytes);
  uint32_t tag = 0;
  NodeStepResult result;
  reader.Scalar(tag);
  if (tag != kResultTag) return absl::InvalidArgumentError("the bytes are not a step result");
  reader.Scalar(result.step_id);
  reader.Array(result.group_ids);
  GroupCheck check(absl::StrCat("result of step ", result.step_id));
  check.Range("group_ids", result.group_ids, 0, limits.num_groups);
  check.Ascending("group_ids", result.group_ids, true);
  RETURN_IF_ERROR(check.status());
  for (size_t i = 0; i < result.group_ids.size() && !reader.truncated(); ++i) {
    ResultFields(reader, result.groups.emplace_back());
  }
  uint32_t reports = 0;
  reader.Scalar(reports);
  for (uint32_t i = 0; i < reports && !reader.truncated(); ++i) {
    ReportFields(reader, result.ranks.emplace_back());
  }
  RETURN_IF_ERROR(reader.Finish("the step result"));
  RETURN_IF_ERROR(CheckReports(result.ranks, limits));
  for (size_t i = 0; i < result.groups.size(); ++i) {
    RETURN_IF_ERROR(CheckResult(result.groups[i], result.group_ids[i], limits));
  }
  return result;
}

}  // namespace tessera
