// The sampler's kernel, launched on copies of ordinary host memory, against the naive sampler. What
// every backend must do is in tests/kernels/sample_test.cc; here are the paths of this one.
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "absl/strings/match.h"
#include "kernels/cuda/cuda_sample.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "kernels/queued/visit_tensors.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/sample_case.h"
#include "tests/kernels/sample_rows.h"

// Copies of the kernel with a bug, see CMakeLists.txt.
namespace tessera::cuda::sample_missing_wait {
cudaError_t LaunchSample(cudaStream_t stream, const SampleLaunch& launch);
}  // namespace tessera::cuda::sample_missing_wait
namespace tessera::cuda::sample_missing_team_barrier {
cudaError_t LaunchSample(cudaStream_t stream, const SampleLaunch& launch);
}  // namespace tessera::cuda::sample_missing_team_barrier

namespace tessera::test {
namespace {

using Launcher = cudaError_t(cudaStream_t, const cuda::SampleLaunch&);

// Device copies of views, copied back where they came from.
class Copies {
 public:
  ~Copies() {
    for (const Copy& copy : copies_) cudaFree(copy.device);
  }
  template <typename Void>
  void Take(BasicTensorView<Void>& view) {
    const int64_t rows = view.num_elements() == 0 ? 0 : view.dim(0);
    const int64_t elements = rows == 0 ? 0 : (rows - 1) * view.stride0() + view.row_size();
    const size_t bytes = static_cast<size_t>(elements) * SizeOf(view.dtype());
    if (bytes == 0) return;
    Copy copy{.host = const_cast<void*>(static_cast<const void*>(view.data())), .bytes = bytes};
    ASSERT_EQ(cudaMalloc(&copy.device, bytes), cudaSuccess);
    Move(copy.device, copy.host, bytes, cudaMemcpyHostToDevice);
    if (!std::is_const_v<Void>) results_.push_back(copy);
    copies_.push_back(copy);
    view = view.At(copy.device);
  }
  void Return() const {
    for (const Copy& copy : results_) {
      Move(copy.host, copy.device, copy.bytes, cudaMemcpyDeviceToHost);
    }
  }

