#include "parallel/experts/dispatcher.h"

#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

DispatchShape MakeShape(const DispatcherOptions& options, int64_t capacity) {
  return {.num_ranks = options.placement.num_ranks,
          .slots_per_rank = options.placement.slots_per_rank,
          .top_k = options.top_k,
          .capacity = capacity};
}

// Rows of all chunks on the way back.
int64_t ReturnedRows(const DispatcherOptions& options, const DispatchShape& shape) {
  return options.combine == CombineMode::kExact ? shape.num_results() : shape.num_rows();
}

absl::Status CheckOptions(const Communicator& communicator, const DispatcherOptions& options) {
  const PlacementShape& placement = options.placement;
  if (options.max_tokens < 1 || options.hidden < 1 || options.top_k < 1 ||
      placement.slots_per_rank < 1 || options.top_k > placement.num_experts ||
      (options.dtype != DType::kF32 && options.dtype != DType::kBF16)) {
    return absl::InvalidArgumentError(
        absl::StrCat("expert dispatch is not possible with ", options.max_tokens, " tokens of ",
                     options.hidden, " elements, ", options.top_k, " of ", placement.num_experts,
                     " experts per token and ", placement.slots_per_rank, " slots per rank"));
  }
  if (placement.num_ranks != communicator.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the placement is for ", placement.num_ranks,
                                                   " ranks, the group has ", communicator.size()));
  }
  const int64_t most = std::numeric_limits<int32_t>::max() / placement.num_ranks /
                       MakeShape(options, options.max_tokens).row_slots();
  if (options.max_tokens > most) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.max_tokens, " tokens per rank on ", placement.num_ranks,
                     " ranks are more rows than expert row indices can count; use at most ", most));
  }
  return absl::OkStatus();
}

}  // namespace

// One allocation, cut into arrays for the largest capacity.
struct ExpertDispatcher::Buffers {
  enum Array {
    kSendCounts,
    kSendPairCounts,
    kSendTokens,
    kSendHeaders,
    kTokenRows,
    kPairRows,
    kRecvCounts,
    kRecvPairCounts,
    kReturnedCounts,
    kRecvHeaders,
    kOffsets,
    kRowIndex,
    kSortedRows,
    kResultRows,
    kSourceRows,  // rows sent, later results received
    kExpertRows,  // rows received, later results sent
    kNumArrays
  };

  // Bytes of every array, each a multiple of a cache line.
  static std::array<int64_t, kNumArrays> Sizes(const DispatcherOptions& options) {
    const DispatchShape shape = MakeShape(options, options.max_tokens);
    std::array<int64_t, kNumArrays> words{};
    words[kSendCounts] = words[kSendPairCounts] = shape.num_ranks;
    words[kRecvCounts] = words[kRecvPairCounts] = words[kReturnedCounts] = shape.num_ranks;
    words[kSendTokens] = words[kResultRows] = shape.num_rows();
    words[kSendHeaders] = words[kRecvHeaders] = shape.num_rows() * HeaderWords(shape.row_slots());
    words[kTokenRows] = shape.capacity * shape.rows_per_token();
    words[kPairRows] = shape.capacity * shape.top_k;
    words[kOffsets] = shape.slots_per_rank + 1;
    words[kRowIndex] = words[kSortedRows] = shape.num_results();
    std::array<int64_t, kNumArrays> sizes{};
    for (int i = 0; i < kNumArrays; ++i) sizes[i] = words[i] * int64_t{sizeof(int32_t)};
    sizes[kSourceRows] = sizes[kExpertRows] =
        ReturnedRows(options, shape) * options.hidden * static_cast<int64_t>(SizeOf(options.dtype));
    for (int64_t& size : sizes) size = (size + 63) / 64 * 64;
    return sizes;
  }

  TensorView View(Array array, DType dtype, std::initializer_list<int64_t> dims) const {
    return {base + offsets[array], dtype, dims};
  }
  TensorView Ints(Array array, std::initializer_list<int64_t> dims) const {
    return View(array, DType::kI32, dims);
  }
  TensorView Headers(Array array, const DispatchShape& shape) const {
    return Ints(array, {shape.num_rows(), HeaderWords(shape.row_slots())});
  }
  TensorView SortedRows(const DispatchShape& shape) const {
    return Ints(kSortedRows, {shape.num_rows(), shape.row_slots()});
  }

  char* base = nullptr;
  std::array<int64_t, kNumArrays> offsets{};
};

ExpertDispatcher::ExpertDispatcher(ExpertOps* ops, Communicator* communicator,
                                   const DispatcherOptions& options)
    : ops_(ops),
      communicator_(communicator),
      options_(options),
      buffers_(std::make_unique<Buffers>()) {}

ExpertDispatcher::~ExpertDispatcher() = default;

int64_t ExpertDispatcher::BufferBytes(const DispatcherOptions& options) {
  int64_t total = 0;
  for (int64_t size : Buffers::Sizes(options)) total += size;
  return total;
}

