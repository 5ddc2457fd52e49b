#include "kernels/cuda/cuda_ops.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/base/call_once.h"
#include "kernels/core/status_macros.h"
#include "kernels/cuda/cublas_gemm.h"
#include "kernels/cuda/cublas_library.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/cuda_weight.h"
#include "kernels/cuda/operations.h"
#include "kernels/cuda/step_graph.h"
#include "kernels/op_checks.h"
#ifdef SIMT_EMULATED
#include "kernels/cuda/emulated_device.h"
#include "kernels/cuda/emulation/emulator.h"
#endif

namespace tessera {
namespace cuda {
namespace {

// A thread reads and converts a few GB/s; beyond these the link to the GPU or the disk is the
// limit, and all segments of WeightUploads could be in use.
constexpr int kMostPreparingThreads = 8;

class CudaOps : public Ops {
 public:
  CudaOps(std::unique_ptr<CudaDevice> device, DeviceBuffer counters,
          std::unique_ptr<CublasGemm> cublas, int preparing_threads)
      : device_(std::move(device)),
        counters_(std::move(counters)),
        cublas_(std::move(cublas)),
        preparing_threads_(preparing_threads),
        scratch_(*device_) {
    const cudaDeviceProp& properties = device_->properties();
    context_ = {.stream = device_->stream(),
                .multiprocessors = properties.multiProcessorCount,
                .compute_capability = CapabilityOf(properties),
                .counters = static_cast<uint32_t*>(counters_.data()),
                .fault = device_->fault(),
                .scratch = &scratch_,
                .cublas = cublas_.get()};
  }

  std::string_view name() const override {
#ifdef SIMT_EMULATED
    return "cuda-emulated";
#else
    return "cuda";
#endif
  }
  Device& device() override { return *device_; }
  DType ActivationDType(DType model_dtype) const override { return model_dtype; }
  absl::StatusOr<std::unique_ptr<Weight>> PrepareWeight(const WeightSource& source) override {
    RETURN_IF_ERROR(Check(source));
    return CudaWeight::Create(*device_, source);
  }
  int max_preparing_threads() const override { return preparing_threads_; }
  absl::StatusOr<std::unique_ptr<ExpertTable>> CreateExpertTable(
      const ExpertTableShape& shape) override {
    return CudaExpertTable::Create(*device_, shape);
  }
  // What the attention kernels have registers for.
  int64_t max_head_dim() const override { return 128; }
  bool PadsSteps() const override { return true; }
  absl::StatusOr<std::unique_ptr<StepGraph>> Capture(absl::FunctionRef<void()> enqueue) override {
    scratch_.KeepAddresses();
    return CudaStepGraph::Capture(*device_, enqueue);
  }

  void Embed(const EmbedArgs& args) override { Enqueue("Embed", args, cuda::Embed); }
  void RmsNorm(const RmsNormArgs& args) override { Enqueue("RmsNorm", args, cuda::RmsNorm); }
  void Gemm(const GemmArgs& args) override { Enqueue("Gemm", args, cuda::Gemm); }
  void GroupedGemm(const GroupedGemmArgs& args) override {
    Enqueue("GroupedGemm", args, cuda::GroupedGemm);
  }
  void QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) override {
    Enqueue("QkNormRopeStoreKv", args, cuda::QkNormRopeStoreKv);
  }
  void PagedAttention(const PagedAttentionArgs& args) override {
    Enqueue("PagedAttention", args, cuda::PagedAttention);
  }
  void SiluAndMul(const SiluAndMulArgs& args) override {
    Enqueue("SiluAndMul", args, cuda::SiluAndMul);
  }
  void RouteTopK(const RouteTopKArgs& args) override {
    Enqueue("RouteTopK", args, cuda::RouteTopK);
  }
  void MoePermute(const MoePermuteArgs& args) override {
    Enqueue("MoePermute", args, cuda::MoePermute);
  }
  void MoeFinalize(const MoeFinalizeArgs& args) override {
    Enqueue("MoeFinalize", args, cuda::MoeFinalize);
  }
  void CountChoices(const CountChoicesArgs& args) override {
    Enqueue("CountChoices", args, cuda::CountChoices);
  }
  void CountRows(const CountRowsArgs& args) override {
    Enqueue("CountRows", args, cuda::CountRows);
  }
  void SumCounts(const SumCountsArgs& args) override {
    Enqueue("SumCounts", args, cuda::SumCounts);
  }
  void LocalSlots(const LocalSlotsArgs& args) override {
    Enqueue("LocalSlots", args, cuda::LocalSlots);
  }
  void PlanDispatch(const PlanDispatchArgs& args) override {
    Enqueue("PlanDispatch", args, cuda::PlanDispatch);
  }
  void PackRows(const PackRowsArgs& args) override { Enqueue("PackRows", args, cuda::PackRows); }
  void SortRows(const SortRowsArgs& args) override { Enqueue("SortRows", args, cuda::SortRows); }
  void SumResults(const SumResultsArgs& args) override {
    Enqueue("SumResults", args, cuda::SumResults);
  }
  void PackResults(const PackResultsArgs& args) override {
    Enqueue("PackResults", args, cuda::PackResults);
  }
  void CheckReturn(const CheckReturnArgs& args) override {
    Enqueue("CheckReturn", args, cuda::CheckReturn);
  }
  void AddRanks(const AddRanksArgs& args) override { Enqueue("AddRanks", args, cuda::AddRanks); }
  void GatherRows(const GatherRowsArgs& args) override {
    Enqueue("GatherRows", args, cuda::GatherRows);
  }
  void CopyBlocks(const CopyBlocksArgs& args) override {
    Enqueue("CopyBlocks", args, cuda::CopyBlocks);
  }
  void ConcatColumns(const ConcatColumnsArgs& args) override {
    Enqueue("ConcatColumns", args, cuda::ConcatColumns);
  }
  void Sample(const SampleArgs& args) override { Enqueue("Sample", args, cuda::Sample); }