 private:
  struct Copy {
    void* host;
    void* device = nullptr;
    size_t bytes;
  };
  static void Move(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    ASSERT_EQ(cudaMemcpyAsync(to, from, bytes, kind, nullptr), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
  }

  std::vector<Copy> copies_;
  std::vector<Copy> results_;
};

// Views that the launcher can take; the results come back with `copies.Return()`.
cuda::SampleLaunch OnDevice(SampleArgs args, Copies& copies) {
  VisitTensors(args, [&](auto& view) { copies.Take(view); });
  return cuda::SampleLaunchOf(args);
}

std::vector<SampledRow> SampleByKernel(const std::vector<SampleRowCase>& rows, bool clusters) {
  return SampleOnHost(rows, [&](const SampleArgs& args) {
    Copies copies;
    cuda::SampleLaunch launch = OnDevice(args, copies);
    launch.clusters = clusters;
    ASSERT_EQ(cuda::LaunchSample(nullptr, launch), cudaSuccess);
    const cudaError_t error = cudaStreamSynchronize(nullptr);
    ASSERT_EQ(error, cudaSuccess) << cudaGetErrorString(error);
    copies.Return();
  });
}

// By one block per row; by a cluster per row (much slower here) it has the same bits.
std::vector<SampledRow> SampleByBoth(const std::vector<SampleRowCase>& rows) {
  const std::vector<SampledRow> by_block = SampleByKernel(rows, /*clusters=*/false);
  const std::vector<SampledRow> by_cluster = SampleByKernel(rows, /*clusters=*/true);
  ExpectSame(by_cluster, by_block);
  const auto same_bits = [](float a, float b) {
    return a == b || (std::isnan(a) && std::isnan(b));
  };
  for (size_t n = 0; n < rows.size(); ++n) {
    EXPECT_PRED2(same_bits, by_cluster[n].logprob, by_block[n].logprob) << "row " << n;
    for (size_t i = 0; i < by_block[n].top_logprobs.size(); ++i) {
      EXPECT_PRED2(same_bits, by_cluster[n].top_logprobs[i], by_block[n].top_logprobs[i])
          << "row " << n << ", alternative " << i;
    }
  }
  return by_block;
}

void ExpectSameAsReference(const std::vector<SampleRowCase>& rows, bool clusters = true) {
  const std::unique_ptr<Ops> reference = *CreateOps({.backend = "ref", .num_threads = 1});
  ExpectSame(clusters ? SampleByBoth(rows) : SampleByKernel(rows, false), Sample(*reference, rows));
}

TEST(CudaSampleTest, EqualsTheReference) {
  ForSeeds(40, [](Random& random) {
    const int64_t vocab = random.OneOf({1, 2, 63, 64, 65, 300, 1000, 5003});
    std::vector<SampleRowCase> rows;
    for (int64_t n = random.Int(1, 9); n > 0; --n) rows.push_back(RandomRow(random, vocab));
    ExpectSameAsReference(rows, random.Chance(0.3));
  });
}

TEST(CudaSampleTest, EqualsTheReferenceAtTheEdges) {
  ForSeeds(60, [](Random& random) {
    const int64_t vocab = random.OneOf({1, 2, 63, 64, 65, 1000, 5003});
    std::vector<SampleRowCase> rows;
    for (int64_t n = random.Int(1, 6); n > 0; --n) rows.push_back(EdgeRow(random, vocab));
    ExpectSameAsReference(rows, random.Chance(0.2));
  });
}

// Rows of more than 8192 tokens run in blocks of another size.
TEST(CudaSampleTest, EqualsTheReferenceOnLongRows) {
  ForSeeds(3, [](Random& random) {
    ExpectSameAsReference({RandomRow(random, 20011), EdgeRow(random, 20011)});
  });
}

// Thousands of equal logits: the cut falls among ids, with every digit of the select.
TEST(CudaSampleTest, CutsEqualLogitsById) {
  std::vector<SampleRowCase> rows;
  for (const int32_t top_k : {1, 1024, 1025, 4095}) {
    for (const float top_p : {0.5F, 1.0F}) {
      rows.push_back(Row(std::vector<float>(4096, 1.5F)));
      rows.back().top_k = top_k;
      rows.back().top_p = top_p;
      rows.back().position = static_cast<int32_t>(rows.size());
    }
  }
  ExpectSameAsReference(rows);
  const std::vector<SampledRow> sampled = SampleByKernel(rows, /*clusters=*/false);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_LT(sampled[i].token, std::ceil(rows[i].top_k * rows[i].top_p));
  }
}

// More alternatives than a block holds at a time, and more than there are tokens.
TEST(CudaSampleTest, ListsAnyNumberOfAlternatives) {
  ForSeeds(1, [](Random& random) {
    std::vector<SampleRowCase> rows(3, Row(random.Normals(2500, 2.0F)));
    for (float& logit : rows[1].logits) logit = std::round(logit);
    rows[2].logits.assign(2500, -1.0F);
    for (SampleRowCase& row : rows) row.num_logprobs = 2600;
    ExpectSameAsReference(rows);
  });
}

// A token adjusted more than once takes its adjustments in the order of the list.
TEST(CudaSampleTest, AddsAdjustmentsInOrder) {
  SampleRowCase row = Row(std::vector<float>(100, 0.0F));
  row.temperature = 0;
  row.adjustments = {{40, 1e8F}, {7, 2.0F}, {40, 1.0F}, {40, -1e8F}};  // the 1 is lost
  EXPECT_EQ(SampleByBoth({row})[0].token, 7);
  row.adjustments = {{40, 1e8F}, {7, 2.0F}, {40, -1e8F}, {40, 3.0F}};
  EXPECT_EQ(SampleByBoth({row})[0].token, 40);
}

TEST(CudaSampleTest, RefusesAVocabularyBeyondItsDigits) {
  const cuda::SampleLaunch launch{.rows = 1, .vocab = cuda::kMaxSampledVocab + 1};
  EXPECT_EQ(cuda::LaunchSample(nullptr, launch), cudaErrorInvalidValue);
}

// What the emulator says of two launches, one behind the other.
std::string ReportOf(Launcher* launcher, const SampleRowCase& row, bool clusters) {
  std::string report;
  SampleOnHost({row}, [&](const SampleArgs& args) {
    Copies copies;
    cuda::SampleLaunch launch = OnDevice(args, copies);
    launch.clusters = clusters;
    for (int i = 0; i < 2; ++i) EXPECT_EQ(launcher(nullptr, launch), cudaSuccess);
    cudaStreamSynchronize(nullptr);
    report = simt::fake::AnyReport();
    simt::fake::Reset();
  });
  return report;
}

void ExpectControl(const std::string& finding, Launcher* bad, bool clusters) {
  SampleRowCase row = Row(std::vector<float>(600, 1.0F));
  row.counts.assign(600, 5);  // of the slot's last owner
  row.penalties = {{3, 2}, {70, 0}, {599, 1}};
  row.repetition_penalty = 1.2F;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE(seed);
    simt::emulation::SetOptions({.seed = seed});
    EXPECT_EQ(ReportOf(cuda::LaunchSample, row, clusters), "");
    const std::string report = ReportOf(bad, row, clusters);
    EXPECT_TRUE(absl::StrContains(report, "SampleKernel")) << report;
    EXPECT_TRUE(absl::StrContains(report, finding)) << report;
  }
  simt::emulation::SetOptions(simt::emulation::OptionsFromEnvironment());
}

TEST(CudaSampleTest, ControlsAreReported) {
  ExpectControl("before griddepcontrol.wait", cuda::sample_missing_wait::LaunchSample,
                /*clusters=*/false);
  // Other blocks read the slot that the first one resets.
  ExpectControl("race", cuda::sample_missing_team_barrier::LaunchSample, /*clusters=*/true);
}

}  // namespace
}  // namespace tessera::test
