// What one thread owns at a time, told to Clang's thread-safety analysis.
#ifndef TESSERA_ENGINE_THREAD_ROLE_H_
#define TESSERA_ENGINE_THREAD_ROLE_H_

#include "absl/base/thread_annotations.h"

namespace tessera {

// Members that are guarded by a role are touched only by the thread that plays it. The program sees
// to it that no two do at a time; nothing is locked.
class ABSL_LOCKABLE ThreadRole {};

class ABSL_SCOPED_LOCKABLE PlaysRole {
 public:
  explicit PlaysRole(ThreadRole* role) ABSL_EXCLUSIVE_LOCK_FUNCTION(role) { (void)role; }
  ~PlaysRole() ABSL_UNLOCK_FUNCTION() {}
  PlaysRole(const PlaysRole&) = delete;
  PlaysRole& operator=(const PlaysRole&) = delete;
};

}  // namespace tessera

#endif  // TESSERA_ENGINE_THREAD_ROLE_H_
