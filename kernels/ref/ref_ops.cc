#include "kernels/ref/ref_ops.h"

#include "kernels/core/host_device.h"
#include "kernels/core/status_macros.h"
#include "kernels/expert_table.h"
#include "kernels/op_checks.h"
#include "kernels/ref/weight.h"

namespace tessera {
namespace {

class RefOps : public Ops {
 public:
  std::string_view name() const override { return "ref"; }
  Device& device() override { return device_; }
  DType ActivationDType(DType model_dtype) const override { return model_dtype; }
  absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) override {
    RETURN_IF_ERROR(Check(source));
    return ref::RefWeight::Create(device_, source);
  }
  absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) override {
    return std::make_unique<HostExpertTable>(shape);
  }

  void Embed(const EmbedArgs& args) override { Execute(args, ref::Embed); }
  void RmsNorm(const RmsNormArgs& args) override { Execute(args, ref::RmsNorm); }
  void Gemm(const GemmArgs& args) override { Execute(args, ref::Gemm); }
  void GroupedGemm(const GroupedGemmArgs& args) override { Execute(args, ref::GroupedGemm); }
  void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) override {
    Execute(args, ref::QkNormRopeStoreKv);
  }
  void PagedAttention(const PagedAttentionArgs& args) override {
    Execute(args, ref::PagedAttention);
  }
  void SiluAndMul(const SiluAndMulArgs& args) override { Execute(args, ref::SiluAndMul); }
  void RouteTopK(const RouteTopKArgs& args) override { Execute(args, ref::RouteTopK); }
  void MoePermute(const MoePermuteArgs& args) override { Execute(args, ref::MoePermute); }
  void MoeFinalize(const MoeFinalizeArgs& args) override { Execute(args, ref::MoeFinalize); }
  void CountChoices(const CountChoicesArgs& args) override { Execute(args, ref::CountChoices); }
  void CountRows(const CountRowsArgs& args) override { Execute(args, ref::CountRows); }
  void SumCounts(const SumCountsArgs& args) override { Execute(args, ref::SumCounts); }
  void LocalSlots(const LocalSlotsArgs& args) override { Execute(args, ref::LocalSlots); }
  void PlanDispatch(const PlanDispatchArgs& args) override { Execute(args, ref::PlanDispatch); }
  void PackRows(const PackRowsArgs& args) override { Execute(args, ref::PackRows); }
  void SortRows(const SortRowsArgs& args) override { Execute(args, ref::SortRows); }
  void SumResults(const SumResultsArgs& args) override { Execute(args, ref::SumResults); }
  void PackResults(const PackResultsArgs& args) override { Execute(args, ref::PackResults); }
  void CheckReturn(const CheckReturnArgs& args) override { Execute(args, ref::CheckReturn); }
  void AddRanks(const AddRanksArgs& args) override { Execute(args, ref::AddRanks); }
  void GatherRows(const GatherRowsArgs& args) override { Execute(args, ref::GatherRows); }
  void CopyBlocks(const CopyBlocksArgs& args) override { Execute(args, ref::CopyBlocks); }
  void ConcatColumns(const ConcatColumnsArgs& args) override { Execute(args, ref::ConcatColumns); }
  void Sample(const SampleArgs& args) override { Execute(args, ref::Sample); }

 private:
  template <typename Args>
  void Execute(const Args& args, void (*operation)(const Args&)) {
    Check(args);
    // A device that has failed executes nothing more: later inputs may be garbage.
    if (device_.Synchronize().ok()) operation(args);
  }
  template <typename Args>
  void Execute(const Args& args, absl::Status (*operation)(const Args&)) {
    Check(args);
    if (device_.Synchronize().ok()) device_.Fail(operation(args));
  }

  HostDevice device_;
};

}  // namespace

std::unique_ptr<Ops> CreateRefOps(const OpsOptions& /*options*/) {
  return std::make_unique<RefOps>();
}

}  // namespace tessera
