// tessera ask: questions about documents.
#include "server/ask/ask.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/monotonic_time.h"
#include "kernels/core/status_macros.h"
#include "server/commands/cluster_flags.h"
#include "server/commands/command.h"
#include "server/commands/engine_flags.h"
#include "server/commands/target_flags.h"
#include "server/grpc/remote_generator.h"
#include "server/model_runtime.h"

namespace tessera {
namespace {

using Json = nlohmann::ordered_json;

constexpr int32_t kMaxPassageBytes = 1 << 20;
constexpr size_t kLeastArguments = 3;

struct AskFlags {
  AskOptions ask;
  PassageSize size;
  ServerTarget server;
  bool json = false;
  bool search_only = false;
  bool shows_progress = true;
};

// The documents, ready to be asked about.
struct Library {
  std::vector<Document> documents;
  std::vector<Passage> passages;
  std::unique_ptr<PassageIndex> index;
};

void AddOptions(OptionTable* table, AskFlags* flags) {
  table->Flag("json", &flags->json, "Print answer, sources and notes as JSON.");
  table->Flag("search-only", &flags->search_only,
              "Print the passages that would be read, best first, and ask no model.");
  table->Flag("progress", &flags->shows_progress, "Tell on stderr what is being done.");
  table->Integer("passages", &flags->ask.passages, {1, 1000}, "Passages read for the question.");
  table->Integer("passage-bytes", &flags->size.bytes, {200, kMaxPassageBytes},
                 "Bytes of a passage at most; fewer where the model's context is small.");
  table->Integer("overlap-bytes", &flags->size.overlap_bytes, {0, kMaxPassageBytes},
                 "Bytes at the end of a passage that the next one repeats; at most half of one.");
  table->Integer("max-answer-tokens", &flags->ask.max_answer_tokens, {1, 1 << 20},
                 "Tokens of an answer at most.");
  table->Integer("concurrency", &flags->ask.concurrency, {1, 256}, "Passages read at a time.");
}

void Tell(const AskFlags& flags, const std::string& text) {
  if (!flags.shows_progress) return;
  std::fputs((text + "\n").c_str(), stderr);  // NOLINT(cert-err33-c): nothing is lost
}

absl::StatusOr<Library> ReadLibrary(const std::vector<std::string>& files, const AskFlags& flags) {
  const absl::Time begin = MonotonicNow();
  Library library;
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(Document document, ReadDocument(file));
    library.documents.push_back(std::move(document));
  }
  library.passages = CutPassages(library.documents, flags.size);
  library.index = std::make_unique<PassageIndex>(library.passages);
  size_t lines = 0;
  for (const Document& document : library.documents) lines += document.lines.size();
  Tell(flags,
       absl::StrFormat("%d files: %d lines, %d passages, indexed in %.2f s", files.size(), lines,
                       library.passages.size(), absl::ToDoubleSeconds(MonotonicNow() - begin)));
  return library;
}

// A byte is at most a token: passage, question and answer fit whatever the tokenizer is.
void FitContext(int64_t max_model_len, const std::string& question, AskFlags* flags) {
  constexpr int64_t kRules = 512;  // and the template
  const int64_t answer = std::min(flags->ask.max_answer_tokens, max_model_len / 4);
  const int64_t room = max_model_len - kRules - answer - static_cast<int64_t>(question.size());
  flags->ask.max_answer_tokens = std::max<int64_t>(1, answer);
  flags->size.bytes = static_cast<int32_t>(std::clamp<int64_t>(room, 200, flags->size.bytes));
}

std::string Dump(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json PassageJson(const Library& library, int32_t index) {
  const Passage& passage = library.passages[static_cast<size_t>(index)];
  Json json = {{"file", library.documents[static_cast<size_t>(passage.document)].name},
               {"place", PlaceText(library.documents, passage)},
               {"first_line", passage.begin.line},
               {"last_line", passage.end.line}};
  if (passage.begin.page == 0) return json;
  json["first_page"] = passage.begin.page;
  json["last_page"] = passage.end.page;
  return json;
}

int PrintSearch(const Library& library, const std::string& question, const AskFlags& flags) {
  Json list = Json::array();
  std::string text;
  for (const PassageIndex::Hit& hit :
       library.index->Find(question, static_cast<size_t>(flags.ask.passages))) {
    const Passage& passage = library.passages[static_cast<size_t>(hit.passage)];
    Json json = PassageJson(library, hit.passage);
    json["score"] = hit.score;
    json["text"] = passage.text;
    list.push_back(std::move(json));
    absl::StrAppendFormat(&text, "%s (score %.2f)\n%s\n\n", PlaceText(library.documents, passage),
                          hit.score, passage.text);
  }
  Print(flags.json ? Dump(list) : text.empty() ? "no passage has a word of the question\n" : text);
  return kExitOk;
}

std::string AnswerJson(const Library& library, const AskAnswer& answer) {
  Json json = {{"answer", answer.text.empty() ? Json() : Json(answer.text)},
               {"sources", Json::array()},
               {"read", Json::array()}};
  for (const int32_t source : answer.sources) {
    json["sources"].push_back(PassageJson(library, source));
  }
  for (const PassageNote& note : answer.notes) {
    Json read = PassageJson(library, note.passage);
    read["score"] = note.score;
    read["note"] = note.text.empty() ? Json() : Json(note.text);
    json["read"].push_back(std::move(read));
  }
  return Dump(json);
}

std::string AnswerText(const Library& library, const AskAnswer& answer) {
  if (answer.text.empty()) {
    return absl::StrCat("The documents do not answer that (", answer.notes.size(),
                        " passages were read).\n");
  }
  std::string text = absl::StrCat(answer.text, "\n\nSources:\n");
  for (const int32_t source : answer.sources) {
    absl::StrAppend(&text, "  ",
                    PlaceText(library.documents, library.passages[static_cast<size_t>(source)]),
                    "\n");
  }
  return text;
}

absl::Status AskAndPrint(TextGenerator* generator, const std::vector<std::string>& files,
                         const std::string& question, AskFlags flags) {
  ASSIGN_OR_RETURN(const Library library, ReadLibrary(files, flags));
  flags.ask.on_progress = [&flags](int32_t done, int32_t all) {
    Tell(flags, absl::StrCat("passage ", done, " of ", all, " read"));
  };
  ASSIGN_OR_RETURN(const AskAnswer answer, Ask(generator, library.documents, library.passages,
                                               *library.index, question, flags.ask));
  Print(flags.json ? AnswerJson(library, answer) : AnswerText(library, answer));
  return absl::OkStatus();
}

absl::Status AskServer(const std::vector<std::string>& files, const std::string& question,
                       AskFlags flags) {
  ASSIGN_OR_RETURN(const v1::GetModelInfoResponse info, AskModelInfo(flags.server));
  ASSIGN_OR_RETURN(const std::unique_ptr<TextGenerator> generator,
                   MakeRemoteGenerator({.server = flags.server}));
  FitContext(info.max_model_len(), question, &flags);
  return AskAndPrint(generator.get(), files, question, flags);
}

int AskModel(const RuntimeOptions& options, const std::vector<std::string>& files,
             const std::string& question, AskFlags flags) {
  const auto runtime = LoadRuntime(options);
  if (!runtime.ok()) return Fail("ask", runtime.status());
  const auto generator = MakeLocalGenerator(runtime->get());
  FitContext((*runtime)->model().max_model_len, question, &flags);
  const absl::Status status = AskAndPrint(generator.get(), files, question, flags);
  return status.ok() ? kExitOk : Fail("ask", status);
}

}  // namespace

int RunAsk(const Arguments& arguments) {
  OptionTable table("tessera ask", "MODEL|HOST:PORT|unix:PATH FILE... QUESTION",
                    "Answers a question from files of text, Markdown, HTML or PDF, and tells where "
                    "the answer stands.\nThe model is in this process (a folder) or a running "
                    "server's.");
  AskFlags flags;
  RuntimeOptions options;
  AddOptions(&table, &flags);
  AddTargetOptions(&table, &flags.server);
  AddChatTemplateOption(&table, &options.chat_template);
  AddModelOptions(&table, &options.engine);
  AddHeadOptions(&table, &options);
  std::vector<std::string> words;
  table.Positional(&words);
  if (const auto exit = ParseOptions(&table, "ask", arguments)) return *exit;
  if (words.size() < kLeastArguments) {
    return FailUsage("ask", absl::InvalidArgumentError("give a model, a file and a question"));
  }
  const std::string target = words.front();
  const std::string question = words.back();
  const std::vector<std::string> files(words.begin() + 1, words.end() - 1);
  if (flags.search_only) {
    const auto library = ReadLibrary(files, flags);
    return library.ok() ? PrintSearch(*library, question, flags) : Fail("ask", library.status());
  }
  if (!CheckModelFolder(target).ok() && CheckServerAddress(target).ok()) {
    flags.server.address = target;
    const absl::Status status = AskServer(files, question, flags);
    return status.ok() ? kExitOk : Fail("ask", status);
  }
  if (const absl::Status status = CheckHeadOptions(options.head); !status.ok()) {
    return FailUsage("ask", status);
  }
  InitHeadLogging(options.head);
  CompleteAccess(&options.head.access);
  options.engine.model.model_dir = target;
  return AskModel(options, files, question, flags);
}

}  // namespace tessera
