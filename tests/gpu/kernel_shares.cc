#include "tests/gpu/kernel_shares.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <memory>
#include <set>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/planning/gpu_table.h"
#include "kernels/core/status_macros.h"
#include "kernels/ops.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/perf_inputs.h"
#include "tests/kernels/sample_case.h"

namespace tessera::test {
namespace {

struct Options {
  std::string backend = "cuda";
  std::string gpu;
  std::string json;
  double bandwidth = 0;  // bytes per second; 0: unknown
  bool small = false;
};

// Whose dense products are measured: the option of the backend, and what stands behind their names.
struct Products {
  std::string_view gemm = "ours";
  std::string suffix;
};

// Datasheet peak of the GPU whose name holds that of the table, bfloat16; 0: not in the table.
double TensorPeak(const std::string& gpu) {
  const std::string name = absl::AsciiStrToLower(gpu);
  for (const GpuSpec& spec : GpuTable()) {
    if (absl::StrContains(name, std::string(spec.name))) return spec.bf16_flops;
  }
  return 0;
}

// What an operation has to move and to compute at least.
struct Work {
  double bytes = 0;
  double flops = 0;
};

struct Matrix {
  const char* name;
  int64_t rows, cols;
  int64_t max_tokens = 1 << 30;
};

class KernelShares {
 public:
  KernelShares(const Options& options, const Products& products, std::unique_ptr<Ops> ops)
      : options_(options),
        products_(products),
        ops_(std::move(ops)),
        peak_(TensorPeak(options.gpu)),
        size_(Sized(4096, 128)),
        weight_(RandomWeight(size_, size_)),
        x_(Activations({size_, size_})),
        out_(Activations({size_, size_})) {}

  void Gemms();
  void Others();
  // A line of JSON per operation.
  const std::vector<std::string>& json() const { return json_; }

 private:
  using Tensor = std::pair<DeviceBuffer, TensorView>;

  Device& device() { return ops_->device(); }
  int64_t Sized(int64_t real, int64_t small) const { return options_.small ? small : real; }
  std::vector<int64_t> TokenCounts() const {
    return options_.small ? std::vector<int64_t>{1, 9} : std::vector<int64_t>{1, 8, 32, 128, 4096};
  }
  // Small numbers, bfloat16.
  Tensor Activations(std::initializer_list<int64_t> dims);
  std::unique_ptr<Weight> RandomWeight(int64_t rows, int64_t cols) {
    return SmallWeight(*ops_, rows, cols, DType::kBF16);
  }
  double Time(int64_t delays, int64_t calls, const std::function<void()>& run);
  double SecondsPerCall(const std::function<void()>& run);
  void Report(const std::string& name, const Work& work, double seconds);
  void Measure(const std::string& name, const Work& work, const std::function<void()>& run) {
    Report(name, work, SecondsPerCall(run));
  }

  void Gemm(const std::string& model, const Matrix& matrix);
  void Experts(const Matrix& matrix, int64_t tokens);
  void Attention(int64_t sequences, int64_t query, int64_t context);
  void Rows(int64_t tokens);
  void Sampling();

  // Keeps the GPU busy for a while.
  void Delay() {
    ops_->Gemm({.x = x_.second, .weight = weight_.get(), .bias = {}, .out = out_.second});
  }

