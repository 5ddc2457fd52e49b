// How the nodes of one group find and trust each other.
#ifndef TESSERA_ENGINE_EXECUTOR_CLUSTER_OPTIONS_H_
#define TESSERA_ENGINE_EXECUTOR_CLUSTER_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "parallel/cluster/credentials.h"

namespace tessera {

// The same on head and nodes.
struct ClusterAccess {
  std::string key_file;  // shared key; required
  ClusterTlsFiles tls;   // optional mutual TLS
  std::string software_version;
  absl::Duration join_timeout = absl::Minutes(10);
  absl::Duration heartbeat_interval = absl::Seconds(1);
  // One line each, for an operator. Any thread.
  std::function<void(std::string_view)> log;
};

struct HeadOptions {
  int32_t nodes = 2;
  // HOST:PORT or INTERFACE:PORT of the control plane; the head's ranks use the same host.
  std::string address = "127.0.0.1:50052";
  ClusterAccess access;
  // Called once when the group fails, also while no step is under way. Any thread.
  std::function<void(const absl::Status&)> on_failure;
  // A node was asked to stop: finish what runs. Any thread; must not block.
  std::function<void()> on_stop_asked;
};

struct NodeOptions {
  std::string model_dir;
  std::string head_address;  // HOST:PORT
  // Address or interface for the ranks of this node; empty: the one that leads to the head.
  std::string node_address;
  std::string node_name;    // for messages; empty: host name and process id
  int32_t node_index = -1;  // the place this node wants; -1: any
  int32_t num_threads = 0;  // of all ranks of this process; 0: its CPUs
  std::string cpu_isa = "auto";
  int32_t emulated_gpus = 0;
  ClusterAccess access;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_EXECUTOR_CLUSTER_OPTIONS_H_
