#include "server/access/access_control.h"

#include <openssl/crypto.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/core/status_macros.h"
#include "server/logging.h"

namespace tessera {
namespace {

constexpr absl::string_view kScheme = "bearer ";

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

bool IsGoodFor(const ApiKey& key, Permission wanted) {
  switch (wanted) {
    case Permission::kKnown:
      return true;
    case Permission::kGenerate:
      return key.Has(Scope::kGenerate);
    case Permission::kObserve:
      return key.Has(Scope::kMetrics) || key.Has(Scope::kAdmin);
    case Permission::kAdmin:
      return key.Has(Scope::kAdmin);
  }
  return false;
}

std::string_view ScopesFor(Permission wanted) {
  switch (wanted) {
    case Permission::kObserve:
      return "metrics or admin";
    case Permission::kAdmin:
      return "admin";
    default:
      return "generate";
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<AccessControl>> AccessControl::Start(const std::string& path) {
  std::unique_ptr<AccessControl> access(new AccessControl(path));
  // The watch begins first: what changes while the file is read is read again.
  access->watch_ = std::make_unique<FileWatch>(std::vector<std::string>{path},
                                               [raw = access.get()] { return raw->Read(); });
  RETURN_IF_ERROR(access->Read());
  LogInfo(absl::StrCat(path, ": ", access->num_keys(), " API keys"));
  return access;
}

absl::Status AccessControl::Read() {
  absl::StatusOr<KeyFile> read = ReadApiKeys(path_);
  if (!read.ok()) {
    return {read.status().code(), absl::StrCat("--api-keys: ", read.status().message())};
  }
  auto keys = std::make_shared<Keys>();
  absl::MutexLock lock(&mutex_);
  for (ApiKey& key : read->keys) {
    const TenantLimits& limits = read->tenants[key.tenant];
    std::shared_ptr<Tenant>& tenant = tenants_[key.tenant];
    if (tenant == nullptr) tenant = std::make_shared<Tenant>(key.tenant, limits);
    tenant->SetLimits(limits);
    keys->push_back({std::make_shared<const ApiKey>(std::move(key)), tenant});
  }
  keys_ = std::move(keys);
  return absl::OkStatus();
}

std::vector<std::shared_ptr<const Tenant>> AccessControl::tenants() const {
  absl::MutexLock lock(&mutex_);
  std::vector<std::shared_ptr<const Tenant>> all;
  for (const auto& [name, tenant] : tenants_) all.push_back(tenant);
  return all;
}

std::shared_ptr<const AccessControl::Keys> AccessControl::keys() const {
  absl::MutexLock lock(&mutex_);
  return keys_;
}

size_t AccessControl::num_keys() const { return keys()->size(); }

absl::StatusOr<Caller> AccessControl::Admit(const Credentials& credentials, Permission wanted,
                                            AuthFailure* failure) const {
  std::string_view key = credentials.api_key;
  if (!credentials.authorization.empty()) {
    if (!absl::StartsWithIgnoreCase(View(credentials.authorization), kScheme)) {
      *failure = AuthFailure::kMalformed;
      return absl::UnauthenticatedError("authorization must be \"Bearer KEY\"");
    }
    const absl::string_view rest =
        absl::StripAsciiWhitespace(View(credentials.authorization).substr(kScheme.size()));
    key = {rest.data(), rest.size()};
  }
  if (key.empty()) {
    *failure = AuthFailure::kMissing;
    return absl::UnauthenticatedError(
        "this server wants an API key, as \"authorization: Bearer KEY\"");
  }
  const KeyDigest digest = DigestOf(key);
  const std::shared_ptr<const Keys> all = keys();
  const Caller* found = nullptr;
  for (const Caller& known : *all) {
    const KeyDigest& other = known.key->digest;
    if (CRYPTO_memcmp(other.data(), digest.data(), digest.size()) == 0) found = &known;
  }
  if (found == nullptr) {
    *failure = AuthFailure::kUnknown;
    return absl::UnauthenticatedError("this server does not know the API key");
  }
  if (!IsGoodFor(*found->key, wanted)) {
    *failure = AuthFailure::kForbidden;
    return absl::PermissionDeniedError(absl::StrCat("the API key \"", found->key->name,
                                                    "\" has not the scope ",
                                                    std::string(ScopesFor(wanted))));
  }
  return *found;
}

}  // namespace tessera
