//! The rules of buf's STANDARD and COMMENTS categories, and a few of our own, over the descriptor set. Each rule is also
//! shown to bite.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorPool, EnumDescriptor, FileDescriptor, MessageDescriptor, ServiceDescriptor};

/// RPCs whose message names are free: the two directions of a session are no request and response.
const FREE_MESSAGE_NAMES: &[&str] = &["orch.v1.AgentService.Session"];

#[test]
fn our_proto_files_keep_every_rule() {
    let found = violations(orch_proto::FILE_DESCRIPTOR_SET);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
}

#[test]
fn the_listed_exceptions_exist() {
    let pool = DescriptorPool::decode(orch_proto::FILE_DESCRIPTOR_SET).unwrap();
    let rpcs: BTreeSet<_> = pool
        .services()
        .flat_map(|s| s.methods().map(|m| m.full_name().to_owned()).collect::<Vec<_>>())
        .collect();
    assert!(FREE_MESSAGE_NAMES.iter().all(|name| rpcs.contains(*name)), "{rpcs:?}");
}

fn violations(descriptor_set: &[u8]) -> Vec<String> {
    let pool = DescriptorPool::decode(descriptor_set).unwrap();
    let mut report = Report::default();
    for file in pool.files().filter(|file| !file.package_name().starts_with("google.")) {
        file_rules(&file, &mut report);
        for message in file.messages() {
            message_rules(&message, &mut report);
        }
        for descriptor in file.enums() {
            enum_rules(&descriptor, &mut report);
        }
        for service in file.services() {
            service_rules(&service, &mut report);
        }
    }
    for (message, users) in report.rpc_messages.clone() {
        if users.len() > 1 {
            let users: Vec<_> = users.into_iter().collect();
            report.add(
                "*",
                "RPC_REQUEST_RESPONSE_UNIQUE",
                format!("{message} is used by {}", users.join(", ")),
            );
        }
    }
    report.lines
}

#[derive(Default)]
struct Report {
    lines: Vec<String>,
    /// Message name to the places that use it as request or response.
    rpc_messages: BTreeMap<String, Vec<String>>,
}

impl Report {
    fn add(&mut self, file: &str, rule: &str, what: impl std::fmt::Display) {
        self.lines.push(format!("{file}: {rule}: {what}"));
    }

    fn expect(&mut self, holds: bool, file: &FileDescriptor, rule: &str, what: &str) {
        if !holds {
            self.add(file.name(), rule, what);
        }
    }

    fn commented(&mut self, file: &FileDescriptor, path: &[i32], rule: &str, what: &str) {
        self.expect(has_comment(file.file_descriptor_proto(), path), file, rule, what);
    }
}

fn file_rules(file: &FileDescriptor, report: &mut Report) {
    let (name, package) = (file.name().to_owned(), file.package_name().to_owned());
    let (dir, base) = name.rsplit_once('/').unwrap_or(("", &name));
    let stem = base.strip_suffix(".proto").unwrap_or(base);
    report.expect(dir == package.replace('.', "/"), file, "PACKAGE_DIRECTORY_MATCH", &package);
    report.expect(is_versioned(&package), file, "PACKAGE_VERSION_SUFFIX", &package);
    report.expect(is_lower_snake(stem), file, "FILE_LOWER_SNAKE_CASE", base);
    let raw = file.file_descriptor_proto();
    report.expect(raw.syntax() == "proto3", file, "SYNTAX_SPECIFIED", raw.syntax());
    report.expect(raw.public_dependency.is_empty(), file, "IMPORT_NO_PUBLIC", "a public import");
    report.expect(raw.weak_dependency.is_empty(), file, "IMPORT_NO_WEAK", "a weak import");
    let uses_empty = raw.dependency.iter().any(|import| import == "google/protobuf/empty.proto");
    report.expect(!uses_empty, file, "NO_EMPTY", "google.protobuf.Empty cannot grow; make an own message");

    let has_services = file.services().len() > 0;
    report.expect(
        has_services == stem.ends_with("_service"),
        file,
        "SERVICE_FILE",
        "services stand in *_service.proto",
    );
    for message in file.messages().filter(|_| has_services) {
        let of_an_rpc = message.name().ends_with("Request") || message.name().ends_with("Response");
        report.expect(
            of_an_rpc,
            file,
            "SERVICE_FILE",
            &format!("{} belongs into a file of messages", message.name()),
        );
    }
}

