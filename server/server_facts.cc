#include "server/server_facts.h"

#include <string>

#include "server/version.h"

namespace tessera {

v1::GetModelInfoResponse ModelFacts(const ServedModel& model) {
  v1::GetModelInfoResponse out;
  out.set_name(model.name);
  out.set_architecture(model.architecture);
  out.set_vocab_size(model.vocab_size);
  out.set_max_model_len(model.max_model_len);
  out.set_num_parameters(model.num_parameters);
  out.set_num_active_parameters(model.num_active_parameters);
  out.set_dtype(model.dtype);
  const GenerationConfig& generation = model.generation;
  out.mutable_eos_token_ids()->Add(generation.eos_token_ids.begin(),
                                   generation.eos_token_ids.end());
  out.set_has_chat_template(model.has_chat_template);
  out.set_supports_reasoning(model.supports_reasoning());
  v1::SamplingOptions* sampling = out.mutable_default_sampling();
  if (generation.do_sample == false) sampling->set_temperature(0);
  if (generation.temperature) sampling->set_temperature(*generation.temperature);
  if (generation.top_k) sampling->set_top_k(*generation.top_k);
  if (generation.top_p) sampling->set_top_p(*generation.top_p);
  if (generation.min_p) sampling->set_min_p(*generation.min_p);
  if (generation.repetition_penalty) {
    sampling->set_repetition_penalty(*generation.repetition_penalty);
  }
  return out;
}

v1::GetServerInfoResponse ServerFacts(const InferenceContext& context) {
  v1::GetServerInfoResponse out;
  const ModelOptions& model = context.engine_options.model;
  out.set_version(std::string(kVersion));
  out.set_backend(model.backend);
  out.set_tensor_parallel_size(model.layout.tensor_parallel);
  out.set_data_parallel_size(model.layout.data_parallel);
  out.set_expert_parallel(model.layout.expert_parallel);
  out.set_uptime_seconds(absl::ToDoubleSeconds(context.clock.Now() - context.start_time));
  out.set_ready(context.ready.load());
  out.set_max_message_bytes(context.limits.max_message_bytes);
  out.set_max_concurrent_requests(context.limits.max_concurrent_requests);
  out.set_max_num_seqs(context.engine_options.scheduler.max_num_seqs);
  out.set_max_num_batched_tokens(context.engine_options.scheduler.max_num_batched_tokens);
  return out;
}

v1::GetLoadResponse LoadFacts(const InferenceContext& context) {
  const EngineStats stats = context.engine->stats();
  v1::GetLoadResponse out;
  out.set_num_running(stats.num_running);
  out.set_num_waiting(stats.num_waiting);
  out.set_num_waiting_tokens(stats.num_waiting_tokens);
  out.set_kv_blocks_total(stats.kv_blocks_total);
  out.set_kv_blocks_used(stats.kv_blocks_used);
  out.set_kv_blocks_cached(stats.kv_blocks_cached);
  out.set_kv_blocks_free(stats.kv_blocks_free);
  out.set_active_requests(context.active.size());
  return out;
}

}  // namespace tessera
