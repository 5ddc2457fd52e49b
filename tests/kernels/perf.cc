// kernels_test --perf [--backend=cpu] [--threads=N] [--dtype=bfloat16|float32] [--filter=text]
//                     [--cpu-isa=auto|portable|avx2|avx512|avx512bf16|amx]
// measures every operation at the shapes of Qwen3-0.6B (dense) and Qwen3-30B-A3B (experts) and
// relates it to what this machine can do: reading memory and multiplying.
#include "tests/kernels/perf.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/bit_mask.h"
#include "kernels/core/thread_pool.h"
#include "kernels/ops.h"
#include "tests/kernels/ceilings.h"
#include "tests/kernels/op_test.h"
#include "tests/kernels/perf_inputs.h"
#include "tests/kernels/sample_case.h"

namespace tessera::test {
namespace {

struct PerfOptions {
  std::string backend = "cpu";
  std::string filter;
  std::string cpu_isa = "auto";
  DType dtype = DType::kBF16;
  int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
};

// Median seconds of one call of `run`, which only enqueues.
double SecondsPerCall(Device& device, const std::function<void()>& run) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [&](int64_t calls) {
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < calls; ++i) run();
    TESSERA_CHECK(device.Synchronize().ok());
    return std::chrono::duration<double>(Clock::now() - start).count() / static_cast<double>(calls);
  };
  const double first = seconds(1);
  if (first > 1.0) return first;
  constexpr double kSecondsPerSample = 0.03;
  const double estimate = std::max(1e-8, std::min(first, seconds(1)));
  const auto calls = static_cast<int64_t>(std::max(1.0, kSecondsPerSample / estimate));
  std::vector<double> samples(7);
  for (double& sample : samples) sample = seconds(calls);
  std::nth_element(samples.begin(), samples.begin() + 3, samples.end());
  return samples[3];
}

class Perf {
 public:
  Perf(const PerfOptions& options, std::unique_ptr<Ops> ops)
      : options_(options),
        ops_(std::move(ops)),
        act_(ops_->ActivationDType(options.dtype)),
        ceilings_(MeasureCeilings(options.threads)) {}

  void RunAll();

 private:
  Device& device() { return ops_->device(); }
  TestTensor Activations(int64_t rows, int64_t width, DType dtype) {
    return TestTensor(device(), dtype, {rows, width}, random_.Normals(rows * width));
  }
  TestTensor Ones(int64_t width) {
    return TestTensor(device(), DType::kF32, {width}, std::vector<float>(width, 1.0F));
  }
  double ActBytes(int64_t elements) const {
    return static_cast<double>(elements) * static_cast<double>(SizeOf(act_));
  }
  // Of what a bfloat16 model multiplies with on this machine.
  double FlopsCeiling() const {
    const bool tiles = options_.dtype == DType::kBF16 && ceilings_.tile_flops_per_second > 0;
    return tiles ? ceilings_.tile_flops_per_second : ceilings_.flops_per_second;
  }
  bool Wanted(const std::string& name) const {
    return name.find(options_.filter) != std::string::npos;
  }
  std::unique_ptr<Weight> RandomWeight(int64_t rows, int64_t cols) {
    return SmallWeight(*ops_, rows, cols, options_.dtype);
  }
  void Report(const std::string& name, double bytes, double flops,
              const std::function<void()>& run);

  void Gemms();
  void GroupedGemms(int64_t tokens);
  void Attention(int64_t sequences, int64_t query, int64_t context);
  void RowOps(int64_t tokens);
  void Routing(int64_t tokens);
  void Sampling(const std::string& name, const SampleRowCase& row);

  const PerfOptions options_;
  const std::unique_ptr<Ops> ops_;
  const DType act_;
  const Ceilings ceilings_;
  Random random_{1};
};

void Perf::Report(const std::string& name, double bytes, double flops,
                  const std::function<void()>& run) {
  const double seconds = SecondsPerCall(device(), run);
  const double bandwidth = bytes / seconds;
  const double rate = flops / seconds;
  std::printf("%-44s %10.1f us %8.2f GB/s %4.0f%% %9.2f GFLOP/s %4.0f%%\n", name.c_str(),
              seconds * 1e6, bandwidth / 1e9, 100 * bandwidth / ceilings_.bytes_per_second,
              rate / 1e9, 100 * rate / FlopsCeiling());
  std::fflush(stdout);
}