  const Options options_;
  const Products products_;
  const std::unique_ptr<Ops> ops_;
  const double peak_;
  const int64_t size_;
  const std::unique_ptr<Weight> weight_;
  const Tensor x_;
  const Tensor out_;
  std::vector<std::string> json_;
  Random random_{1};
};

KernelShares::Tensor KernelShares::Activations(std::initializer_list<int64_t> dims) {
  int64_t count = 1;
  for (const int64_t dim : dims) count *= dim;
  absl::StatusOr<DeviceBuffer> buffer = device().Allocate(count * sizeof(uint16_t), "a benchmark");
  TESSERA_CHECK(buffer.ok());
  device().Upload(buffer->data(), SmallBFloat16Bits(count), count * sizeof(uint16_t));
  const TensorView view = buffer->View(DType::kBF16, dims);
  return {*std::move(buffer), view};
}

double KernelShares::Time(int64_t delays, int64_t calls, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> seconds(options_.small ? 1 : 5);
  for (double& value : seconds) {
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < delays; ++i) Delay();
    for (int64_t i = 0; i < calls; ++i) run();
    TESSERA_CHECK(device().Synchronize().ok());
    value = std::chrono::duration<double>(Clock::now() - start).count();
  }
  std::nth_element(seconds.begin(), seconds.begin() + seconds.size() / 2, seconds.end());
  return seconds[seconds.size() / 2];
}

// Calls are enqueued while the GPU is busy with something else, so that what the host takes to
// enqueue them does not count; the time of the something is taken off.
double KernelShares::SecondsPerCall(const std::function<void()>& run) {
  constexpr double kMeasured = 0.02;
  const int64_t most_calls = Sized(100, 3);
  Time(1, 1, run);  // warms up
  const double alone = Time(0, 1, run);
  const double delay = Time(1, 0, run);
  const auto calls = std::clamp(static_cast<int64_t>(kMeasured / alone), int64_t{3}, most_calls);
  const auto delays = 1 + static_cast<int64_t>(alone * static_cast<double>(calls) / delay);
  return (Time(delays, calls, run) - Time(delays, 0, run)) / static_cast<double>(calls);
}

void KernelShares::Report(const std::string& name, const Work& work, double seconds) {
  const double by_bytes = options_.bandwidth > 0 ? work.bytes / options_.bandwidth : 0;
  const double by_flops = peak_ > 0 ? work.flops / peak_ : 0;
  const double limit = std::max(by_bytes, by_flops);
  const char* bound = by_flops > by_bytes ? "operations" : "bytes";
  constexpr double kMicro = 1e6;
  std::printf("%-46s limit %9.2f us (%-10s), value %9.2f us, ratio %.3f\n", name.c_str(),
              limit * kMicro, bound, seconds * kMicro, limit / seconds);
  std::fflush(stdout);
  json_.push_back(absl::StrFormat(
      R"({"operation": "%s", "bytes": %.0f, "flops": %.0f, "bound": "%s", "limit_us": %.3f, )"
      R"("value_us": %.3f, "ratio": %.4f})",
      name, work.bytes, work.flops, bound, limit * kMicro, seconds * kMicro, limit / seconds));
}

void KernelShares::Gemm(const std::string& model, const Matrix& matrix) {
  const int64_t cached = Sized(int64_t{256} << 20, 1);  // more than a cache holds
  std::vector<std::unique_ptr<Weight>> weights;
  int64_t held = 0;
  while (held < cached) {
    weights.push_back(RandomWeight(matrix.rows, matrix.cols));
    held += static_cast<int64_t>(weights.back()->bytes());
  }
  for (const int64_t tokens : TokenCounts()) {
    if (tokens > matrix.max_tokens) continue;
    const Tensor x = Activations({tokens, matrix.cols});
    const Tensor out = Activations({tokens, matrix.rows});
    size_t next = 0;
    Measure(
        absl::StrCat("gemm ", model, " ", matrix.name, ", ", tokens, " tokens", products_.suffix),
        {.bytes = 2.0 * static_cast<double>(matrix.rows * matrix.cols +
                                            tokens * (matrix.rows + matrix.cols)),
         .flops = 2.0 * static_cast<double>(tokens * matrix.rows * matrix.cols)},
        [&] {
          const Weight* weight = weights[next++ % weights.size()].get();
          ops_->Gemm({.x = x.second, .weight = weight, .bias = {}, .out = out.second});
        });
  }
}

// Tokens that choose 8 of the experts, uniformly.
void KernelShares::Experts(const Matrix& matrix, int64_t tokens) {
  const int64_t experts = Sized(128, 8);
  const int64_t per_token = Sized(8, 2);
  const int64_t rows = tokens * per_token;
  std::vector<std::unique_ptr<Weight>> weights;
  for (int64_t e = 0; e < experts; ++e) weights.push_back(RandomWeight(matrix.rows, matrix.cols));
  const std::unique_ptr<ExpertTable> table = MakeExpertTable(*ops_, weights);
  std::vector<int32_t> counts(experts);
  for (int64_t t = 0; t < tokens; ++t) {
    std::set<int64_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < per_token) {
      chosen.insert(random_.Int(0, experts - 1));
    }
    for (const int64_t e : chosen) ++counts[e];
  }
  std::vector<int32_t> offsets{0};
  for (const int32_t count : counts) offsets.push_back(offsets.back() + count);
  const auto used = std::count_if(counts.begin(), counts.end(), [](int32_t c) { return c > 0; });
  const TestTensor offsets_tensor = TestTensor::Ints(device(), {experts + 1}, offsets);
  const Tensor x = Activations({rows, matrix.cols});
  const Tensor out = Activations({rows, matrix.rows});
  Measure(absl::StrCat("experts ", matrix.name, ", ", tokens, " tokens on ", used),
          {.bytes = 2.0 * static_cast<double>(used * matrix.rows * matrix.cols +
                                              rows * (matrix.rows + matrix.cols)),
           .flops = 2.0 * static_cast<double>(rows * matrix.rows * matrix.cols)},
          [&] {
            ops_->GroupedGemm({.x = x.second,
                               .row_index = {},
                               .offsets = offsets_tensor,
                               .experts = table.get(),
                               .out = out.second});
          });
}