fn message_rules(message: &MessageDescriptor, report: &mut Report) {
    if message.is_map_entry() {
        return;
    }
    let (file, name) = (message.parent_file(), message.full_name());
    report.expect(is_pascal(message.name()), &file, "MESSAGE_PASCAL_CASE", name);
    report.commented(&file, message.path(), "COMMENT_MESSAGE", name);
    for field in message.fields() {
        report.expect(is_lower_snake(field.name()), &file, "FIELD_LOWER_SNAKE_CASE", field.full_name());
        report.commented(&file, field.path(), "COMMENT_FIELD", field.full_name());
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        report.expect(is_lower_snake(oneof.name()), &file, "ONEOF_LOWER_SNAKE_CASE", oneof.full_name());
        report.commented(&file, oneof.path(), "COMMENT_ONEOF", oneof.full_name());
    }
    for child in message.child_messages() {
        message_rules(&child, report);
    }
    for child in message.child_enums() {
        enum_rules(&child, report);
    }
}

fn enum_rules(descriptor: &EnumDescriptor, report: &mut Report) {
    let (file, name) = (descriptor.parent_file(), descriptor.full_name());
    report.expect(is_pascal(descriptor.name()), &file, "ENUM_PASCAL_CASE", name);
    report.commented(&file, descriptor.path(), "COMMENT_ENUM", name);
    let raw = descriptor.enum_descriptor_proto();
    report.expect(!raw.options.as_ref().is_some_and(|o| o.allow_alias()), &file, "ENUM_NO_ALLOW_ALIAS", name);
    let prefix = format!("{}_", upper_snake(descriptor.name()));
    for value in descriptor.values() {
        report.expect(value.name().starts_with(&prefix), &file, "ENUM_VALUE_PREFIX", value.full_name());
        report.expect(is_upper_snake(value.name()), &file, "ENUM_VALUE_UPPER_SNAKE_CASE", value.full_name());
        report.commented(&file, value.path(), "COMMENT_ENUM_VALUE", value.full_name());
        if value.number() == 0 {
            let unspecified = format!("{prefix}UNSPECIFIED");
            report.expect(value.name() == unspecified, &file, "ENUM_ZERO_VALUE_SUFFIX", value.full_name());
        }
    }
}

fn service_rules(service: &ServiceDescriptor, report: &mut Report) {
    let (file, name) = (service.parent_file(), service.name());
    report.expect(is_pascal(name), &file, "SERVICE_PASCAL_CASE", name);
    report.expect(name.ends_with("Service"), &file, "SERVICE_SUFFIX", name);
    report.commented(&file, service.path(), "COMMENT_SERVICE", name);
    for method in service.methods() {
        let rpc = method.full_name();
        report.expect(is_pascal(method.name()), &file, "RPC_PASCAL_CASE", rpc);
        report.commented(&file, method.path(), "COMMENT_RPC", rpc);
        let ends = [(method.input(), "Request"), (method.output(), "Response")];
        for (message, suffix) in ends {
            let rule = format!("RPC_{}_STANDARD_NAME", suffix.to_uppercase());
            let standard = format!("{}{suffix}", method.name());
            let standard = [format!("{name}{standard}"), standard];
            let free = FREE_MESSAGE_NAMES.contains(&rpc);
            report.expect(free || standard.iter().any(|s| s == message.name()), &file, &rule, rpc);
            let used = report.rpc_messages.entry(message.full_name().to_owned()).or_default();
            used.push(format!("{rpc} ({suffix})"));
        }
    }
}

