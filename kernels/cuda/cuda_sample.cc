#include "kernels/cuda/cuda_sample.h"

#include "kernels/cuda/operations.h"

namespace tessera::cuda {
namespace {

uint32_t* Bits(const TensorView& view) { return static_cast<uint32_t*>(view.data()); }
const uint32_t* Bits(const ConstTensorView& view) {
  return static_cast<const uint32_t*>(view.data());
}

void SetLists(const SampleArgs& args, SampleLaunch& launch) {
  launch.penalty_slot = args.penalty_slot.as<int32_t>();
  launch.penalty_reset = args.penalty_reset.as<int32_t>();
  launch.penalty_listed = Bits(args.penalty_listed);
  launch.listed_stride = args.penalty_listed.stride0();
  launch.penalty_counts = args.penalty_counts.as<int32_t>();
  launch.counts_stride = args.penalty_counts.stride0();
  launch.pen_offsets = args.pen_offsets.as<int32_t>();
  launch.pen_tokens = args.pen_tokens.as<int32_t>();
  launch.pen_counts = args.pen_counts.as<int32_t>();
  launch.adj_offsets = args.adj_offsets.as<int32_t>();
  launch.adj_tokens = args.adj_tokens.as<int32_t>();
  launch.adj_values = args.adj_values.as<float>();
  launch.adjustments = static_cast<int32_t>(args.adj_tokens.num_elements());
  launch.masks = Bits(args.masks);
  launch.masks_stride = args.masks.stride0();
  launch.mask_row = args.mask_row.as<int32_t>();
  launch.mask_penalty = args.mask_penalty.as<float>();
}

void SetResults(const SampleArgs& args, SampleLaunch& launch) {
  launch.num_logprobs = args.num_logprobs.as<int32_t>();
  launch.token = args.token.as<int32_t>();
  launch.logprob = args.logprob.as<float>();
  launch.rank = args.rank.as<int32_t>();
  launch.top_tokens = args.top_tokens.as<int32_t>();
  launch.top_tokens_stride = args.top_tokens.stride0();
  launch.top_logprobs = args.top_logprobs.as<float>();
  launch.top_logprobs_stride = args.top_logprobs.stride0();
}

// Only sm_90a code holds the kernel for clusters: later GPUs run what was compiled for sm_80.
bool SpreadsRows(const Context& context, const SampleLaunch& launch) {
  constexpr int32_t kWorthIt = 32768;  // ids; below, waiting for the cluster costs more
  return context.compute_capability == 90 && launch.vocab >= kWorthIt &&
         launch.rows < context.multiprocessors;
}

}  // namespace

SampleLaunch SampleLaunchOf(const SampleArgs& args) {
  SampleLaunch launch{.rows = static_cast<int32_t>(args.logits.dim(0)),
                      .vocab = static_cast<int32_t>(args.logits.dim(1)),
                      .logits = args.logits.as<float>(),
                      .logits_stride = args.logits.stride0(),
                      .forced = args.forced.as<int32_t>(),
                      .temperature = args.temperature.as<float>(),
                      .top_k = args.top_k.as<int32_t>(),
                      .top_p = args.top_p.as<float>(),
                      .min_p = args.min_p.as<float>(),
                      .repetition_penalty = args.repetition_penalty.as<float>(),
                      .presence_penalty = args.presence_penalty.as<float>(),
                      .frequency_penalty = args.frequency_penalty.as<float>(),
                      .seed = args.seed.as<int64_t>(),
                      .position = args.position.as<int32_t>()};
  SetLists(args, launch);
  SetResults(args, launch);
  return launch;
}

cudaError_t Sample(const Context& context, const SampleArgs& args) {
  SampleLaunch launch = SampleLaunchOf(args);
  launch.clusters = SpreadsRows(context, launch);
  return LaunchSample(context.stream, launch);
}

}  // namespace tessera::cuda