void KernelShares::Attention(int64_t sequences, int64_t query, int64_t context) {
  constexpr int32_t kQ = 32;
  constexpr int32_t kKv = 4;
  constexpr int64_t kDim = 128;
  const PagedSequences paged(device(), random_, sequences, query, context);
  const Tensor k = Activations({paged.num_blocks, kKv, PagedSequences::kBlock, kDim});
  const Tensor v = Activations({paged.num_blocks, kKv, PagedSequences::kBlock, kDim});
  const Tensor q = Activations({sequences * query, kQ * kDim});
  const Tensor out = Activations({sequences * query, kQ * kDim});
  Measure(absl::StrCat("attention ", sequences, " x ", query, " of ", context),
          {.bytes = 2.0 * static_cast<double>(2 * sequences * context * kKv * kDim +
                                              2 * sequences * query * kQ * kDim),
           .flops = static_cast<double>(sequences) * paged.visible_keys * 4 * kQ * kDim},
          [&] {
            ops_->PagedAttention({.q = q.second,
                                  .kv = {k.second, v.second},
                                  .block_tables = paged.block_tables,
                                  .cu_seqlens = paged.cu_seqlens,
                                  .context_lens = paged.context_lens,
                                  .num_q_heads = kQ,
                                  .num_kv_heads = kKv,
                                  .window = 0,
                                  .scale = 0.088F,
                                  .out = out.second});
          });
}

void KernelShares::Rows(int64_t tokens) {
  const int64_t hidden = Sized(2048, 256);
  const Tensor x = Activations({tokens, hidden});
  const Tensor add = Activations({tokens, hidden});
  const Tensor out = Activations({tokens, hidden});
  const TestTensor weight(device(), DType::kF32, {hidden}, std::vector<float>(hidden, 1.0F));
  Measure(
      absl::StrCat("rms_norm of a sum, ", tokens, " tokens"),
      {.bytes = 2.0 * static_cast<double>(4 * tokens * hidden)}, [&] {
        ops_->RmsNorm(
            {.x = x.second, .add = add.second, .weight = weight, .eps = 1e-6F, .out = out.second});
      });
  const Tensor wide = Activations({tokens * 8, 2 * hidden * 3 / 8});
  const Tensor product = Activations({tokens * 8, hidden * 3 / 8});
  Measure(absl::StrCat("silu_and_mul of 8 experts, ", tokens, " tokens"),
          {.bytes = 2.0 * static_cast<double>(3 * tokens * hidden * 3)},
          [&] { ops_->SiluAndMul({.x = wide.second, .num_rows = {}, .out = product.second}); });
}

