// Whether a caller may do what it asks for.
#ifndef TESSERA_SERVER_ACCESS_ACCESS_CONTROL_H_
#define TESSERA_SERVER_ACCESS_ACCESS_CONTROL_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "server/access/api_keys.h"
#include "server/access/file_watch.h"
#include "server/access/tenant.h"

namespace tessera {

// As a request carries them; both may be empty.
struct Credentials {
  std::string_view authorization;  // "Bearer KEY", the first word in any case
  std::string_view api_key;        // the key alone
};

enum class Permission : uint8_t {
  kKnown,     // any key
  kGenerate,  // the scope generate
  kObserve,   // metrics or admin
  kAdmin,     // admin
};

// Why a caller is refused, in the order of tessera_auth_failures_total's series.
enum class AuthFailure : uint8_t { kMissing, kMalformed, kUnknown, kForbidden };

// A key that is good for what it was asked for, and whose it is; both null where there are no keys
// and everybody may do everything.
struct Caller {
  std::shared_ptr<const ApiKey> key;
  std::shared_ptr<Tenant> tenant;
};

// Thread-safe.
class AccessControl {
 public:
  // Reads the file and follows it from then on; one that becomes unreadable or wrong is logged and
  // the keys before it stay good.
  static absl::StatusOr<std::unique_ptr<AccessControl>> Start(const std::string& path);

  // UNAUTHENTICATED or PERMISSION_DENIED, then with `*failure`; no text says anything of the key.
  // Takes as long for a key that is nearly right as for any other.
  absl::StatusOr<Caller> Admit(const Credentials& credentials, Permission wanted,
                               AuthFailure* failure) const;
  size_t num_keys() const;
  // All that the file has had since the start.
  std::vector<std::shared_ptr<const Tenant>> tenants() const;
  void ReadNow() { watch_->ReadNow(); }

 private:
  explicit AccessControl(std::string path) : path_(std::move(path)) {}
  using Keys = std::vector<Caller>;
  absl::Status Read();
  std::shared_ptr<const Keys> keys() const;

  const std::string path_;
  mutable absl::Mutex mutex_;
  std::shared_ptr<const Keys> keys_ ABSL_GUARDED_BY(mutex_);
  // A tenant that comes back has used what it has used.
  std::map<std::string, std::shared_ptr<Tenant>> tenants_ ABSL_GUARDED_BY(mutex_);
  std::unique_ptr<FileWatch> watch_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_ACCESS_ACCESS_CONTROL_H_
