// Whether a chat needs thinking, told from its words: what MODE_AUTO does.
#ifndef TESSERA_SERVER_THINKING_CHOICE_H_
#define TESSERA_SERVER_THINKING_CHOICE_H_

#include <optional>

#include "tessera/v1/inference.pb.h"

namespace tessera {

// The first of these that applies decides; "question" is the last message of a user.
//
//   switch       the last /think or /no_think of the users' messages, as Qwen3's own switch
//   tool_result  the last message is a tool's: its answer has only to be told            no
//   doubt        the question is short and doubts the answer before it                    yes
//   numbers      two numbers or more, and an operator or a word of quantity between or
//                beside them                                                              yes
//   code         a code block, or words of programming                                    yes
//   reasons      why, how, prove, compare, … in some languages                            yes
//   length       more than 1,200 bytes                                                    yes
//   plain        none of these: greetings, look-ups, extraction, calls                    no
//
// Only the first 4 KiB and the last 4 KiB of a question are read.
v1::ThinkingChoice ChooseThinking(const v1::ChatPrompt& chat);

// What the request leaves to us; nullopt where its mode is not MODE_AUTO or it has no chat.
std::optional<v1::ThinkingChoice> ChosenThinking(const v1::GenerateRequest& request);

// For a chat template, by the mode alone: unset leaves the choice to the template.
std::optional<bool> EnableThinking(v1::ReasoningOptions::Mode mode, const v1::ChatPrompt& chat);

}  // namespace tessera

#endif  // TESSERA_SERVER_THINKING_CHOICE_H_