absl::StatusOr<std::unique_ptr<ExpertDispatcher>> ExpertDispatcher::Create(
    ExpertOps* ops, Communicator* communicator, const DispatcherOptions& options) {
  RETURN_IF_ERROR(CheckOptions(*communicator, options));
  std::unique_ptr<ExpertDispatcher> dispatcher(new ExpertDispatcher(ops, communicator, options));
  Buffers& buffers = *dispatcher->buffers_;
  const auto sizes = Buffers::Sizes(options);
  for (int i = 1; i < Buffers::kNumArrays; ++i) {
    buffers.offsets[i] = buffers.offsets[i - 1] + sizes[i - 1];
  }
  void* shared = nullptr;
  ASSIGN_OR_RETURN(shared, communicator->ShareMemory(BufferBytes(options)));
  if (shared == nullptr) {
    ASSIGN_OR_RETURN(dispatcher->memory_,
                     ops->device().Allocate(BufferBytes(options), "expert dispatch"));
    shared = dispatcher->memory_.data();
  }
  buffers.base = static_cast<char*>(shared);
  return dispatcher;
}

DispatchedRows ExpertDispatcher::Dispatch(ConstTensorView x, const Routing& routing) {
  const int64_t num_tokens = x.dim(0);
  const int64_t capacity = routing.capacity == 0 ? options_.max_tokens : routing.capacity;
  TESSERA_CHECK(!outstanding_);
  TESSERA_CHECK(num_tokens <= capacity && capacity <= options_.max_tokens);
  TESSERA_CHECK(x.dtype() == options_.dtype && x.dim(1) == options_.hidden);
  TESSERA_CHECK(routing.ids.dim(0) == num_tokens && routing.ids.dim(1) == options_.top_k);
  TESSERA_CHECK(routing.placement->current().shape() == options_.placement);
  outstanding_ = true;

  const DispatchShape shape = MakeShape(options_, capacity);
  DispatchHandle handle(shape, Pads(capacity), num_tokens, routing.weights);
  EnqueuePlan(handle, x, routing);
  EnqueueExchange(handle);
  EnqueueSort(handle);
  const ConstTensorView offsets = buffers_->Ints(Buffers::kOffsets, {shape.slots_per_rank + 1});
  return {.x = buffers_->View(Buffers::kExpertRows, options_.dtype,
                              {shape.num_rows(), options_.hidden}),
          .row_index = buffers_->Ints(Buffers::kRowIndex, {shape.num_results()}),
          .offsets = offsets,
          .num_rows = offsets.Rows(shape.slots_per_rank, 1),
          .max_rows = shape.num_results(),
          .handle = std::move(handle)};
}

bool ExpertDispatcher::Pads(int64_t capacity) const {
  if (options_.exchange != ExchangeMode::kPaddedIfSmall) {
    return options_.exchange == ExchangeMode::kPadded;
  }
  const int64_t row_bytes = options_.hidden * static_cast<int64_t>(SizeOf(options_.dtype));
  return !shares_memory() &&
         ReturnedRows(options_, MakeShape(options_, capacity)) * row_bytes <= options_.small_bytes;
}

void ExpertDispatcher::EnqueuePlan(const DispatchHandle& handle, ConstTensorView x,
                                   const Routing& routing) {
  const DispatchShape& shape = handle.shape_;
  const TensorView send_counts = buffers_->Ints(Buffers::kSendCounts, {shape.num_ranks});
  const TensorView send_tokens = buffers_->Ints(Buffers::kSendTokens, {shape.num_rows()});
  ops_->PlanDispatch(
      {.shape = shape,
       .placement = routing.placement->tensors(),
       .rank = communicator_->rank(),
       .clear_unused = handle.padded_,
       .ids = routing.ids,
       .weights = routing.weights,
       .send_counts = send_counts,
       .pair_counts = buffers_->Ints(Buffers::kSendPairCounts, {shape.num_ranks}),
       .send_tokens = send_tokens,
       .headers = buffers_->Headers(Buffers::kSendHeaders, shape),
       .token_rows = buffers_->Ints(Buffers::kTokenRows, {x.dim(0), shape.rows_per_token()}),
       .pair_rows = buffers_->Ints(Buffers::kPairRows, {x.dim(0), shape.top_k})});
  ops_->PackRows({.shape = shape,
                  .x = x,
                  .send_counts = send_counts,
                  .send_tokens = send_tokens,
                  .chunks = buffers_->View(Buffers::kSourceRows, options_.dtype,
                                           {shape.num_rows(), options_.hidden})});
}

