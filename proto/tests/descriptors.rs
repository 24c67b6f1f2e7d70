//! The compiled schema says what the network's schema says: names, numbers, types, methods.

use hawser_proto::pb::FILE_DESCRIPTOR_SET;
use prost_reflect::prost::Message;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};
use serde_json::{Map, Value, json};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/wire/descriptors.json");

#[test]
fn schema_holds_all_that_the_network_declares() {
    let expected = expected();
    for section in ["messages", "enums", "services"] {
        let listed = expected[section].as_object().map_or(0, Map::len);
        assert!(listed > 0, "{section} of {PATH} are empty");
    }
    let differences = differences(&expected, &ours());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_kind_of_difference_is_found() {
    let at = "/messages/xmtp.xmtpv4.envelopes.PayerEnvelope/fields/target_originator";
    for (path, other) in [
        (format!("{at}/number"), json!(9)),
        (format!("{at}/type"), json!("TYPE_UINT64")),
        (format!("{at}/label"), json!("LABEL_REPEATED")),
        (format!("{at}/type_name"), json!("xmtp.Other")),
        (format!("{at}/oneof"), json!("other")),
        (format!("{at}/json_name"), json!("other")),
        (format!("{at}/proto3_optional"), json!(true)),
        ("/enums/xmtp.mls.api.v1.SortDirection/values".into(), json!({ "OTHER": 1 })),
        (
            "/services/xmtp.xmtpv4.message_api.QueryApi/methods/Subscribe/client_streaming".into(),
            json!(false),
        ),
    ] {
        let mut expected = expected();
        *expected.pointer_mut(&path).expect("the file lists it") = other;
        assert_eq!(differences(&expected, &ours()).len(), 1, "{path}");
    }
}

#[test]
fn the_keyword_optional_makes_no_difference_for_a_message() {
    let mut expected = expected();
    let field = "/messages/xmtp.xmtpv4.envelopes.ClientEnvelope/fields/aad/proto3_optional";
    *expected.pointer_mut(field).expect("the file lists it") = json!(true);
    assert_eq!(differences(&expected, &ours()), [""; 0]);
}

fn expected() -> Value {
    let text = std::fs::read_to_string(PATH).unwrap_or_else(|error| panic!("{PATH}: {error}"));
    serde_json::from_str(&text).expect("vectors are JSON")
}

/// Collects the parts of `expected` that `ours` lacks or contradicts. Extra parts are allowed.
fn differences(expected: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", expected, ours, &mut found);
    found
}

fn compare(path: &str, expected: &Value, ours: &Value, found: &mut Vec<String>) {
    match (expected, ours) {
        (Value::Object(expected), Value::Object(ours)) => {
            // The presence of a message is always tracked, so that the keyword changes nothing.
            let is_message = expected.get("type").is_some_and(|it| it == "TYPE_MESSAGE");
            let compared = |name: &str| !(is_message && name == "proto3_optional");
            for (name, expected) in expected.iter().filter(|(name, _)| compared(name)) {
                match ours.get(name) {
                    Some(ours) => compare(&format!("{path}/{name}"), expected, ours, found),
                    None => found.push(format!("{path}/{name}: missing")),
                }
            }
        }
        _ if expected == ours => {}
        _ => found.push(format!("{path}: expected {expected}, is {ours}")),
    }
}

/// Our schema in the shape of the file.
fn ours() -> Value {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).expect("the build wrote a set");
    let mut schema = Schema::default();
    for file in &set.file {
        for message in &file.message_type {
            schema.add_message(file.package(), message);
        }
        for kind in &file.enum_type {
            schema.add_enum(file.package(), kind);
        }
        for service in &file.service {
            schema.add_service(file.package(), service);
        }
    }
    json!({ "messages": schema.messages, "enums": schema.enums, "services": schema.services })
}

#[derive(Default)]
struct Schema {
    messages: Map<String, Value>,
    enums: Map<String, Value>,
    services: Map<String, Value>,
}

impl Schema {
    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for nested in &message.enum_type {
            self.add_enum(&name, nested);
        }
        let fields: Map<_, _> =
            message.field.iter().map(|f| (f.name().to_owned(), field(message, f))).collect();
        let mut value = json!({ "fields": fields });
        if message.options.as_ref().is_some_and(|options| options.map_entry()) {
            value["map_entry"] = true.into();
        }
        self.messages.insert(name, value);
    }

    fn add_enum(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        let values: Map<_, _> =
            kind.value.iter().map(|v| (v.name().to_owned(), v.number().into())).collect();
        self.enums.insert(format!("{scope}.{}", kind.name()), json!({ "values": values }));
    }

    fn add_service(&mut self, scope: &str, service: &ServiceDescriptorProto) {
        let mut methods = Map::new();
        for method in &service.method {
            let value = json!({
                "input": method.input_type().trim_start_matches('.'),
                "output": method.output_type().trim_start_matches('.'),
                "client_streaming": method.client_streaming(),
                "server_streaming": method.server_streaming(),
            });
            methods.insert(method.name().to_owned(), value);
        }
        self.services.insert(format!("{scope}.{}", service.name()), json!({ "methods": methods }));
    }
}

fn field(message: &DescriptorProto, field: &FieldDescriptorProto) -> Value {
    // `optional` is a oneof of its own underneath, which says nothing more.
    let oneof = field.oneof_index.filter(|_| !field.proto3_optional()).map(|at| {
        let at = usize::try_from(at).expect("an index into the list");
        message.oneof_decl[at].name()
    });
    json!({
        "number": field.number(),
        "type": Type::as_str_name(&field.r#type()),
        "label": Label::as_str_name(&field.label()),
        "type_name": field.type_name.as_ref().map(|name| name.trim_start_matches('.')),
        "oneof": oneof,
        "json_name": field.json_name(),
        "proto3_optional": field.proto3_optional(),
    })
}
