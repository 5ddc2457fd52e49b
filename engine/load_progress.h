// How loading tells how far it is.
#ifndef TESSERA_ENGINE_LOAD_PROGRESS_H_
#define TESSERA_ENGINE_LOAD_PROGRESS_H_

#include <functional>

namespace tessera {

// Gets the share that is done, 0 to 1; called from any thread. May be empty.
using LoadProgress = std::function<void(double)>;

}  // namespace tessera

#endif  // TESSERA_ENGINE_LOAD_PROGRESS_H_