void Perf::Gemms() {
  struct Shape {
    const char* name;
    int64_t rows, cols, max_tokens;
  };
  for (const Shape& shape : {Shape{"qkv", 4096, 1024, 512}, Shape{"o", 1024, 2048, 512},
                             Shape{"gate_up", 6144, 1024, 512}, Shape{"down", 1024, 3072, 512},
                             Shape{"lm_head", 151936, 1024, 32}}) {
    const auto name_of = [&](int64_t m) {
      return std::string("gemm ") + shape.name + " " + std::to_string(m) + "x" +
             std::to_string(shape.rows) + "x" + std::to_string(shape.cols);
    };
    const std::vector<int64_t> all_rows{1, 2, 4, 8, 16, 32, 64, 512};
    if (std::none_of(all_rows.begin(), all_rows.end(),
                     [&](int64_t m) { return Wanted(name_of(m)); })) {
      continue;
    }
    // Enough copies that a step finds none of them in a cache.
    constexpr int64_t kUncachedBytes = 160 << 20;
    std::vector<std::unique_ptr<Weight>> weights;
    int64_t held = 0;
    while (held < kUncachedBytes) {
      weights.push_back(RandomWeight(shape.rows, shape.cols));
      held += static_cast<int64_t>(weights.back()->bytes());
    }
    for (int64_t m : all_rows) {
      if (m > shape.max_tokens || !Wanted(name_of(m))) continue;
      const TestTensor x = Activations(m, shape.cols, act_);
      const TestTensor out(device(), act_, {m, shape.rows});
      size_t next = 0;
      Report(
          name_of(m),
          static_cast<double>(weights[0]->bytes()) + ActBytes(m * (shape.rows + shape.cols)),
          2.0 * static_cast<double>(m * shape.rows * shape.cols), [&] {
            ops_->Gemm(
                {.x = x, .weight = weights[next++ % weights.size()].get(), .bias = {}, .out = out});
          });
    }
  }
}

void Perf::GroupedGemms(int64_t tokens) {
  constexpr int64_t kExperts = 32;  // a quarter of the model's 128: the rank of an EP of four
  constexpr int64_t kTopK = 2;
  constexpr int64_t kRows = 1536;
  constexpr int64_t kCols = 2048;
  const std::string name = "grouped_gemm gate_up " + std::to_string(tokens) + " tokens";
  if (!Wanted(name)) return;
  std::vector<std::unique_ptr<Weight>> owned;
  std::vector<int32_t> counts(kExperts);
  for (int64_t e = 0; e < kExperts; ++e) {
    owned.push_back(RandomWeight(kRows, kCols));
  }
  const std::unique_ptr<ExpertTable> experts = MakeExpertTable(*ops_, owned);
  for (int64_t i = 0; i < tokens * kTopK; ++i) ++counts[random_.Int(0, kExperts - 1)];
  std::vector<int32_t> offsets{0};
  for (int32_t count : counts) offsets.push_back(offsets.back() + count);
  const auto used = std::count_if(counts.begin(), counts.end(), [](int32_t c) { return c > 0; });
  const TestTensor x = Activations(tokens * kTopK, kCols, act_);
  const TestTensor offsets_tensor = TestTensor::Ints(device(), {kExperts + 1}, offsets);
  const TestTensor out(device(), act_, {tokens * kTopK, kRows});
  Report(name,
         static_cast<double>(used) * static_cast<double>(owned[0]->bytes()) +
             ActBytes(tokens * kTopK * (kRows + kCols)),
         2.0 * static_cast<double>(tokens * kTopK * kRows * kCols), [&] {
           ops_->GroupedGemm({.x = x,
                              .row_index = {},
                              .offsets = offsets_tensor,
                              .experts = experts.get(),
                              .out = out});
         });
}

void Perf::Attention(int64_t sequences, int64_t query, int64_t context) {
  constexpr int64_t kQ = 16;
  constexpr int64_t kKv = 8;
  constexpr int64_t kDim = 128;
  const std::string name = "attention " + std::to_string(sequences) + " x " +
                           std::to_string(query) + " queries, context " + std::to_string(context);
  if (!Wanted(name)) return;
  const PagedSequences paged(device(), random_, sequences, query, context);
  const std::vector<int64_t> cache{paged.num_blocks, kKv, PagedSequences::kBlock, kDim};
  const int64_t elements = paged.num_blocks * kKv * PagedSequences::kBlock * kDim;
  const TestTensor k(device(), DType::kBF16, cache, random_.Normals(elements));
  const TestTensor v(device(), DType::kBF16, cache, random_.Normals(elements));
  const TestTensor q = Activations(sequences * query, kQ * kDim, act_);
  const TestTensor out(device(), act_, {sequences * query, kQ * kDim});
  Report(name, static_cast<double>(2 * elements * 2),
         static_cast<double>(sequences) * paged.visible_keys * 4 * kQ * kDim, [&] {
           ops_->PagedAttention({.q = q,
                                 .kv = {k, v},
                                 .block_tables = paged.block_tables,
                                 .cu_seqlens = paged.cu_seqlens,
                                 .context_lens = paged.context_lens,
                                 .num_q_heads = kQ,
                                 .num_kv_heads = kKv,
                                 .window = 0,
                                 .scale = 0.088F,
                                 .out = out});
         });
}

