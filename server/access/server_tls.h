// The certificate that a server shows, and who may connect; both follow their files.
#ifndef TESSERA_SERVER_ACCESS_SERVER_TLS_H_
#define TESSERA_SERVER_ACCESS_SERVER_TLS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/access/file_watch.h"
#include "server/access/tls_identity.h"

namespace tessera {

// A file in memory whose content is replaced as a whole, for libraries that want to watch a path.
class MemoryFile {
 public:
  MemoryFile();
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  // Every content has a time of modification of its own, in whole seconds: readers that compare it
  // before and after see that they have read two contents.
  absl::Status Replace(const std::string& content);
  std::string path() const;

 private:
  int file_;
  int64_t version_ = 0;
};

// Thread-safe.
class ServerTls {
 public:
  // Reads the files, certificate and key at least; an error names option, file and reason. Later
  // errors are logged, and the last good files stay in use.
  static absl::StatusOr<std::unique_ptr<ServerTls>> Start(const TlsFiles& files);

  // What a new connection shows and asks for. The authority is empty when clients need no
  // certificate.
  std::shared_ptr<const TlsIdentity> identity() const;
  bool asks_clients() const { return !files_.authority.path.empty(); }
  // The same in files that are never half written: certificates behind their key, and authorities.
  std::string identity_path() const { return identity_file_.path(); }
  std::string authority_path() const { return authority_file_.path(); }
  // Reads the files soon, changed or not.
  void ReadNow() { watch_->ReadNow(); }

 private:
  explicit ServerTls(TlsFiles files) : files_(std::move(files)) {}
  absl::Status Read();

  const TlsFiles files_;
  MemoryFile identity_file_;
  MemoryFile authority_file_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const TlsIdentity> identity_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FileWatch> watch_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_SERVER_TLS_H_
