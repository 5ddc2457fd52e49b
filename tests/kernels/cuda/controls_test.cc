// Every seeded bug is reported, under every seed, with what a reader needs; and the same kernels
// without it give no report.
#include "tests/kernels/cuda/controls/controls.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <vector>

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
        cuda::TmaControls(), cuda::WgmmaControls(), cuda::MisuseControls()}) {
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
struct Settings {
  const simt::TensorMap* map = nullptr;
  bool check_races = true;
  int preempt_every = 200;
};
std::string ReportOf(const KernelControl& control, bool bug, uint64_t seed,
                     const Settings& settings = {}) {
  emulation::Options options;
  options.seed = seed;
  options.resident_clusters = 4;
  options.patience_milliseconds = 1;
  options.check_races = settings.check_races;
  options.preempt_every = settings.preempt_every;
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
    const simt::TensorMap map = settings.map != nullptr ? *settings.map : MapOf(rows.get());
    GpuArray<simt::TensorMap> maps(std::vector<simt::TensorMap>{map});
    const ControlBuffers buffers{in.get(),   out.get(),      fresh.get(), words.get(),
                                 rows.get(), numbers.data(), maps.get()};
    EXPECT_EQ(control.launch(nullptr, bug, buffers, map), cudaSuccess)
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

// Without race checks the right kernels run as well, and bounds are still checked.
TEST(ControlsOf, RunsWithoutRaceChecks) {
  for (const KernelControl& control : AllControls()) {
    EXPECT_EQ(ReportOf(control, false, 1, {.check_races = false, .preempt_every = 0}), "")
        << control.kernel;
    const std::string report = ReportOf(control, true, 1, {.check_races = false});
    if (std::string(control.expects).find("outside") != std::string::npos) {
      EXPECT_THAT(report, HasSubstr("outside")) << control.kernel;
    }
  }
}

TEST(ControlsOf, TensorMaps) {
  const simt::TensorMap none{};
  EXPECT_THAT(ReportOf(cuda::OneBoxControl(), false, 1, {.map = &none}),
              HasSubstr("is not a tensor map"));
  std::vector<simt::Bf16> x(ControlBuffers::kRows * ControlBuffers::kColumns + 8);
  const size_t skip = (16 - reinterpret_cast<uintptr_t>(x.data()) % 16) % 16 / 2;
  const simt::TensorMap of_host = MapOf(x.data() + skip);
  EXPECT_THAT(ReportOf(cuda::OneBoxControl(), false, 1, {.map = &of_host}),
              HasSubstr("a TMA load of host memory"));
}

// Every format that the emulator's sources report with, from Fail("...").
std::set<std::string> FormatsInSources() {
  std::set<std::string> formats;
  const std::regex call(R"re(\bFail\(\s*((?:"(?:\\.|[^"\\])*"\s*)+))re");
  const std::regex literal(R"re("((?:\\.|[^"\\])*)")re");
  for (const auto& file : std::filesystem::directory_iterator(TESSERA_EMULATION_SOURCES)) {
    if (file.path().extension() != ".cc") continue;
    std::ifstream in(file.path());
    const std::string text(std::istreambuf_iterator<char>(in), {});
    for (std::sregex_iterator it(text.begin(), text.end(), call), end; it != end; ++it) {
      const std::string literals = (*it)[1];
      std::string format;
      for (std::sregex_iterator part(literals.begin(), literals.end(), literal); part != end;
           ++part) {
        format += (*part)[1];
      }
      formats.insert(format);
    }
  }
  return formats;
}

// The list of controls is complete: whatever the emulator can report, one of them brings about.
TEST(ControlsOf, EveryFinding) {
  const std::set<std::string> elsewhere = {
      "%s before griddepcontrol.wait of memory that %s used for a %s (%s)",  // runtime_test.cc
      "GPU %d: %s of GPU %d, to which it has no peer access",                // graphs_test.cc
      "%s needs sm_%d; this GPU is an sm_%d",                                // instructions_test.cc
      "the emulator's clock overflows",  // a limit of the emulator, not a bug of a kernel
  };
  const simt::TensorMap none{};
  ReportOf(cuda::OneBoxControl(), false, 1, {.map = &none});
  std::vector<simt::Bf16> x(ControlBuffers::kRows * ControlBuffers::kColumns + 8);
  const simt::TensorMap of_host =
      MapOf(x.data() + (16 - reinterpret_cast<uintptr_t>(x.data()) % 16) % 16 / 2);
  ReportOf(cuda::OneBoxControl(), false, 1, {.map = &of_host});
  for (const KernelControl& control : AllControls()) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) ReportOf(control, true, seed);
  }
  const std::set<std::string> formats = FormatsInSources();
  EXPECT_GT(formats.size(), 50U);
  for (const std::string& format : formats) {
    EXPECT_TRUE(elsewhere.count(format) != 0 || emulation::ReportedFormats().count(format) != 0)
        << "no control for: " << format;
  }
}

}  // namespace
}  // namespace tessera
