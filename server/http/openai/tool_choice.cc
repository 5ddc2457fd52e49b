// Which tools there are, and which of them the answer may or must call.
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Value;

constexpr std::string_view kChoices =
    "must be \"none\", \"auto\", \"required\" or a function by its name";

void ReadNamed(const ApiFields& fields, const Value& choice, bool nested, v1::ChatPrompt* chat) {
  const ApiFields members(choice, "tool_choice.", fields.error());
  if (members.Text("type").value_or("function") != "function") {
    return members.Fail("type", "must be \"function\"");
  }
  std::string name;
  if (nested) {
    const Value* function = members.Object("function");
    if (function == nullptr) return members.Fail("function", "must be set");
    name = ApiFields(*function, "tool_choice.function.", fields.error()).Text("name").value_or("");
  } else {
    name = members.Text("name").value_or("");
  }
  if (name.empty()) return members.Fail(nested ? "function.name" : "name", "must be set");
  chat->set_tool_choice(v1::TOOL_CHOICE_NAMED);
  chat->set_tool_name(name);
}

}  // namespace

void ReadToolChoice(const ApiFields& fields, bool nested, ApiRequest* request,
                    v1::ChatPrompt* chat) {
  request->parallel_tool_calls = fields.Bool("parallel_tool_calls").value_or(true);
  if (!request->parallel_tool_calls) chat->set_parallel_tool_calls(false);
  const Value* choice = fields.Find("tool_choice");
  if (choice == nullptr) return;
  if (choice->is_dict()) return ReadNamed(fields, *choice, nested, chat);
  const std::string text = choice->is_string() ? choice->str() : "";
  if (text == "none") {
    chat->set_tool_choice(v1::TOOL_CHOICE_NONE);
  } else if (text == "required") {
    chat->set_tool_choice(v1::TOOL_CHOICE_REQUIRED);
  } else if (text != "auto") {
    fields.Fail("tool_choice", kChoices);
  }
}

void AddFlatTool(const ApiFields& tool, const char* schema_name, v1::ChatPrompt* chat) {
  if (tool.Text("name").value_or("").empty()) return tool.Fail("name", "must be set");
  static_cast<void>(tool.Object(schema_name));
  jinja::Dict function;
  for (const auto& [theirs, ours] : {std::pair{"name", "name"},
                                     {"description", "description"},
                                     {schema_name, "parameters"},
                                     {"strict", "strict"}}) {
    if (const Value* value = tool.Find(theirs)) function.Set(ours, *value);
  }
  const absl::StatusOr<std::string> json = CompactJson(Value::MakeDict(std::move(function)));
  if (!json.ok()) {
    const std::string place = tool.path().substr(0, tool.path().size() - 1);  // without the dot
    return ApiFields(tool.object(), "", tool.error()).Fail(place, "cannot be written as JSON");
  }
  *chat->add_tools() = jinja::Concat("{\"type\":\"function\",\"function\":", *json, "}");
}

}  // namespace tessera
