#include "server/commands/cluster_flags.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status_macros.h"
#include "parallel/cluster/node_address.h"
#include "server/commands/engine_flags.h"
#include "server/logging.h"
#include "server/version.h"

namespace tessera {
namespace {

constexpr int64_t kMaxNodes = 1024;

void AddAccessOptions(OptionTable* table, ClusterAccess* access) {
  table->Text("cluster-key-file", &access->key_file,
              "File with the key that all nodes share, at least 16 bytes.");
  table->Text("cluster-tls-ca", &access->tls.ca,
              "PEM file of the CA that signs the nodes; with it, control streams use mutual TLS.");
  table->Text("cluster-tls-cert", &access->tls.certificate, "PEM file of this node's certificate.");
  table->Text("cluster-tls-key", &access->tls.key, "PEM file of this node's private key.");
  table->Seconds("join-timeout", &access->join_timeout, 0,
                 "How long the nodes wait for each other, in seconds.");
}

absl::Status NeedsKey(const ClusterAccess& access) {
  if (!access.key_file.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      "--cluster-key-file: nodes need a shared key (for example: openssl rand -hex 32 > key)");
}

absl::Status CheckAddress(const char* option, const std::string& address) {
  const auto parsed = ParseHostPort(address);
  if (parsed.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(option, ": ", parsed.status().message()));
}

}  // namespace

void AddHeadOptions(OptionTable* table, RuntimeOptions* options) {
  HeadOptions* head = &options->head;
  table->Section("Several processes or hosts");
  table->Integer("nodes", &head->nodes, {1, kMaxNodes},
                 "Processes that share the ranks evenly: this one, the head, and so many less one "
                 "of \"tessera worker\".");
  table->Text("cluster-address", &head->address,
              "HOST:PORT or INTERFACE:PORT where the head waits for the other nodes.");
  AddAccessOptions(table, &head->access);
  table->Seconds("step-timeout", &options->engine.step_timeout, 1,
                 "A step or a silent node that takes longer ends the group, in seconds.");
}

void AddNodeOptions(OptionTable* table, NodeOptions* node) {
  constexpr int64_t kMaxThreads = 4096;
  table->Section("Group");
  table->Text("join", &node->head_address, "HOST:PORT of the head: its --cluster-address.");
  table->Text("node-address", &node->node_address,
              "Address or interface of this node for the other ranks; empty: the one that leads to "
              "the head.");
  table->Text("node-name", &node->node_name, "For messages; empty: host name and process id.");
  table->Integer("node-index", &node->node_index, {-1, kMaxNodes},
                 "Place in the group, from 1; -1: any that is free.");
  table->Integer(
      "threads", &node->num_threads, {0, kMaxThreads},
      "Threads of all ranks of this node; 0: the CPUs this process may use, by affinity and "
      "by the quota of its control groups.");
  AddCpuIsaOption(table, &node->cpu_isa);
  AddEmulatedGpusOption(table, &node->emulated_gpus);
  AddAccessOptions(table, &node->access);
}

absl::Status CheckHeadOptions(const HeadOptions& head) {
  if (head.nodes == 1) return absl::OkStatus();
  RETURN_IF_ERROR(CheckAddress("--cluster-address", head.address));
  return NeedsKey(head.access);
}

absl::Status CheckNodeOptions(const NodeOptions& node) {
  if (node.head_address.empty()) {
    return absl::InvalidArgumentError("--join: say where the head is, as HOST:PORT");
  }
  RETURN_IF_ERROR(CheckAddress("--join", node.head_address));
  return NeedsKey(node.access);
}

void AddLogFormatOption(OptionTable* table, std::string* format) {
  table->Choice("log-format", format, {"text", "json"},
                "Log lines as text, or each as a JSON object with time, level and message.");
}

LogFormat ParseLogFormat(const std::string& format) {
  return format == "json" ? LogFormat::kJson : LogFormat::kText;
}

void InitHeadLogging(const HeadOptions& head) { InitLogging(head.nodes > 1 ? "info" : "warning"); }

void CompleteAccess(ClusterAccess* access) {
  access->software_version = std::string(kVersion);
  access->log = [](std::string_view line) { LogInfo(std::string(line)); };
}

}  // namespace tessera