 private:
  template <typename Args>
  void Enqueue(const char* operation, const Args& args,
               cudaError_t (*launch)(const Context&, const Args&)) {
    Check(args);
    device_->Launch(operation, [&] { return launch(context_, args); });
  }

  std::unique_ptr<CudaDevice> device_;
  DeviceBuffer counters_;
  std::unique_ptr<CublasGemm> cublas_;
  const int preparing_threads_;
  Scratch scratch_;
  Context context_;
};

#ifdef SIMT_EMULATED
using DeviceType = EmulatedDevice;
#else
using DeviceType = CudaDevice;
#endif

absl::StatusOr<CublasLibrary> OpenCublas() {
#ifdef SIMT_EMULATED
  // What the variable names is loaded in front of the stand-in, as cuBLASLt would be.
  // NOLINTNEXTLINE(concurrency-mt-unsafe): nothing here changes the environment
  const char* file = std::getenv("TESSERA_EMULATION_CUBLAS");
  if (file != nullptr) RETURN_IF_ERROR(LoadCublas({file}).status());
  return FakeCublas();
#else
  return LoadCublas();
#endif
}

absl::StatusOr<std::unique_ptr<CublasGemm>> CreateCublas(const OpsOptions& options,
                                                         CudaDevice* device) {
  if (options.gemm == "ours") return nullptr;
  CublasLibrary library;
  ASSIGN_OR_RETURN(library, OpenCublas());
  return CublasGemm::Create(device, library);
}

absl::StatusOr<std::unique_ptr<Ops>> Create(const OpsOptions& options) {
  std::unique_ptr<CudaDevice> device;
  ASSIGN_OR_RETURN(device, DeviceType::Create(options.device_index));
  DeviceBuffer counters;
  ASSIGN_OR_RETURN(
      counters, device->Allocate(Workspace::kNumCounters * sizeof(uint32_t), "kernels' counters"));
  std::unique_ptr<CublasGemm> cublas;
  ASSIGN_OR_RETURN(cublas, CreateCublas(options, device.get()));
  return std::make_unique<CudaOps>(std::move(device), std::move(counters), std::move(cublas),
                                   std::clamp(options.num_threads, 1, kMostPreparingThreads));
}

#ifdef SIMT_EMULATED
// The first backend of the process decides for all.
void EmulateGpus(int count) {
  static absl::once_flag once;
  absl::call_once(once, [count] {
    if (count == 0) return;
    simt::emulation::Options emulated = simt::emulation::GetOptions();
    emulated.devices = count;
    simt::emulation::SetOptions(emulated);
  });
}
#endif

}  // namespace
}  // namespace cuda

#ifdef SIMT_EMULATED

absl::StatusOr<std::unique_ptr<Ops>> CreateEmulatedCudaOps(const OpsOptions& options) {
  cuda::EmulateGpus(options.emulated_gpus);
  return cuda::Create(options);
}

#else

absl::StatusOr<std::unique_ptr<Ops>> CreateCudaOps(const OpsOptions& options) {
  return cuda::Create(options);
}

absl::StatusOr<std::string> DescribeCuda() { return cuda::DescribeGpus(); }

#endif

}  // namespace tessera