void KernelShares::Sampling() {
  const int64_t vocab = Sized(151936, 1000);
  const auto sample = [&](const std::string& name, SampleRowCase row) {
    row.logits = random_.Normals(vocab, 3.0F);
    Report("sample " + name, {.bytes = 4.0 * static_cast<double>(vocab)},
           SecondsToSample(*ops_, row,
                           [&](const std::function<void()>& run) { return SecondsPerCall(run); }));
  };
  sample("greedy", {.temperature = 0});
  sample("temperature", {});
  sample("top_k 20, top_p 0.95", {.top_k = 20, .top_p = 0.95F});
}

void KernelShares::Gemms() {
  if (options_.small) {
    Gemm("small", {"qkv", 160, 72});
    return;
  }
  for (const Matrix& matrix :
       {Matrix{"qkv", 5120, 2048}, Matrix{"o", 2048, 4096}, Matrix{"lm_head", 151936, 2048, 128}}) {
    Gemm("30B-A3B", matrix);
  }
  for (const Matrix& matrix : {Matrix{"qkv", 6144, 4096}, Matrix{"o", 4096, 4096},
                               Matrix{"gate_up", 24576, 4096}, Matrix{"down", 4096, 12288}}) {
    Gemm("8B", matrix);
  }
}

void KernelShares::Others() {
  if (options_.small) {
    Experts({"gate_up", 48, 72}, 5);
    Attention(2, 1, 40);
  } else {
    for (const int64_t tokens : TokenCounts()) {
      Experts({"gate_up", 1536, 2048}, tokens);
      Experts({"down", 2048, 768}, tokens);
    }
    for (const int64_t sequences : {1, 8, 32, 128}) Attention(sequences, 1, 1024);
    Attention(1, 1, 32768);
    Attention(1, 4096, 4096);
    Attention(1, 512, 16384);
  }
  for (const int64_t tokens : TokenCounts()) Rows(tokens);
  Sampling();
}

absl::StatusOr<std::unique_ptr<Ops>> CreateMeasuredOps(const Options& options,
                                                       const Products& products) {
  ASSIGN_OR_RETURN(
      std::unique_ptr<Ops> ops,
      CreateOps({.backend = options.backend, .num_threads = 1, .gemm = products.gemm}));
  if (ops->ActivationDType(DType::kBF16) == DType::kBF16) return ops;
  return absl::InvalidArgumentError(
      absl::StrCat("backend ", options.backend, " computes bfloat16 models in another type"));
}

}  // namespace

int RunKernelShares(const std::vector<std::string>& arguments) {
  Options options;
  for (const auto& [key, value] : KeysAndValues(arguments)) {
    if (key == "--backend") options.backend = value;
    if (key == "--gpu") options.gpu = value;
    if (key == "--json") options.json = value;
    if (key == "--bandwidth" && !absl::SimpleAtod(value, &options.bandwidth)) return 2;
    if (key == "--small") options.small = true;
  }
  std::printf("%s: %.0f GB/s measured by a copy, %.1f TFLOP/s of the datasheet (0: not known)\n",
              options.backend.c_str(), options.bandwidth / 1e9, TensorPeak(options.gpu) / 1e12);
  std::vector<std::string> json;
  const Products cublas = {.gemm = "cublas", .suffix = " (cuBLASLt)"};
  for (const Products& products : {Products{}, cublas}) {
    absl::StatusOr<std::unique_ptr<Ops>> ops = CreateMeasuredOps(options, products);
    if (!ops.ok()) {
      std::fprintf(stderr, "%s\n", std::string(ops.status().message()).c_str());
      if (products.gemm == cublas.gemm) break;  // only a yardstick
      return 1;
    }
    KernelShares shares(options, products, *std::move(ops));
    shares.Gemms();
    if (products.gemm != cublas.gemm) shares.Others();
    json.insert(json.end(), shares.json().begin(), shares.json().end());
  }
  if (options.json.empty()) return 0;
  std::ofstream file(options.json);
  for (const std::string& line : json) file << line << "\n";
  return 0;
}

}  // namespace tessera::test
