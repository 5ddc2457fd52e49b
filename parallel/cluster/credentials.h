// Optional mutual TLS of the control streams.
#ifndef TESSERA_PARALLEL_CLUSTER_CREDENTIALS_H_
#define TESSERA_PARALLEL_CLUSTER_CREDENTIALS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace grpc {
class ServerCredentials;
class ChannelCredentials;
}  // namespace grpc

namespace tessera {

// PEM files. All empty: plain TCP (frames are authenticated either way, but not encrypted).
struct ClusterTlsFiles {
  std::string ca;           // who signs the nodes' certificates
  std::string certificate;  // this node's, valid for the host name that others connect to
  std::string key;
  bool empty() const { return ca.empty() && certificate.empty() && key.empty(); }
};

// Errors name the file that cannot be read.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> HeadCredentials(const ClusterTlsFiles&);
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> NodeCredentials(const ClusterTlsFiles&);

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_CREDENTIALS_H_