/// Whether the element at `path` has a comment with words directly above it.
fn has_comment(file: &FileDescriptorProto, path: &[i32]) -> bool {
    let locations = file.source_code_info.as_ref().map(|info| info.location.as_slice()).unwrap_or_default();
    let mut comments =
        locations.iter().filter(|location| location.path == path).map(|l| l.leading_comments());
    comments.any(|text| text.chars().any(char::is_alphabetic))
}

fn is_versioned(package: &str) -> bool {
    let version = package.rsplit('.').next().and_then(|last| last.strip_prefix('v')).unwrap_or_default();
    let digits = version.trim_end_matches("alpha").trim_end_matches("beta");
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_lower_snake(name: &str) -> bool {
    let allowed = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    allowed && !name.is_empty() && !name.starts_with('_') && !name.ends_with('_') && !name.contains("__")
}

fn is_upper_snake(name: &str) -> bool {
    !name.bytes().any(|b| b.is_ascii_lowercase()) && is_lower_snake(&name.to_lowercase())
}

fn is_pascal(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// `TaskState` to `TASK_STATE`.
fn upper_snake(pascal: &str) -> String {
    let mut snake = String::new();
    for (at, c) in pascal.char_indices() {
        if at > 0 && c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_uppercase());
    }
    snake
}

/// Violations of a file `name` with `text`, reduced to the names of the rules.
fn rules_broken_by(name: &str, text: &str) -> BTreeSet<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, text).unwrap();
    let mut compiler = protox::Compiler::new([dir.path()]).unwrap();
    compiler.include_source_info(true).include_imports(true).open_file(&path).unwrap();
    let found = violations(&compiler.encode_file_descriptor_set());
    found.into_iter().map(|line| line.split(": ").nth(1).unwrap().to_owned()).collect()
}

#[test]
fn a_tidy_file_breaks_no_rule() {
    let text = "syntax = \"proto3\"; package a.v1;
        // A thing.
        message Thing {
            // Its name.
            string name = 1;
            // Its size, if known.
            optional uint32 size = 2;
            // Its labels.
            map<string, string> labels = 3;
        }";
    assert_eq!(rules_broken_by("a/v1/thing.proto", text), BTreeSet::new());
}

