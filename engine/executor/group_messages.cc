#include "engine/executor/group_messages.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/executor/weight_digests.h"
#include "engine/model/shard.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// Collects the first line that is missing or unreadable.
class Lines {
 public:
  explicit Lines(const std::string& text) {
    for (absl::string_view line : absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      const std::pair<std::string, std::string> parts =
          absl::StrSplit(line, absl::MaxSplits(' ', 1));
      values_[parts.first] = parts.second;
    }
  }

  std::string Text(const char* name) {
    const auto found = values_.find(name);
    if (found != values_.end()) return found->second;
    Fail(name);
    return "";
  }
  int64_t Number(const char* name, int64_t low, int64_t high) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(Text(name), &value) || value < low || value > high) Fail(name);
    return std::clamp(value, low, high);
  }
  int32_t Int(const char* name, int32_t low, int32_t high) {
    return static_cast<int32_t>(Number(name, low, high));
  }
  const absl::Status& status() const { return status_; }

 private:
  void Fail(const char* name) {
    if (!status_.ok()) return;
    status_ = absl::InvalidArgumentError(
        absl::StrCat("the message of the other node has no usable '", name, "'"));
  }

  std::map<std::string, std::string> values_;
  absl::Status status_;
};

constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max();

}  // namespace

std::string EncodeGroupSettings(const GroupSettings& settings) {
  return absl::StrCat(
      "tensor_parallel ", settings.layout.tensor_parallel, "\ndata_parallel ",
      settings.layout.data_parallel, "\nexpert_parallel ", settings.layout.expert_parallel ? 1 : 0,
      "\nnodes ", settings.layout.nodes, "\nmoe_comm ", static_cast<int>(settings.moe_comm),
      "\nbackend ", settings.backend, "\ngemm ", settings.gemm, "\ndtype ",
      static_cast<int>(settings.dtype), "\nblock_size ", settings.limits.block_size,
      "\nmax_num_batched_tokens ", settings.limits.max_num_batched_tokens, "\nmax_num_seqs ",
      settings.limits.max_num_seqs, "\nexpert_rebalance_interval ", settings.rebalance.interval,
      "\nexpert_spare_slots ", settings.rebalance.spare_slots, "\nsteps_under_way ",
      settings.steps_under_way, "\nqueued_step_delay_us ",
      absl::ToInt64Microseconds(settings.queued_step_delay), "\nmax_model_len ",
      settings.limits.max_model_len, "\nstep_timeout_ms ",
      absl::ToInt64Milliseconds(settings.limits.step_timeout), "\n");
}

absl::StatusOr<GroupSettings> DecodeGroupSettings(const std::string& text,
                                                  const ModelConfig& config) {
  constexpr int32_t kMany = 1 << 24;
  Lines lines(text);
  GroupSettings settings;
  settings.layout = {.tensor_parallel = lines.Int("tensor_parallel", 1, kMany),
                     .data_parallel = lines.Int("data_parallel", 1, kMany),
                     .expert_parallel = lines.Int("expert_parallel", 0, 1) == 1,
                     .nodes = lines.Int("nodes", 1, kMany)};
  settings.moe_comm = static_cast<MoeComm>(lines.Int("moe_comm", 0, 2));
  settings.backend = lines.Text("backend");
  settings.gemm = lines.Text("gemm");
  settings.dtype = static_cast<DType>(lines.Int("dtype", 0, static_cast<int>(DType::kBF16)));
  settings.rebalance = {.interval = lines.Int("expert_rebalance_interval", 0, kMany),
                        .spare_slots = lines.Int("expert_spare_slots", 0, kMany)};
  settings.steps_under_way = lines.Int("steps_under_way", 0, 2);
  settings.queued_step_delay =
      absl::Microseconds(lines.Number("queued_step_delay_us", 0, 1LL << 40));
  settings.limits.block_size = lines.Int("block_size", 1, 1 << 16);
  settings.limits.max_num_batched_tokens = lines.Int("max_num_batched_tokens", 1, kMany);
  settings.limits.max_num_seqs = lines.Int("max_num_seqs", 1, kMany);
  settings.limits.max_model_len = lines.Int("max_model_len", 1, kMany);
  settings.limits.step_timeout = absl::Milliseconds(lines.Number("step_timeout_ms", 1, 1LL << 40));
  RETURN_IF_ERROR(lines.status());
  RETURN_IF_ERROR(ValidateLayout(settings.layout, LayoutShape(config)));
  RETURN_IF_ERROR(CheckRebalancing(settings.rebalance, settings.layout, config));
  if (settings.rebalance.interval == 0 && settings.rebalance.spare_slots > 0) {
    return absl::InvalidArgumentError("the head wants spare expert slots but no moves");
  }
  return settings;
}

std::string EncodeMemoryReport(const MemoryReport& report) {
  return absl::StrCat("weight_bytes ", report.weight_bytes, "\nbuffer_bytes ", report.buffer_bytes,
                      "\nkv_block_bytes ", report.kv_block_bytes, "\ngraph_bytes ",
                      report.graph_bytes, "\ndevice_bytes ", report.device_bytes,
                      "\ndevice_free_bytes ", report.device_free_bytes, "\n");
}

absl::StatusOr<MemoryReport> DecodeMemoryReport(const std::string& text) {
  Lines lines(text);
  const MemoryReport report{.weight_bytes = lines.Number("weight_bytes", 0, kMaxBytes),
                            .buffer_bytes = lines.Number("buffer_bytes", 0, kMaxBytes),
                            .kv_block_bytes = lines.Number("kv_block_bytes", 0, kMaxBytes),
                            .graph_bytes = lines.Number("graph_bytes", 0, kMaxBytes),
                            .device_bytes = lines.Number("device_bytes", 0, kMaxBytes),
                            .device_free_bytes = lines.Number("device_free_bytes", 0, kMaxBytes)};
  RETURN_IF_ERROR(lines.status());
  return report;
}

std::string EncodeLoadReport(const LoadReport& report) {
  return absl::StrCat(EncodeMemoryReport(report.memory), "tensor_digests ",
                      EncodeDigests(report.digests), "\n");
}

absl::StatusOr<LoadReport> DecodeLoadReport(const std::string& text) {
  Lines lines(text);
  const std::string digests = lines.Text("tensor_digests");
  RETURN_IF_ERROR(lines.status());
  LoadReport report;
  ASSIGN_OR_RETURN(report.memory, DecodeMemoryReport(text));
  ASSIGN_OR_RETURN(report.digests, DecodeDigests(digests));
  return report;
}

}  // namespace tessera
