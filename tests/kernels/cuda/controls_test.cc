// Every seeded bug is reported, under every seed, with what a reader needs; and the same kernels
// without it give no report.
#include "tests/kernels/cuda/controls/controls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/emulation/emulator.h"
#include "kernels/cuda/fake/emulated_gpus.h"
#include "tests/kernels/cuda/gpu_array.h"

namespace tessera {
namespace {

using cuda::ControlBuffers;
using cuda::KernelControl;
using testing::HasSubstr;
namespace emulation = simt::emulation;

constexpr uint64_t kSeeds = 10;

std::vector<KernelControl> AllControls() {
  std::vector<KernelControl> all;
  for (const cuda::ControlGroup& group :
       {cuda::SharedControls(), cuda::WarpControls(), cuda::GlobalControls(), cuda::CopyControls(),
        cuda::TmaControls(), cuda::WgmmaControls()}) {
    all.insert(all.end(), group.controls, group.controls + group.count);
  }
  return all;
}

simt::TensorMap MapOf(simt::Bf16* x) {
  emulation::TensorMapFields fields{};
  fields.rank = 2;
  fields.element_bytes = 2;
  fields.swizzle_bytes = 128;
  fields.base = x;
  fields.dims[0] = ControlBuffers::kColumns;
  fields.dims[1] = ControlBuffers::kRows;
  fields.strides[1] = ControlBuffers::kColumns * 2;
  fields.box[0] = ControlBuffers::kColumns;
  fields.box[1] = 8;
  simt::TensorMap map;
  EXPECT_EQ(emulation::EncodeTensorMap(&map, fields), "");
  return map;
}

// What is reported about one launch; the fixture's GPUs are as new then.
std::string ReportOf(const KernelControl& control, bool bug, uint64_t seed) {
  emulation::Options options;
  options.seed = seed;
  options.resident_clusters = 4;
  options.patience_milliseconds = 1;
  emulation::SetOptions(options);
  std::vector<float> numbers(ControlBuffers::kFloats);
  for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i);
  std::vector<simt::Bf16> x(ControlBuffers::kRows * ControlBuffers::kColumns);
  for (size_t i = 0; i < x.size(); ++i) x[i] = simt::ToBf16(static_cast<float>(i % 37));
  std::string report;
  {
    GpuArray<float> in(numbers), out(std::vector<float>(numbers.size()));
    GpuArray<float> fresh(numbers.size());
    GpuArray<uint32_t> words(std::vector<uint32_t>(numbers.size()));
    GpuArray<simt::Bf16> rows(x);
    const ControlBuffers buffers{in.get(),    out.get(),  fresh.get(),
                                 words.get(), rows.get(), numbers.data()};
    EXPECT_EQ(control.launch(nullptr, bug, buffers, MapOf(rows.get())), cudaSuccess)
        << cudaGetErrorString(cudaGetLastError());
    if (cudaDeviceSynchronize() != cudaSuccess) report = simt::fake::AnyReport();
    simt::fake::Reset();
  }
  return report;
}

class Controls : public testing::TestWithParam<KernelControl> {};

TEST_P(Controls, AreReported) {
  const KernelControl& control = GetParam();
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    EXPECT_EQ(ReportOf(control, false, seed), "") << "without the bug, seed " << seed;
    const std::string report = ReportOf(control, true, seed);
    EXPECT_THAT(report, HasSubstr(control.kernel)) << "seed " << seed;
    EXPECT_THAT(report, HasSubstr(control.expects)) << "seed " << seed;
    EXPECT_THAT(report, HasSubstr("block (")) << "seed " << seed;
    EXPECT_THAT(report, HasSubstr("thread ")) << "seed " << seed;
    EXPECT_THAT(report, HasSubstr(absl::StrCat("TESSERA_EMULATION_SEED=", seed)));
    if (control.names_both) {
      EXPECT_THAT(report, HasSubstr("not ordered after the"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Emulator, Controls, testing::ValuesIn(AllControls()),
                         [](const auto& control) { return std::string(control.param.kernel); });

}  // namespace
}  // namespace tessera
