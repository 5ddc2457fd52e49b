#include "kernels/queued/queued_ops.h"

#include <type_traits>
#include <utility>

#include "kernels/core/host_device.h"
#include "kernels/core/status_macros.h"
#include "kernels/expert_table.h"
#include "kernels/op_checks.h"
#include "kernels/queued/queued_device.h"
#include "kernels/queued/visit_tensors.h"
#include "kernels/ref/ref_ops.h"
#include "kernels/ref/weight.h"

namespace tessera {
namespace {

// A reference weight that is freed in queue order.
class QueuedWeight : public Weight {
 public:
  QueuedWeight(QueuedDevice& device, std::unique_ptr<Weight> weight)
      : device_(device), weight_(std::move(weight)) {}
  ~QueuedWeight() override {
    device_.EnqueueRelease([weight = std::move(weight_)]() mutable { weight.reset(); });
  }

  int64_t rows() const override { return weight_->rows(); }
  int64_t cols() const override { return weight_->cols(); }
  size_t bytes() const override { return weight_->bytes(); }
  const Weight* reference() const { return weight_.get(); }

 private:
  QueuedDevice& device_;
  std::unique_ptr<Weight> weight_;
};

const Weight* Reference(const Weight* weight) {
  return static_cast<const QueuedWeight*>(weight)->reference();
}

// A table of reference weights that only the queue's thread touches.
class QueuedExpertTable : public ExpertTable {
 public:
  QueuedExpertTable(QueuedDevice& device, const ExpertTableShape& shape)
      : ExpertTable(shape), device_(device), table_(std::make_unique<HostExpertTable>(shape)) {}
  ~QueuedExpertTable() override {
    device_.EnqueueRelease([table = std::move(table_)]() mutable { table.reset(); });
  }

  void Set(int32_t slot, const Weight& weight) override {
    CheckFits(slot, weight);
    device_.Enqueue([table = table_.get(), slot, reference = Reference(&weight)] {
      table->Set(slot, *reference);
      return absl::OkStatus();
    });
  }
  const ExpertTable* reference() const { return table_.get(); }

 private:
  QueuedDevice& device_;
  std::unique_ptr<HostExpertTable> table_;
};

// Turns device addresses into those of the data, and weights into reference weights.
class Translation {
 public:
  explicit Translation(const QueuedDevice& device) : device_(device) {}

  void operator()(TensorView& view) const { view = view.At(device_.Translate(view.data())); }
  void operator()(ConstTensorView& view) const { view = view.At(device_.Translate(view.data())); }
  void operator()(KvLayer& kv) const {
    (*this)(kv.k);
    (*this)(kv.v);
  }
  void operator()(PlacementTensors& placement) const {
    (*this)(placement.replica_offsets);
    (*this)(placement.replica_slots);
  }
  void operator()(const Weight*& weight) const { weight = Reference(weight); }
  void operator()(const ExpertTable*& table) const {
    table = static_cast<const QueuedExpertTable*>(table)->reference();
  }
  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(T& /*number*/) const {}
  void operator()(DispatchShape& /*numbers*/) const {}

 private:
  const QueuedDevice& device_;
};

class QueuedOps : public Ops {
 public:
  explicit QueuedOps(absl::Duration step_delay) : device_(step_delay) {}

  std::string_view name() const override { return "queued"; }
  Device& device() override { return device_; }
  DType ActivationDType(DType model_dtype) const override { return model_dtype; }
  absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) override {
    RETURN_IF_ERROR(Check(source));
    std::unique_ptr<Weight> weight;
    ASSIGN_OR_RETURN(weight, ref::RefWeight::Create(weight_memory_, source));
    return std::make_unique<QueuedWeight>(device_, std::move(weight));
  }
  absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) override {
    return std::make_unique<QueuedExpertTable>(device_, shape);
  }

  bool PadsSteps() const override { return true; }

  void Embed(const EmbedArgs& args) override { Enqueue(args, ref::Embed); }
  void RmsNorm(const RmsNormArgs& args) override { Enqueue(args, ref::RmsNorm); }
  void Gemm(const GemmArgs& args) override { Enqueue(args, ref::Gemm); }
  void GroupedGemm(const GroupedGemmArgs& args) override { Enqueue(args, ref::GroupedGemm); }
  void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) override {
    Enqueue(args, ref::QkNormRopeStoreKv);
  }
  void PagedAttention(const PagedAttentionArgs& args) override {
    Enqueue(args, ref::PagedAttention);
  }
  void SiluAndMul(const SiluAndMulArgs& args) override { Enqueue(args, ref::SiluAndMul); }
  void RouteTopK(const RouteTopKArgs& args) override { Enqueue(args, ref::RouteTopK); }
  void MoePermute(const MoePermuteArgs& args) override { Enqueue(args, ref::MoePermute); }
  void MoeFinalize(const MoeFinalizeArgs& args) override { Enqueue(args, ref::MoeFinalize); }
  void CountChoices(const CountChoicesArgs& args) override { Enqueue(args, ref::CountChoices); }
  void CountRows(const CountRowsArgs& args) override { Enqueue(args, ref::CountRows); }
  void SumCounts(const SumCountsArgs& args) override { Enqueue(args, ref::SumCounts); }
  void LocalSlots(const LocalSlotsArgs& args) override { Enqueue(args, ref::LocalSlots); }
  void PlanDispatch(const PlanDispatchArgs& args) override { Enqueue(args, ref::PlanDispatch); }
  void PackRows(const PackRowsArgs& args) override { Enqueue(args, ref::PackRows); }
  void SortRows(const SortRowsArgs& args) override { Enqueue(args, ref::SortRows); }
  void SumResults(const SumResultsArgs& args) override { Enqueue(args, ref::SumResults); }
  void PackResults(const PackResultsArgs& args) override { Enqueue(args, ref::PackResults); }
  void CheckReturn(const CheckReturnArgs& args) override { Enqueue(args, ref::CheckReturn); }
  void AddRanks(const AddRanksArgs& args) override { Enqueue(args, ref::AddRanks); }
  void GatherRows(const GatherRowsArgs& args) override { Enqueue(args, ref::GatherRows); }
  void CopyBlocks(const CopyBlocksArgs& args) override { Enqueue(args, ref::CopyBlocks); }
  void ConcatColumns(const ConcatColumnsArgs& args) override { Enqueue(args, ref::ConcatColumns); }
  void Sample(const SampleArgs& args) override { Enqueue(args, ref::Sample); }
  void Rest() override { device_.EndStep(); }

 private:
  template <typename Args>
  void Enqueue(const Args& args, void (*operation)(const Args&)) {
    device_.Enqueue([translated = Translated(args), operation] {
      operation(translated);
      return absl::OkStatus();
    });
  }
  template <typename Args>
  void Enqueue(const Args& args, absl::Status (*operation)(const Args&)) {
    device_.Enqueue([translated = Translated(args), operation] { return operation(translated); });
  }

  template <typename Args>
  Args Translated(Args args) const {
    Check(args);
    VisitTensors(args, Translation(device_));
    return args;
  }

  HostDevice weight_memory_;  // outlives the queue that reads it
  QueuedDevice device_;
};

}  // namespace

std::unique_ptr<Ops> CreateQueuedOps(const OpsOptions& options) {
  return std::make_unique<QueuedOps>(options.queued_step_delay);
}

}  // namespace tessera