#[test]
fn every_rule_bites() {
    let message = |body: &str| format!("syntax = \"proto3\"; package a.v1;\n{body}");
    let service = |body: &str| {
        message(&format!(
            "// M.\nmessage GetRequest {{}}\n// M.\nmessage GetResponse {{}}\n// M.\nmessage PutRequest {{}}\n// M.\nmessage PutResponse {{}}\n{body}"
        ))
    };
    let things = "a/v1/things.proto";
    let things_service = "a/v1/thing_service.proto";
    let cases = [
        ("PACKAGE_DIRECTORY_MATCH", "b/v1/things.proto", message("")),
        ("PACKAGE_VERSION_SUFFIX", "a/things.proto", "syntax = \"proto3\"; package a;".to_owned()),
        ("FILE_LOWER_SNAKE_CASE", "a/v1/Things.proto", message("")),
        ("SYNTAX_SPECIFIED", things, "syntax = \"proto2\"; package a.v1;".to_owned()),
        ("IMPORT_NO_PUBLIC", things, message("import public \"google/protobuf/duration.proto\";")),
        (
            "NO_EMPTY",
            things,
            message(
                "import \"google/protobuf/empty.proto\";\n// M.\nmessage M {\n// E.\ngoogle.protobuf.Empty e = 1; }",
            ),
        ),
        ("SERVICE_FILE", things, message("// S.\nservice XService {}")),
        ("SERVICE_FILE", things_service, message("")),
        ("SERVICE_FILE", things_service, message("// S.\nservice XService {}\n// M.\nmessage Stray {}")),
        ("MESSAGE_PASCAL_CASE", things, message("// M.\nmessage some_thing {}")),
        ("FIELD_LOWER_SNAKE_CASE", things, message("// M.\nmessage M {\n// F.\nstring someName = 1; }")),
        (
            "ONEOF_LOWER_SNAKE_CASE",
            things,
            message("// M.\nmessage M {\n// O.\noneof Kind {\n// F.\nstring a = 1; } }"),
        ),
        (
            "ENUM_PASCAL_CASE",
            things,
            message(
                "// E.\nenum K {\n// Z.\nK_UNSPECIFIED = 0; }\n// M.\nmessage M {\n// E.\nenum _k {\n// Z.\n_K_UNSPECIFIED = 0; } }",
            ),
        ),
        (
            "ENUM_VALUE_PREFIX",
            things,
            message("// E.\nenum Kind {\n// Z.\nKIND_UNSPECIFIED = 0;\n// B.\nBIG = 1; }"),
        ),
        (
            "ENUM_VALUE_UPPER_SNAKE_CASE",
            things,
            message("// E.\nenum Kind {\n// Z.\nKIND_UNSPECIFIED = 0;\n// B.\nKIND_big = 1; }"),
        ),
        ("ENUM_ZERO_VALUE_SUFFIX", things, message("// E.\nenum Kind {\n// Z.\nKIND_BIG = 0; }")),
        (
            "ENUM_NO_ALLOW_ALIAS",
            things,
            message(
                "// E.\nenum Kind {\noption allow_alias = true;\n// Z.\nKIND_UNSPECIFIED = 0;\n// Z.\nKIND_ZERO = 0; }",
            ),
        ),
        ("SERVICE_SUFFIX", things_service, service("// S.\nservice Things {}")),
        ("SERVICE_PASCAL_CASE", things_service, service("// S.\nservice things_Service {}")),
        (
            "RPC_PASCAL_CASE",
            things_service,
            service("// S.\nservice XService {\n// R.\nrpc get(GetRequest) returns (GetResponse); }"),
        ),
        (
            "RPC_REQUEST_STANDARD_NAME",
            things_service,
            service("// S.\nservice XService {\n// R.\nrpc Get(PutRequest) returns (GetResponse); }"),
        ),
        (
            "RPC_RESPONSE_STANDARD_NAME",
            things_service,
            service("// S.\nservice XService {\n// R.\nrpc Get(GetRequest) returns (PutResponse); }"),
        ),
        (
            "RPC_REQUEST_RESPONSE_UNIQUE",
            things_service,
            service(
                "// S.\nservice XService {\n// R.\nrpc Get(GetRequest) returns (GetResponse);\n// R.\nrpc Put(GetRequest) returns (PutResponse); }",
            ),
        ),
        ("COMMENT_MESSAGE", things, message("message M {}")),
        ("COMMENT_FIELD", things, message("// M.\nmessage M { string a = 1; }")),
        ("COMMENT_ONEOF", things, message("// M.\nmessage M { oneof k {\n// F.\nstring a = 1; } }")),
        ("COMMENT_ENUM", things, message("enum Kind {\n// Z.\nKIND_UNSPECIFIED = 0; }")),
        ("COMMENT_ENUM_VALUE", things, message("// E.\nenum Kind { KIND_UNSPECIFIED = 0; }")),
        ("COMMENT_SERVICE", things_service, service("service XService {}")),
        (
            "COMMENT_RPC",
            things_service,
            service("// S.\nservice XService { rpc Get(GetRequest) returns (GetResponse); }"),
        ),
    ];
    for (rule, file, text) in &cases {
        let broken = rules_broken_by(file, text);
        assert!(broken.contains(*rule), "{rule} did not notice:\n{text}\nbut {broken:?}");
    }
}
