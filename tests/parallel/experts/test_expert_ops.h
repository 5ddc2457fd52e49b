// The reference operations of expert parallelism on any device with a host queue.
#ifndef TESSERA_TESTS_PARALLEL_EXPERTS_TEST_EXPERT_OPS_H_
#define TESSERA_TESTS_PARALLEL_EXPERTS_TEST_EXPERT_OPS_H_

#include <type_traits>

#include "kernels/core/expert_ops.h"
#include "kernels/core/host_queue.h"
#include "kernels/op_checks.h"
#include "kernels/queued/visit_tensors.h"
#include "kernels/ref/ref_ops.h"

namespace tessera {

class TestExpertOps final : public ExpertOps {
 public:
  // `device` must outlive what is enqueued.
  explicit TestExpertOps(Device* device) : device_(device) {}

  Device& device() override { return *device_; }
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
  void MoeFinalize(const MoeFinalizeArgs& args) override { Enqueue(args, ref::MoeFinalize); }

 private:
  // Turns device addresses into those of the host, inside a function of the queue.
  struct Translation {
    HostQueue* queue;
    void operator()(TensorView& view) const { view = view.At(queue->Access(view.data())); }
    void operator()(ConstTensorView& view) const { view = view.At(queue->Access(view.data())); }
    void operator()(PlacementTensors& placement) const {
      (*this)(placement.replica_offsets);
      (*this)(placement.replica_slots);
    }
    void operator()(DispatchShape& /*numbers*/) const {}
    template <typename T>
    requires std::is_arithmetic_v<T>
    void operator()(T& /*number*/) const {}
  };

  template <typename Args, typename Result>
  void Enqueue(const Args& args, Result (*operation)(const Args&)) {
    Check(args);
    HostQueue* const queue = device_->host_queue();
    queue->Run([queue, translated = args, operation]() mutable -> absl::Status {
      VisitTensors(translated, Translation{queue});
      if constexpr (std::is_void_v<Result>) {
        operation(translated);
        return absl::OkStatus();
      } else {
        return operation(translated);
      }
    });
  }

  Device* device_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_EXPERTS_TEST_EXPERT_OPS_H_