void Perf::RowOps(int64_t tokens) {
  constexpr int64_t kHidden = 1024;
  constexpr int64_t kWidth = 3072;
  constexpr int64_t kQ = 16;
  constexpr int64_t kKv = 8;
  constexpr int64_t kDim = 128;
  const std::string suffix = " " + std::to_string(tokens) + " tokens";
  if (Wanted("rms_norm" + suffix)) {
    const TestTensor x = Activations(tokens, kHidden, act_);
    const TestTensor add(device(), act_, {tokens, kHidden},
                         std::vector<float>(tokens * kHidden, 1e-3F));
    const TestTensor weight = Ones(kHidden);
    const TestTensor out(device(), act_, {tokens, kHidden});
    Report("rms_norm" + suffix, 4 * ActBytes(tokens * kHidden),
           5.0 * static_cast<double>(tokens * kHidden), [&] {
             ops_->RmsNorm({.x = x, .add = add, .weight = weight, .eps = 1e-6F, .out = out});
           });
  }
  if (Wanted("silu_and_mul" + suffix)) {
    const TestTensor x = Activations(tokens, 2 * kWidth, act_);
    const TestTensor out(device(), act_, {tokens, kWidth});
    Report("silu_and_mul" + suffix, 3 * ActBytes(tokens * kWidth),
           10.0 * static_cast<double>(tokens * kWidth),
           [&] { ops_->SiluAndMul({.x = x, .num_rows = {}, .out = out}); });
  }
  if (Wanted("qk_norm_rope_store" + suffix)) {
    const int64_t width = (kQ + 2 * kKv) * kDim;
    const int64_t blocks = tokens / 16 + 1;
    std::vector<int32_t> slots(tokens);
    std::iota(slots.begin(), slots.end(), 0);
    const TestTensor qkv = Activations(tokens, width, act_);
    const TestTensor norm = Ones(kDim);
    const TestTensor table(device(), DType::kF32, {tokens, kDim},
                           std::vector<float>(tokens * kDim, 0.7F));
    const TestTensor slots_tensor = TestTensor::Ints(device(), {tokens}, slots);
    const TestTensor k(device(), DType::kBF16, {blocks, kKv, 16, kDim});
    const TestTensor v(device(), DType::kBF16, {blocks, kKv, 16, kDim});
    Report("qk_norm_rope_store" + suffix, 2 * ActBytes(tokens * width),
           8.0 * static_cast<double>(tokens * width), [&] {
             ops_->QkNormRopeStoreKv({.qkv = qkv,
                                      .q_norm = norm,
                                      .k_norm = norm,
                                      .cos_sin = table,
                                      .positions = slots_tensor,
                                      .slot_mapping = slots_tensor,
                                      .kv = {k, v},
                                      .num_q_heads = kQ,
                                      .num_kv_heads = kKv,
                                      .eps = 1e-6F});
           });
  }
}

void Perf::Routing(int64_t tokens) {
  constexpr int64_t kExperts = 128;
  constexpr int64_t kTopK = 8;
  constexpr int64_t kHidden = 2048;
  const std::string suffix = " " + std::to_string(tokens) + " tokens";
  if (!Wanted("moe" + suffix)) return;
  const TestTensor logits = Activations(tokens, kExperts, DType::kF32);
  const TestTensor ids(device(), DType::kI32, {tokens, kTopK});
  const TestTensor weights(device(), DType::kF32, {tokens, kTopK});
  Report("moe route_top_k" + suffix, 4.0 * static_cast<double>(tokens * kExperts), 0, [&] {
    ops_->RouteTopK({.logits = logits, .normalize = true, .ids = ids, .weights = weights});
  });
  const TestTensor offsets(device(), DType::kI32, {kExperts + 1});
  const TestTensor row_token(device(), DType::kI32, {tokens * kTopK});
  const TestTensor positions(device(), DType::kI32, {tokens, kTopK});
  Report("moe permute" + suffix, 12.0 * static_cast<double>(tokens * kTopK), 0, [&] {
    ops_->MoePermute({.ids = ids,
                      .expert_begin = 0,
                      .num_experts = kExperts,
                      .offsets = offsets,
                      .row_token = row_token,
                      .positions = positions});
  });
  const TestTensor y = Activations(tokens * kTopK, kHidden, act_);
  const TestTensor out(device(), act_, {tokens, kHidden});
  Report("moe finalize" + suffix, ActBytes(tokens * (kTopK + 1) * kHidden),
         2.0 * static_cast<double>(tokens * kTopK * kHidden), [&] {
           ops_->MoeFinalize({.y = y, .positions = positions, .weights = weights, .out = out});
         });
}

