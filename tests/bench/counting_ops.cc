#include "tests/bench/counting_ops.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/expert_table.h"
#include "kernels/queued/visit_tensors.h"

namespace tessera {
namespace {

class CountingWeight : public Weight {
 public:
  CountingWeight(int64_t rows, int64_t cols, DType dtype)
      : rows_(rows), cols_(cols), bytes_(rows * cols * SizeOf(dtype)) {}
  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t bytes() const override { return bytes_; }

 private:
  int64_t rows_, cols_;
  size_t bytes_;
};

// Adds up the views it is shown. Weights and caches are not read as a whole: they are counted where
// they are used.
class ViewBytes {
 public:
  explicit ViewBytes(double* bytes) : bytes_(bytes) {}
  void operator()(const ConstTensorView& view) const {
    *bytes_ += static_cast<double>(view.num_bytes());
  }
  void operator()(const PlacementTensors& placement) const {
    (*this)(placement.replica_offsets);
    (*this)(placement.replica_slots);
  }
  void operator()(const KvLayer& /*kv*/) const {}
  void operator()(const Weight* /*weight*/) const {}
  void operator()(const ExpertTable* /*table*/) const {}
  void operator()(const DispatchShape& /*numbers*/) const {}
  template <typename T>
  requires std::is_arithmetic_v<T>
  void operator()(T /*number*/) const {}

 private:
  double* bytes_;
};

template <typename Args>
double BytesOfViews(Args args) {
  double bytes = 0;
  VisitTensors(args, ViewBytes(&bytes));
  return bytes;
}

double Bytes(ConstTensorView view) { return static_cast<double>(view.num_bytes()); }

}  // namespace

absl::StatusOr<void*> CountingDevice::AllocateBytes(size_t bytes) {
  constexpr uintptr_t kAlignment = 256;
  void* const address = reinterpret_cast<void*>(next_);  // NOLINT(performance-no-int-to-ptr)
  next_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return address;
}

std::unique_ptr<Weight> CountingOps::MakeWeight(int64_t rows, int64_t cols) const {
  return std::make_unique<CountingWeight>(rows, cols, dtype_);
}

absl::StatusOr<std::unique_ptr<Weight>> CountingOps::PrepareWeight(const WeightSource& source) {
  int64_t rows = source.pad_rows;
  for (const HostMatrix& part : source.parts) rows += part.rows;
  return MakeWeight(rows, source.parts[0].cols);
}

absl::StatusOr<std::unique_ptr<ExpertTable>> CountingOps::CreateExpertTable(
    const ExpertTableShape& shape) {
  return std::make_unique<HostExpertTable>(shape);
}

template <typename Args>
void CountingOps::AddViews(std::string_view operation, const Args& args) {
  Add({.name = operation, .bytes = BytesOfViews(args)});
}

void CountingOps::Embed(const EmbedArgs& args) {
  Add({.name = "embed",
       .bytes = Bytes(args.ids) + Bytes(args.source) + Bytes(args.out) +
                Elements(static_cast<double>(args.out.num_elements()))});
}

// With `add`, x gets the sum.
void CountingOps::RmsNorm(const RmsNormArgs& args) {
  Add({.name = "rms_norm", .bytes = BytesOfViews(args) + (args.add.empty() ? 0 : Bytes(args.x))});
}

void CountingOps::Gemm(const GemmArgs& args) {
  Add({.name = "gemm",
       .bytes = BytesOfViews(args) + static_cast<double>(args.weight->bytes()),
       .flops = 2.0 * static_cast<double>(args.x.dim(0) * args.weight->rows()) *
                static_cast<double>(args.weight->cols())});
}

void CountingOps::GroupedGemm(const GroupedGemmArgs& args) {
  const ExpertTableShape& table = args.experts->shape();
  const auto slots = static_cast<double>(table.num_slots);
  const auto experts = static_cast<double>(batch_.num_experts);
  const auto top_k = static_cast<double>(batch_.top_k);
  // The views have room for every choice of every token.
  const double tokens = static_cast<double>(args.out.dim(0)) / std::min(top_k, slots);
  expert_rows_ = tokens * top_k * slots / experts;
  const double touched = slots * (1 - std::pow(1 - top_k / experts, tokens));
  const auto matrix = static_cast<double>(table.rows * table.cols);
  Add({.name = "grouped_gemm",
       .bytes =
           Elements(touched * matrix + expert_rows_ * static_cast<double>(table.rows + table.cols)),
       .flops = 2 * expert_rows_ * matrix});
}

// Queries are written back, keys and values into the cache.
void CountingOps::QkNormRopeStoreKv(const QkNormRopeStoreKvArgs& args) {
  const auto tokens = static_cast<double>(args.qkv.dim(0));
  Add({.name = "qk_norm_rope_store_kv",
       .bytes = 2 * Bytes(args.qkv) +
                tokens * static_cast<double>(args.cos_sin.dim(1) * SizeOf(DType::kF32)) +
                Bytes(args.positions) + Bytes(args.slot_mapping)});
}

void CountingOps::PagedAttention(const PagedAttentionArgs& args) {
  const auto sequences = static_cast<double>(args.context_lens.dim(0));
  const int64_t window = args.window > 0 ? args.window : batch_.context;
  double pairs = 0;  // of a query and a key
  for (int64_t position = batch_.context - batch_.query; position < batch_.context; ++position) {
    pairs += static_cast<double>(std::min(position + 1, window));
  }
  const auto keys = static_cast<double>(std::min(batch_.context, window + batch_.query - 1));
  const int64_t dim = args.out.dim(1) / args.num_q_heads;
  Add({.name = "paged_attention",
       .bytes = Bytes(args.q) + Bytes(args.out) +
                Elements(2 * sequences * keys * static_cast<double>(args.num_kv_heads * dim)),
       .flops = 4 * sequences * pairs * static_cast<double>(args.num_q_heads * dim)});
}

void CountingOps::SiluAndMul(const SiluAndMulArgs& args) {
  const double rows = args.num_rows.empty() ? static_cast<double>(args.x.dim(0)) : expert_rows_;
  Add({.name = "silu_and_mul", .bytes = Elements(3 * rows * static_cast<double>(args.out.dim(1)))});
}

void CountingOps::MoeFinalize(const MoeFinalizeArgs& args) {
  Add({.name = "moe_finalize",
       .bytes = BytesOfViews(args) - Bytes(args.y) +
                Elements(expert_rows_ * static_cast<double>(args.y.dim(1)))});
}

void CountingOps::GatherRows(const GatherRowsArgs& args) {
  Add({.name = "gather_rows", .bytes = Bytes(args.rows) + 2 * Bytes(args.out)});
}

void CountingOps::CopyBlocks(const CopyBlocksArgs& args) {
  const auto pairs = static_cast<double>(args.from.dim(0));
  const auto blocks = static_cast<double>(args.cache.dim(1));
  Add({.name = "copy_blocks",
       .bytes = Bytes(args.from) * 2 + 2 * Bytes(args.cache) * pairs / blocks});
}

// Without penalties and lists.
void CountingOps::Sample(const SampleArgs& args) {
  Add({.name = "sample", .bytes = Bytes(args.logits) + Bytes(args.token)});
}

}  // namespace tessera
