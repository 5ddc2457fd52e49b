// What answers must look like, by the names that clients have for it.
#include <string>
#include <utility>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/value.h"
#include "kernels/core/status_macros.h"
#include "server/http/openai/api_request.h"

namespace tessera {
namespace {

using jinja::Concat;
using jinja::Value;

class StructureFields {
 public:
  StructureFields(ApiRequest* request, v1::ConstraintOptions* out)
      : request_(*request), out_(*out) {}

  // False, with an error, when another field has asked for something already.
  bool Begin(const ApiFields& fields, std::string_view name, std::string path) {
    if (out_.structure_case() != v1::ConstraintOptions::STRUCTURE_NOT_SET) {
      fields.Fail(std::string(name), "only one of the fields that constrain the output may be set");
      return false;
    }
    request_.structure_name = std::move(path);
    return true;
  }

  // A schema as an object, or as the text of one where `may_be_text`.
  void Schema(const ApiFields& fields, std::string_view name, bool may_be_text) {
    const Value* schema = fields.Find(name);
    if (schema == nullptr || !Begin(fields, name, Concat(fields.path(), name))) return;
    if (schema->is_string() && may_be_text) {
      out_.set_json_schema(schema->str());
      return;
    }
    if (!schema->is_dict() && !schema->is_bool()) {
      return fields.Fail(std::string(name), "must be a JSON schema");
    }
    absl::StatusOr<std::string> text = CompactJson(*schema);
    if (!text.ok()) return fields.Fail(std::string(name), "cannot be written as JSON");
    out_.set_json_schema(*std::move(text));
  }

  void Text(const ApiFields& fields, std::string_view name, bool is_regex) {
    const auto text = fields.Text(name);
    if (!text || !Begin(fields, name, Concat(fields.path(), name))) return;
    if (is_regex) {
      out_.set_regex(*text);
    } else {
      out_.set_grammar(*text);
    }
  }

  void Choice(const ApiFields& fields, std::string_view name) {
    const Value* list = fields.Array(name);
    if (list == nullptr || !Begin(fields, name, Concat(fields.path(), name))) return;
    v1::Choices* choice = out_.mutable_choice();
    for (const Value& item : list->list().items) {
      if (!item.is_string()) return fields.Fail(std::string(name), "must be an array of strings");
      choice->add_texts(item.str());
    }
  }

  void JsonObject(const ApiFields& fields, std::string_view name) {
    if (!fields.Bool(name).value_or(false)) return;
    if (Begin(fields, name, Concat(fields.path(), name))) out_.set_json_object(true);
  }

  // {"type", "json_schema": {"schema"}}, or with `flat` {"type", "schema"}.
  void Format(const ApiFields& fields, std::string_view name, bool flat) {
    const Value* format = fields.Object(name);
    if (format == nullptr) return;
    const ApiFields members(*format, Concat(fields.path(), name, "."), fields.error());
    const auto type = members.Text("type");
    if (!type) return members.Fail("type", "must be set");
    if (*type == "text") return;
    if (*type == "json_object") {
      if (Begin(fields, name, Concat(fields.path(), name))) out_.set_json_object(true);
    } else if (*type != "json_schema") {
      members.Fail("type", Concat("must be text, json_object or json_schema, got \"", *type, "\""));
    } else if (flat) {
      if (members.Find("schema") == nullptr) return members.Fail("schema", "must be set");
      Schema(members, "schema", false);
    } else {
      const Value* inner = members.Object("json_schema");
      if (inner == nullptr) return members.Fail("json_schema", "must be set");
      const ApiFields schema(*inner, Concat(members.path(), "json_schema."), fields.error());
      if (schema.Find("schema") == nullptr) return schema.Fail("schema", "must be set");
      Schema(schema, "schema", false);
    }
  }

 private:
  ApiRequest& request_;
  v1::ConstraintOptions& out_;
};

}  // namespace

void ReadStructureFields(const ApiFields& fields, ApiRequest* request, v1::ConstraintOptions* out) {
  StructureFields read(request, out);
  if (const Value* options = fields.Object("structured_outputs")) {
    const ApiFields members(*options, "structured_outputs.", fields.error());
    read.Schema(members, "json", true);
    read.Text(members, "regex", true);
    read.Choice(members, "choice");
    read.Text(members, "grammar", false);
    read.JsonObject(members, "json_object");
    for (const char* name : {"structural_tag", "whitespace_pattern"}) {
      members.Refuse(name, "not supported; leave the field out");
    }
    if (out->structure_case() == v1::ConstraintOptions::STRUCTURE_NOT_SET && fields.ok()) {
      return fields.Fail("structured_outputs",
                         "must have one of json, regex, choice, grammar and json_object");
    }
  }
  read.Schema(fields, "guided_json", true);
  read.Text(fields, "guided_regex", true);
  read.Choice(fields, "guided_choice");
  read.Text(fields, "guided_grammar", false);
  read.JsonObject(fields, "guided_json_object");
  fields.Refuse("guided_whitespace_pattern", "not supported; leave the field out");
  read.Format(fields, "response_format", false);
}

void ReadTextFormat(const ApiFields& text, ApiRequest* request, v1::ConstraintOptions* out) {
  StructureFields(request, out).Format(text, "format", true);
}

}  // namespace tessera
