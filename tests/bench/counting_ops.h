// A backend that computes nothing: it writes down what each operation would have to move and to
// compute. Memory is addresses without anything behind them, so any model fits.
#ifndef TESSERA_TESTS_BENCH_COUNTING_OPS_H_
#define TESSERA_TESTS_BENCH_COUNTING_OPS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/ops.h"

namespace tessera {

// One operation, or one collective when `sent` is more than 0 or `ranks` more than 1.
struct CountedOperation {
  std::string_view name;
  double bytes = 0;  // of device memory, each input read once, each result written once
  double flops = 0;
  double sent = 0;  // bytes that one rank sends, as a ring would
  int ranks = 1;
};

// What the sizes of arguments do not say: it lies in device memory.
struct CountedBatch {
  int64_t query = 0;    // tokens of every sequence in the step
  int64_t context = 0;  // positions of every sequence, these tokens included
  // Tokens choose top_k of all experts, each set as likely as any other; counted is the mean rank.
  int64_t num_experts = 0;
  int64_t top_k = 0;
};

class CountingDevice : public Device {
 public:
  void Upload(void* /*device*/, const void* /*host*/, size_t /*bytes*/) override {}
  void Download(void* /*host*/, const void* /*device*/, size_t /*bytes*/) override {}
  uint64_t Record() override { return 0; }
  absl::Status Wait(uint64_t /*mark*/, absl::Duration /*limit*/) override {
    return absl::OkStatus();
  }

 protected:
  absl::StatusOr<void*> AllocateBytes(size_t bytes) override;
  void FreeBytes(void* /*device*/, size_t /*bytes*/) override {}

 private:
  uintptr_t next_ = 4096;
};

// One thread. Activations have the model's type.
class CountingOps : public Ops {
 public:
  explicit CountingOps(DType dtype) : dtype_(dtype) {}

  // Of the operations from now on; forgets the earlier ones.
  void Begin(const CountedBatch& batch) {
    batch_ = batch;
    operations_.clear();
  }
  const std::vector<CountedOperation>& operations() const { return operations_; }
  void Add(const CountedOperation& operation) { operations_.push_back(operation); }

  std::unique_ptr<Weight> MakeWeight(int64_t rows, int64_t cols) const;

  std::string_view name() const override { return "counting"; }
  Device& device() override { return device_; }
  DType ActivationDType(DType model_dtype) const override { return model_dtype; }
  absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) override;
  absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) override;

  void Embed(const EmbedArgs& args) override;
  void RmsNorm(const RmsNormArgs& args) override;
  void Gemm(const GemmArgs& args) override;
  void GroupedGemm(const GroupedGemmArgs& args) override;
  void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) override;
  void PagedAttention(const PagedAttentionArgs& args) override;
  void SiluAndMul(const SiluAndMulArgs& args) override;
  void RouteTopK(const RouteTopKArgs& args) override { AddViews("route_top_k", args); }
  void MoePermute(const MoePermuteArgs& args) override { AddViews("moe_permute", args); }
  void MoeFinalize(const MoeFinalizeArgs& args) override;
  void CountChoices(const CountChoicesArgs& args) override { AddViews("count_choices", args); }
  void CountRows(const CountRowsArgs& args) override { AddViews("count_rows", args); }
  void SumCounts(const SumCountsArgs& args) override { AddViews("sum_counts", args); }
  void LocalSlots(const LocalSlotsArgs& args) override { AddViews("local_slots", args); }
  void PlanDispatch(const PlanDispatchArgs& args) override { AddViews("plan_dispatch", args); }
  void PackRows(const PackRowsArgs& args) override { AddViews("pack_rows", args); }
  void SortRows(const SortRowsArgs& args) override { AddViews("sort_rows", args); }
  void SumResults(const SumResultsArgs& args) override { AddViews("sum_results", args); }
  void PackResults(const PackResultsArgs& args) override { AddViews("pack_results", args); }
  void CheckReturn(const CheckReturnArgs& args) override { AddViews("check_return", args); }
  void AddRanks(const AddRanksArgs& args) override { AddViews("add_ranks", args); }
  void GatherRows(const GatherRowsArgs& args) override;
  void CopyBlocks(const CopyBlocksArgs& args) override;
  void ConcatColumns(const ConcatColumnsArgs& args) override { AddViews("concat_columns", args); }
  void Sample(const SampleArgs& args) override;

 private:
  // Every view of the arguments is read or written once.
  template <typename Args>
  void AddViews(std::string_view operation, const Args& args);
  double Elements(double count) const { return count * static_cast<double>(SizeOf(dtype_)); }

  const DType dtype_;
  CountingDevice device_;
  CountedBatch batch_;
  double expert_rows_ = 0;  // of the last GroupedGemm
  std::vector<CountedOperation> operations_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_BENCH_COUNTING_OPS_H_