void ExpertDispatcher::EnqueueExchange(const DispatchHandle& handle) {
  const DispatchShape& shape = handle.shape_;
  const auto rows = [&](Buffers::Array array) {
    return buffers_->View(array, options_.dtype, {shape.num_rows(), options_.hidden});
  };
  const std::array<AllToAllPart, 2> parts = {
      AllToAllPart{rows(Buffers::kSourceRows), rows(Buffers::kExpertRows)},
      AllToAllPart{buffers_->Headers(Buffers::kSendHeaders, shape),
                   buffers_->Headers(Buffers::kRecvHeaders, shape)}};
  if (handle.padded_) {
    communicator_->AllToAll(parts);
  } else {
    communicator_->AllToAllV(parts, buffers_->Ints(Buffers::kSendCounts, {shape.num_ranks}),
                             buffers_->Ints(Buffers::kRecvCounts, {shape.num_ranks}));
  }
}

void ExpertDispatcher::EnqueueSort(const DispatchHandle& handle) {
  const DispatchShape& shape = handle.shape_;
  ops_->SortRows({.shape = shape,
                  .padded = handle.padded_,
                  .headers = buffers_->Headers(Buffers::kRecvHeaders, shape),
                  .recv_counts = buffers_->Ints(Buffers::kRecvCounts, {shape.num_ranks}),
                  .pair_counts = buffers_->Ints(Buffers::kRecvPairCounts, {shape.num_ranks}),
                  .offsets = buffers_->Ints(Buffers::kOffsets, {shape.slots_per_rank + 1}),
                  .row_index = buffers_->Ints(Buffers::kRowIndex, {shape.num_results()}),
                  .sorted_rows = buffers_->SortedRows(shape),
                  .result_rows = buffers_->Ints(Buffers::kResultRows, {shape.num_rows()})});
}

void ExpertDispatcher::Combine(DispatchHandle handle, ConstTensorView y, TensorView out) {
  const DispatchShape& shape = handle.shape_;
  TESSERA_CHECK(outstanding_);
  TESSERA_CHECK(y.dtype() == options_.dtype && y.dim(1) == options_.hidden);
  TESSERA_CHECK(out.dtype() == options_.dtype && out.dim(0) == handle.num_tokens_);
  outstanding_ = false;
  EnqueueResults(shape, y);
  EnqueueReturn(handle);
  EnqueueSum(handle, out);
}

void ExpertDispatcher::EnqueueResults(const DispatchShape& shape, ConstTensorView y) {
  const ConstTensorView headers = buffers_->Headers(Buffers::kRecvHeaders, shape);
  const ConstTensorView recv_counts = buffers_->Ints(Buffers::kRecvCounts, {shape.num_ranks});
  const TensorView chunks = buffers_->View(Buffers::kExpertRows, options_.dtype,
                                           {ReturnedRows(options_, shape), options_.hidden});
  if (exact()) {
    ops_->PackResults({.shape = shape,
                       .headers = headers,
                       .recv_counts = recv_counts,
                       .sorted_rows = buffers_->SortedRows(shape),
                       .result_rows = buffers_->Ints(Buffers::kResultRows, {shape.num_rows()}),
                       .y = y,
                       .chunks = chunks});
  } else {
    ops_->SumResults({.shape = shape,
                      .headers = headers,
                      .recv_counts = recv_counts,
                      .sorted_rows = buffers_->SortedRows(shape),
                      .y = y,
                      .chunks = chunks});
  }
}

void ExpertDispatcher::EnqueueReturn(const DispatchHandle& handle) {
  const DispatchShape& shape = handle.shape_;
  const auto rows = [&](Buffers::Array array) {
    return buffers_->View(array, options_.dtype, {ReturnedRows(options_, shape), options_.hidden});
  };
  const AllToAllPart part{rows(Buffers::kExpertRows), rows(Buffers::kSourceRows)};
  if (handle.padded_) {
    communicator_->AllToAll({&part, 1});
    return;
  }
  const auto counts = [&](Buffers::Array array) {
    return buffers_->Ints(array, {shape.num_ranks});
  };
  const TensorView returned = counts(Buffers::kReturnedCounts);
  communicator_->AllToAllV(
      {&part, 1}, counts(exact() ? Buffers::kRecvPairCounts : Buffers::kRecvCounts), returned);
  ops_->CheckReturn({.sent = counts(exact() ? Buffers::kSendPairCounts : Buffers::kSendCounts),
                     .returned = returned});
}

void ExpertDispatcher::EnqueueSum(const DispatchHandle& handle, TensorView out) {
  const DispatchShape& shape = handle.shape_;
  const ConstTensorView results = buffers_->View(Buffers::kSourceRows, options_.dtype,
                                                 {ReturnedRows(options_, shape), options_.hidden});
  if (exact()) {
    ops_->MoeFinalize(
        {.y = results,
         .positions = buffers_->Ints(Buffers::kPairRows, {handle.num_tokens_, shape.top_k}),
         .weights = handle.weights_,
         .out = out});
  } else {
    ops_->AddRanks({.chunks = results,
                    .token_rows = buffers_->Ints(Buffers::kTokenRows,
                                                 {handle.num_tokens_, shape.rows_per_token()}),
                    .out = out});
  }
}

}  // namespace tessera
