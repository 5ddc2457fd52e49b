#include "kernels/cpu/cpu_ops.h"

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/control_group.h"
#include "kernels/core/host_device.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/thread_pool.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/operations.h"
#include "kernels/cpu/weight.h"
#include "kernels/expert_table.h"
#include "kernels/op_checks.h"

namespace tessera {
namespace {

// Threads of all CPU backends of this process. They may spin only while each has a core: one
// thread that spins on another's core costs far more than waking up.
std::atomic<int> threads_in_use{0};

class ThreadShare {
 public:
  explicit ThreadShare(int threads)
      : threads_(threads), in_use_(threads_in_use.fetch_add(threads) + threads) {}
  ~ThreadShare() { threads_in_use.fetch_sub(threads_); }
  ThreadShare(const ThreadShare&) = delete;
  ThreadShare& operator=(const ThreadShare&) = delete;

  bool each_has_a_core() const { return in_use_ <= UsableCpus(); }

 private:
  const int threads_;
  const int in_use_;  // by all, this one included, when this one began
};

class CpuOps : public Ops {
 public:
  CpuOps(const OpsOptions& options, const cpu::Kernels& kernels)
      : share_(options.num_threads),
        pool_(options.num_threads, share_.each_has_a_core()),
        context_{kernels, pool_},
        shared_weights_(options.shared_weights) {}

  std::string_view name() const override { return "cpu"; }
  Device& device() override { return device_; }
  DType ActivationDType(DType /*model_dtype*/) const override { return DType::kF32; }
  absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) override {
    RETURN_IF_ERROR(Check(source));
    const cpu::PackedWeight::Home home{device_, shared_weights_.get()};
    if (!source.background) return cpu::PackedWeight::Create(context_, home, source);
    ThreadPool alone(1);
    return cpu::PackedWeight::Create({context_.kernels, alone}, home, source);
  }
  absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) override {
    return std::make_unique<HostExpertTable>(shape);
  }

  void Embed(const EmbedArgs& args) override { Execute(args, cpu::Embed); }
  void RmsNorm(const RmsNormArgs& args) override { Execute(args, cpu::RmsNorm); }
  void Gemm(const GemmArgs& args) override { Execute(args, cpu::Gemm); }
  void GroupedGemm(const GroupedGemmArgs& args) override { Execute(args, cpu::GroupedGemm); }
  void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) override {
    Execute(args, cpu::QkNormRopeStoreKv);
  }
  void PagedAttention(const PagedAttentionArgs& args) override {
    Execute(args, cpu::PagedAttention);
  }
  void SiluAndMul(const SiluAndMulArgs& args) override { Execute(args, cpu::SiluAndMul); }
  void RouteTopK(const RouteTopKArgs& args) override { Execute(args, cpu::RouteTopK); }
  void MoePermute(const MoePermuteArgs& args) override { Execute(args, cpu::MoePermute); }
  void MoeFinalize(const MoeFinalizeArgs& args) override { Execute(args, cpu::MoeFinalize); }
  void CountChoices(const CountChoicesArgs& args) override { Execute(args, cpu::CountChoices); }
  void CountRows(const CountRowsArgs& args) override { Execute(args, cpu::CountRows); }
  void SumCounts(const SumCountsArgs& args) override { Execute(args, cpu::SumCounts); }
  void LocalSlots(const LocalSlotsArgs& args) override { Execute(args, cpu::LocalSlots); }
  void PlanDispatch(const PlanDispatchArgs& args) override { Execute(args, cpu::PlanDispatch); }
  void PackRows(const PackRowsArgs& args) override { Execute(args, cpu::PackRows); }
  void SortRows(const SortRowsArgs& args) override { Execute(args, cpu::SortRows); }
  void SumResults(const SumResultsArgs& args) override { Execute(args, cpu::SumResults); }
  void PackResults(const PackResultsArgs& args) override { Execute(args, cpu::PackResults); }
  void CheckReturn(const CheckReturnArgs& args) override { Execute(args, cpu::CheckReturn); }
  void AddRanks(const AddRanksArgs& args) override { Execute(args, cpu::AddRanks); }
  void GatherRows(const GatherRowsArgs& args) override { Execute(args, cpu::GatherRows); }
  void CopyBlocks(const CopyBlocksArgs& args) override { Execute(args, cpu::CopyBlocks); }
  void ConcatColumns(const ConcatColumnsArgs& args) override { Execute(args, cpu::ConcatColumns); }
  void Sample(const SampleArgs& args) override { Execute(args, cpu::Sample); }
  void Rest() override { pool_.Rest(); }

 private:
  template <typename Args>
  void Execute(const Args& args, void (*operation)(const cpu::Context&, const Args&)) {
    Check(args);
    // A device that has failed executes nothing more: later inputs may be garbage.
    if (device_.Synchronize().ok()) operation(context_, args);
  }
  template <typename Args>
  void Execute(const Args& args, absl::Status (*operation)(const cpu::Context&, const Args&)) {
    Check(args);
    if (device_.Synchronize().ok()) device_.Fail(operation(context_, args));
  }

  HostDevice device_;
  ThreadShare share_;
  ThreadPool pool_;
  cpu::Context context_;
  const std::shared_ptr<SharedBuffers> shared_weights_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Ops>> CreateCpuOps(const OpsOptions& options) {
  const std::vector<cpu::Isa> supported = cpu::SupportedIsas();
  std::string names = "auto";
  for (cpu::Isa isa : supported) {
    const bool last = isa == supported.back();
    if (options.cpu_isa == cpu::IsaName(isa) || (options.cpu_isa == "auto" && last)) {
      return std::make_unique<CpuOps>(options, cpu::KernelsOf(isa));
    }
    absl::StrAppend(&names, ", ", std::string(cpu::IsaName(isa)));
  }
  return absl::InvalidArgumentError(absl::StrCat("the instruction set '",
                                                 std::string(options.cpu_isa),
                                                 "' is not one of this machine's: ", names));
}

}  // namespace tessera
