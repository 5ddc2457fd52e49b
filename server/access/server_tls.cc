#include "server/access/server_tls.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/core/status_macros.h"
#include "server/logging.h"

namespace tessera {

MemoryFile::MemoryFile() : file_(memfd_create("tessera-tls", MFD_CLOEXEC)) {}

MemoryFile::~MemoryFile() {
  if (file_ >= 0) close(file_);
}

absl::Status MemoryFile::Replace(const std::string& content) {
  const absl::Status failed = absl::UnavailableError("no memory for the TLS files");
  if (file_ < 0) return failed;
  const int next = memfd_create("tessera-tls", MFD_CLOEXEC);
  if (next < 0) return failed;
  const timespec modified = {.tv_sec = static_cast<time_t>(++version_), .tv_nsec = 0};
  const std::array<timespec, 2> times = {modified, modified};
  // Takes the place of the one before in one step.
  const bool done =
      write(next, content.data(), content.size()) == static_cast<ssize_t>(content.size()) &&
      futimens(next, times.data()) == 0 && dup3(next, file_, O_CLOEXEC) == file_;
  close(next);
  return done ? absl::OkStatus() : failed;
}

std::string MemoryFile::path() const { return absl::StrCat("/proc/self/fd/", file_); }

absl::StatusOr<std::unique_ptr<ServerTls>> ServerTls::Start(const TlsFiles& files) {
  if (files.certificate.path.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        files.authority.option, ": needs ", files.certificate.option, " and ", files.key.option));
  }
  std::unique_ptr<ServerTls> tls(new ServerTls(files));
  // The watch begins first: what changes while the files are read is read again.
  std::vector<std::string> paths = {files.certificate.path, files.key.path};
  if (!files.authority.path.empty()) paths.push_back(files.authority.path);
  tls->watch_ =
      std::make_unique<FileWatch>(std::move(paths), [raw = tls.get()] { return raw->Read(); });
  RETURN_IF_ERROR(tls->Read());
  const TlsIdentity& identity = *tls->identity();
  LogInfo(absl::StrCat("TLS with ", files.certificate.path, " for ",
                       identity.hosts.empty() ? "no host name (clients will refuse it)"
                                              : absl::StrJoin(identity.hosts, ", "),
                       ", until ",
                       absl::FormatTime("%Y-%m-%d %H:%M", identity.expiry, absl::UTCTimeZone()),
                       " UTC", tls->asks_clients() ? "; clients need a certificate" : ""));
  return tls;
}

absl::Status ServerTls::Read() {
  ASSIGN_OR_RETURN(TlsIdentity identity, ReadTlsIdentity(files_, absl::Now()));
  for (const std::string& warning : identity.warnings) LogWarning(warning);
  const auto shared = std::make_shared<const TlsIdentity>(std::move(identity));
  absl::MutexLock lock(&mutex_);
  RETURN_IF_ERROR(identity_file_.Replace(absl::StrCat(shared->key, "\n", shared->certificate)));
  if (asks_clients()) RETURN_IF_ERROR(authority_file_.Replace(shared->authority));
  identity_ = shared;
  return absl::OkStatus();
}

std::shared_ptr<const TlsIdentity> ServerTls::identity() const {
  absl::MutexLock lock(&mutex_);
  return identity_;
}

}  // namespace tessera