// Each logit has to be read at least once.
void Perf::Sampling(const std::string& name, const SampleRowCase& row) {
  if (!Wanted("sample " + name)) return;
  const double floor =
      static_cast<double>(row.logits.size() * sizeof(float)) / ceilings_.bytes_per_second;
  const double value = SecondsToSample(
      *ops_, row, [&](const std::function<void()>& run) { return SecondsPerCall(device(), run); });
  std::printf("%-44s %10.1f us, floor %.1f us, ratio %.2f\n", ("sample " + name).c_str(),
              value * 1e6, floor * 1e6, floor / value);
  std::fflush(stdout);
}

void Perf::RunAll() {
  std::printf("backend %s, %d threads, %s model, activations %s\n", options_.backend.c_str(),
              options_.threads, std::string(DTypeName(options_.dtype)).c_str(),
              std::string(DTypeName(act_)).c_str());
  std::printf(
      "ceilings: %.2f GB/s read, %.1f GFLOP/s fp32, %.1f GFLOP/s tiles; fork-join %.2f us\n",
      ceilings_.bytes_per_second / 1e9, ceilings_.flops_per_second / 1e9,
      ceilings_.tile_flops_per_second / 1e9, ceilings_.fork_join_seconds * 1e6);
  Gemms();
  for (int64_t tokens : {1, 16, 256}) GroupedGemms(tokens);
  Attention(1, 1, 256);
  Attention(1, 1, 4096);
  Attention(8, 1, 1024);
  Attention(1, 512, 512);
  Attention(1, 128, 4096);
  for (int64_t tokens : {1, 16, 512}) {
    RowOps(tokens);
    Routing(tokens);
  }
  const auto sample = [&](const std::string& name, SampleRowCase row) {
    row.logits = random_.Normals(151936, 3.0F);
    Sampling(name, row);
  };
  sample("greedy", {.temperature = 0});
  sample("greedy, 5 logprobs", {.temperature = 0, .num_logprobs = 5});
  sample("temperature", {});
  sample("temperature, 5 logprobs", {.num_logprobs = 5});
  sample("top_p 0.95", {.top_p = 0.95F});
  sample("top_k 20", {.top_k = 20});
  sample("top_k 20, top_p 0.95", {.top_k = 20, .top_p = 0.95F});
  sample("top_k 20000, top_p 0.95", {.top_k = 20000, .top_p = 0.95F});
  sample("min_p 0.05", {.min_p = 0.05F});
  for (const int32_t listed : {100, 1000, 10000}) {
    SampleRowCase row{.repetition_penalty = 1.1F, .presence_penalty = 0.5F};
    row.counts.resize(151936, -1);
    for (int32_t i = 0; i < listed; ++i) row.counts[i * (151936 / listed)] = i % 3;
    sample(absl::StrCat("penalties, ", listed, " tokens"), row);
    row.top_p = 0.95F;
    sample(absl::StrCat("penalties, ", listed, " tokens, top_p 0.95"), row);
  }
  for (const int32_t every : {2, 1000}) {
    SampleRowCase row{.temperature = 0};
    row.mask.resize(MaskWords(151936));
    for (int32_t i = 0; i < 151936; i += every) AddToMask(row.mask.data(), i);
    sample(absl::StrCat("one of ", every, " tokens allowed, greedy"), row);
    row.temperature = 1;
    row.top_p = 0.95F;
    sample(absl::StrCat("one of ", every, " tokens allowed, top_p 0.95"), row);
  }
}

}  // namespace

int RunPerf(const std::vector<std::string>& arguments) {
  PerfOptions options;
  for (const auto& [key, value] : KeysAndValues(arguments)) {
    if (key == "--backend") options.backend = value;
    if (key == "--threads") options.threads = std::max(1, std::atoi(value.c_str()));
    if (key == "--filter") options.filter = value;
    if (key == "--cpu-isa") options.cpu_isa = value;
    if (key == "--dtype") options.dtype = ParseDType(value).value_or(DType::kBF16);
  }
  absl::StatusOr<std::unique_ptr<Ops>> ops = CreateOps({.backend = options.backend,
                                                        .num_threads = options.threads,
                                                        .spin = true,
                                                        .cpu_isa = options.cpu_isa});
  if (!ops.ok()) {
    std::fprintf(stderr, "%s\n", std::string(ops.status().message()).c_str());
    return 1;
  }
  Perf(options, *std::move(ops)).RunAll();
  return 0;
}

}  // namespace tessera::test
