// Reasoning as a list of steps.
#ifndef TESSERA_ENGINE_TEXT_REASONING_STEPS_H_
#define TESSERA_ENGINE_TEXT_REASONING_STEPS_H_

#include <string>
#include <string_view>
#include <vector>

namespace tessera {

// Paragraphs, which blank lines part; the lines, where there is no blank line. Code between ```
// fences stays in one step, and a line that ends with a colon stays with what it announces. Outer
// white space of a step is dropped, empty steps are none.
std::vector<std::string> SplitReasoningSteps(std::string_view reasoning);

}  // namespace tessera

#endif  // TESSERA_ENGINE_TEXT_REASONING_STEPS_H_
