// Help for misspelt words.
#ifndef TESSERA_SERVER_DID_YOU_MEAN_H_
#define TESSERA_SERVER_DID_YOU_MEAN_H_

#include <string>
#include <vector>

namespace tessera {

// '; did you mean "NAME"?' with the most similar known name; empty when none is similar.
std::string DidYouMean(const std::string& name, const std::vector<std::string>& known);

}  // namespace tessera

#endif  // TESSERA_SERVER_DID_YOU_MEAN_H_
