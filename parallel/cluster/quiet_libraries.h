// gRPC and protobuf report every malformed message and handshake on stderr themselves.
#ifndef TESSERA_PARALLEL_CLUSTER_QUIET_LIBRARIES_H_
#define TESSERA_PARALLEL_CLUSTER_QUIET_LIBRARIES_H_

namespace tessera {

// Turns that off for the whole process: strangers on an open port could fill the log with it. What
// matters to an operator arrives as a status.
void SilenceLibraries();

}  // namespace tessera

#endif  // TESSERA_PARALLEL_CLUSTER_QUIET_LIBRARIES_H_
